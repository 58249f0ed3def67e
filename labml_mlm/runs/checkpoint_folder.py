r"""
# The checkpoints of a run

## Why the last complete checkpoint survives a kill at any instant

Let $C_s$ be the folder named $s$. A save of step $s$ goes through these states, and a kill, or a power failure, stops
it in one of them:

1. `.s.tmp` is written: files, their `fsync`, then the `fsync` of the folder. No complete checkpoint is touched.
2. If there is a $C_s$ already (a run that was interrupted in a validation saves twice at one step), it is renamed to
   `.s.old`. From here on `.s.tmp` is complete and on the disk.
3. `.s.tmp` is renamed to `s`. A rename is atomic on POSIX file systems: there is a whole $C_s$ or none. The `fsync` of
   `checkpoints` makes it durable, and only then is anything older removed.
4. A checkpoint is renamed to `.x.old` before it is removed, so no folder with a number for a name is ever partial.

So a folder with a number for a name is complete, always. Only between 2 and 3 does $s$ lack one, and then `.s.tmp` is
complete: `steps` takes a hidden folder for its number if that number has no other and its checksums are right. The next
start of the run renames it and removes the leftovers (`recover`).

The checksums are for what an `fsync` cannot promise: faulty disks, truncated copies, edited files. A checkpoint that
does not match them is `Damaged`, and the one before it is used.
"""
import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import sync_folder
from labml_mlm.runs.checkpoint import Checkpoint, Damaged, read, write_files

if TYPE_CHECKING:
    from torch import Tensor


class CheckpointFolder:
    """
    ## The folder `checkpoints` of a run

    * `path` is the folder; it need not exist
    """

    def __init__(self, path: Path):
        self.path = path

    def steps(self) -> dict[int, Path]:
        """The complete checkpoints by step, ascending. Damaged ones are among them: their files are not read."""
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        found = {int(name): self.path / name for name in names if name.isdecimal()}
        for kind in ('tmp', 'old'):
            for name in names:
                match = re.fullmatch(rf'\.(\d+)\.{kind}', name)
                if match and int(match[1]) not in found and _is_intact(self.path / name):
                    found[int(match[1])] = self.path / name
        return dict(sorted(found.items()))

    def last(self) -> tuple[Checkpoint | None, list[str]]:
        """The last intact checkpoint, and what is wrong with each one after it."""
        wrong = []
        for path in reversed(self.steps().values()):
            try:
                checkpoint = read(path)
                checkpoint.verify()
            except Damaged as e:
                if not path.exists():
                    # A resumed run has removed it meanwhile, and has newer ones
                    return self.last()
                wrong.append(str(e))
            else:
                return checkpoint, wrong
        return None, wrong

    def best(self) -> Checkpoint | None:
        """
        The checkpoint with the lowest validation loss, or the best by what the run goes by, if any has one; the later
        of equal ones.
        """
        best = None
        for path in self.steps().values():
            try:
                checkpoint = read(path)
            except UserError:
                continue
            value = checkpoint.to_minimize
            if value is not None and value == value and (best is None or value <= best.to_minimize):
                best = checkpoint
        return best

    def before_decay(self) -> Checkpoint | None:
        """The last intact checkpoint from before the decay of the learning rate, with lr_schedule=wsd, if any."""
        for checkpoint in reversed(self._all_before_decay()):
            with contextlib.suppress(UserError):
                checkpoint.verify()
                return checkpoint
        return None

    def _all_before_decay(self) -> list[Checkpoint]:
        """All of them by step, ascending, intact or not: a run may have become longer after its decay began."""
        found = []
        for path in self.steps().values():
            with contextlib.suppress(UserError):
                found.append(read(path))
        return [checkpoint for checkpoint in found if checkpoint.is_before_decay]

    def write(self, step: int, *, tensors: dict[str, dict[str, 'Tensor']], metadata: dict,
              texts: dict[str, str] | None = None):
        """
        Writes a checkpoint, as a whole or not at all. It is on the disk when this returns; the arguments are those of
        `write_files`.

        Raises `OSError` if that fails, and leaves older checkpoints as they were.
        """
        temporary, final = self.path / f'.{step}.tmp', self.path / str(step)
        write_files(temporary, step, tensors=tensors, metadata=metadata, texts=texts or {})
        old = _set_aside(final) if final.exists() else None
        os.rename(temporary, final)
        sync_folder(self.path)
        # `checkpoints` itself, and the files next to it
        sync_folder(self.path.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def prune(self, *, keep: int):
        """Removes all but the last `keep` checkpoints, the best, and the last one from before a decay."""
        found, best = self.steps(), self.best()
        before_decay = [checkpoint.step for checkpoint in self._all_before_decay()][-1:]
        kept = {*list(found)[-keep:], best.step if best else None, *before_decay}
        for step, path in found.items():
            if step not in kept:
                remove(path)

    def recover(self):
        """After a kill: renames a checkpoint that was complete but hidden, and removes leftovers."""
        for step, path in self.steps().items():
            if path.name.startswith('.'):
                os.rename(path, self.path / str(step))
        for path in self.path.glob('.*.*'):
            if re.fullmatch(r'\.\d+\.(tmp|old)', path.name):
                shutil.rmtree(path)


def remove(path: Path):
    """Removes a checkpoint. At no instant is part of it under its name."""
    shutil.rmtree(_set_aside(path))


def _set_aside(path: Path) -> Path:
    old = path.with_name(f'.{path.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    return path.rename(old)


def _is_intact(path: Path) -> bool:
    try:
        read(path).verify()
    except UserError:
        return False
    return True
