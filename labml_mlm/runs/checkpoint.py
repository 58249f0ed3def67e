r"""
# Checkpoints: whole or not there, checked, and nothing in them can execute

A checkpoint is a folder `<labml's run folder>/checkpoints/<global step>` with

* `model.safetensors` and `optimizer.safetensors`, the tensors;
* the files of the tokenizer, if it has any: `tokenizer.json`;
* `checkpoint.json`, everything else. It has size and SHA-256 of each of the other files, and of itself.

Nothing is pickled: to load a stranger's checkpoint is to read numbers and text.

## Why a kill at any instant leaves the last complete checkpoint loadable

Let $C_s$ be the folder named $s$. A save of $s$ goes through these states, and a kill, or the power going, stops it in
one of them:

1. `.s.tmp` is written: files, their `fsync`, then the `fsync` of the folder. No complete checkpoint is touched.
2. If there is a $C_s$ already (a run that was interrupted in a validation saves twice at one step), it is renamed to
   `.s.old`. From here on `.s.tmp` is complete and on the disk.
3. `.s.tmp` is renamed to `s`. A rename is atomic on POSIX file systems: there is a whole $C_s$ or none. The `fsync` of
   `checkpoints` makes it last, and only then is anything older removed.
4. What is removed is renamed to `.x.old` first, so that no folder with a number for a name is ever half there.

So a folder with a number for a name is complete, always. Only between 2 and 3 is $s$ without one, and then `.s.tmp` is
it: whoever looks for checkpoints takes a hidden folder for its number if that number has none and the checksums of the
hidden one are right (`folders`). The next start of the run puts it in its place and removes the leftovers (`clean`).

The checksums are for what an `fsync` cannot promise: disks that lie, copies that were cut short, files that were
edited. A checkpoint that does not match them is `Damaged`, and the one before it is used.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import sync_folder

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENT = 'checkpoint.json'
FORMAT = 1


class Damaged(UserError):
    """A checkpoint that is not what was written."""


class Checkpoint(NamedTuple):
    """A checkpoint whose `checkpoint.json` was read and is right; its other files are not looked at before `check`."""
    path: Path
    document: dict

    @property
    def step(self) -> int:
        """labml's global step."""
        return self.document['step']

    @property
    def valid(self) -> dict | None:
        """`loss` and `accuracy` of the validation that it was written at, if it was."""
        return self.document.get('valid')

    def check(self):
        """Reads all files. Raises `Damaged` if one of them is not what was written."""
        for name, written in self.document['files'].items():
            with _readable(self.path / name):
                n_bytes, sha256 = _measure(self.path / name)
            if n_bytes != written['bytes']:
                raise Damaged(f'{self.path / name} has {n_bytes:,} bytes, and not the {written["bytes"]:,} written')
            if sha256 != written['sha256']:
                raise Damaged(f'{self.path / name} was altered: its SHA-256 differs')

    def tensors(self, name: str) -> dict[str, 'Tensor']:
        """The tensors of `name.safetensors`, on the CPU."""
        from safetensors.torch import load_file  # and torch with it, which a list of runs does without
        return load_file(self.path / f'{name}.safetensors')


def write(folder: Path, step: int, *, tensors: dict[str, dict[str, 'Tensor']], document: dict,
          texts: dict[str, str] | None = None):
    """
    Writes a checkpoint as a whole or not at all, and returns when it is on the disk.

    * `folder` is `checkpoints` of the run; it is made if need be
    * `tensors` are those of each file, contiguous and on the CPU
    * `document` is what else there is, for JSON
    * `texts` are further files, by name

    Raises `OSError` if that fails; older checkpoints are as they were then.
    """
    temporary, final = folder / f'.{step}.tmp', folder / str(step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        files = {f'{name}.safetensors': _write_tensors(temporary / f'{name}.safetensors', of_file)
                 for name, of_file in tensors.items()}
        for name, text in (texts or {}).items():
            files[name] = _write_text(temporary / name, text)
        document = {'format': FORMAT, 'step': step, **document, 'files': files}
        with open(temporary / DOCUMENT, 'x') as f:
            json.dump({**document, 'sha256': _sha256(document)}, f)
            f.flush()
            os.fsync(f.fileno())
        sync_folder(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    old = _set_aside(final) if final.exists() else None
    os.rename(temporary, final)
    sync_folder(folder)
    # `checkpoints` itself, and the files beside it
    sync_folder(folder.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises `Damaged` if its `checkpoint.json` is missing or not what was written."""
    try:
        with _readable(path / DOCUMENT):
            document = json.loads((path / DOCUMENT).read_bytes())
        sha256 = document.pop('sha256')
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f'{path / DOCUMENT} is no checkpoint, or was cut short') from None
    if sha256 != _sha256(document):
        raise Damaged(f'{path / DOCUMENT} was altered: its SHA-256 differs')
    if document['format'] > FORMAT:
        raise UserError(f'{path} has format {document["format"]}, and this labml_mlm reads up to {FORMAT}: '
                        f'it was written by a newer one')
    return Checkpoint(path, document)


def folders(folder: Path) -> dict[int, Path]:
    """The complete checkpoints of a run by step, ascending; damaged ones too, which nobody has looked into yet."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = {int(name): folder / name for name in names if name.isdecimal()}
    for kind in ('tmp', 'old'):
        for name in names:
            match = re.fullmatch(rf'\.(\d+)\.{kind}', name)
            if match and int(match[1]) not in found and _is_intact(folder / name):
                found[int(match[1])] = folder / name
    return dict(sorted(found.items()))


def clean(folder: Path):
    """Puts a checkpoint that was complete but not yet in its place there, and removes what a kill has left behind."""
    for step, path in folders(folder).items():
        if path.name.startswith('.'):
            os.rename(path, folder / str(step))
    for path in folder.glob('.*.*'):
        if re.fullmatch(r'\.\d+\.(tmp|old)', path.name):
            shutil.rmtree(path)


def prune(folder: Path, *, keep: int):
    """Removes all but the last `keep` checkpoints and the best."""
    found, best = folders(folder), best_of(folder)
    kept = {*list(found)[-keep:], best.step if best else None}
    for step, path in found.items():
        if step not in kept:
            remove(path)


def remove(path: Path):
    """Removes a checkpoint, at no instant leaving half of it under its name."""
    shutil.rmtree(_set_aside(path))


def last_of(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint that is as it was written, and what is wrong with each that came after it."""
    wrong = []
    for path in reversed(folders(folder).values()):
        try:
            checkpoint = read(path)
            checkpoint.check()
        except Damaged as e:
            if not path.exists():
                # A run that goes on has removed it meanwhile, and has newer ones
                return last_of(folder)
            wrong.append(str(e))
        else:
            return checkpoint, wrong
    return None, wrong


def best_of(folder: Path) -> Checkpoint | None:
    """The checkpoint with the lowest validation loss, if any has one; of equal ones the later."""
    best = None
    for path in folders(folder).values():
        try:
            checkpoint = read(path)
        except UserError:
            continue
        if checkpoint.valid is None or checkpoint.valid['loss'] != checkpoint.valid['loss']:  # not a number
            continue
        if best is None or checkpoint.valid['loss'] <= best.valid['loss']:
            best = checkpoint
    return best


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as e:
        raise Damaged(f'{path}: {e.strerror}') from None
    except OSError as e:
        # It may be as it was written
        raise UserError(f'cannot read {path}: {e.strerror}') from None


def _set_aside(path: Path) -> Path:
    old = path.with_name(f'.{path.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    return path.rename(old)


def _write_tensors(path: Path, tensors: dict[str, 'Tensor']) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    try:
        save_file(tensors, path)
    except SafetensorError as e:
        raise OSError(f'{path}: {e}') from None
    # safetensors makes files for their owner only, whatever the umask
    path.chmod(path.parent.stat().st_mode & 0o666)
    with open(path, 'rb') as f:
        os.fsync(f.fileno())
    n_bytes, sha256 = _measure(path)
    return {'bytes': n_bytes, 'sha256': sha256}


def _write_text(path: Path, text: str) -> dict:
    with open(path, 'w', encoding='utf-8', newline='') as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    n_bytes, sha256 = _measure(path)
    return {'bytes': n_bytes, 'sha256': sha256}


def _measure(path: Path) -> tuple[int, str]:
    with open(path, 'rb') as f:
        return os.fstat(f.fileno()).st_size, hashlib.file_digest(f, 'sha256').hexdigest()


def _sha256(document: dict) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _is_intact(path: Path) -> bool:
    try:
        read(path).check()
    except UserError:
        return False
    return True

