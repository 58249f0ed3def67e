r"""
# A checkpoint: complete or absent, verified, and nothing in it can execute

A checkpoint is a folder `<run folder>/checkpoints/<global step>` with

* `model.safetensors` and `optimizer.safetensors`, the tensors;
* the files of the tokenizer, if it has any: `tokenizer.json`;
* `checkpoint.json`, everything else. It has size and SHA-256 of each of the other files, and of itself.

Nothing is pickled: loading a stranger's checkpoint reads numbers and text.

`CheckpointFolder` keeps the checkpoints of a run.
"""
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import sync_folder, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

METADATA = 'checkpoint.json'
FORMAT = 1


class Damaged(UserError):
    """A checkpoint that differs from what was written."""


class Checkpoint(NamedTuple):
    """A checkpoint whose `checkpoint.json` was read and is intact; `verify` reads the other files."""
    path: Path
    metadata: dict

    @property
    def step(self) -> int:
        """labml's global step: training tokens."""
        return self.metadata['step']

    @property
    def valid(self) -> dict | None:
        """`loss` and `accuracy` of the validation at this step, if there was one."""
        return self.metadata.get('valid')

    @property
    def is_before_decay(self) -> bool:
        """Was it saved, with lr_schedule=wsd, where the decay of the learning rate begins?"""
        return bool(self.metadata.get('before_decay'))

    def verify(self):
        """Reads all files. Raises `Damaged` if one of them differs from what was written."""
        for name, written in self.metadata['files'].items():
            with _readable(self.path / name):
                n_bytes, sha256 = _measure(self.path / name)
            if n_bytes != written['bytes']:
                raise Damaged(f'{self.path / name} has {n_bytes:,} bytes, but {written["bytes"]:,} were written')
            if sha256 != written['sha256']:
                raise Damaged(f'{self.path / name} was altered: its SHA-256 differs')

    def load_tensors(self, name: str) -> dict[str, 'Tensor']:
        """The tensors of `name.safetensors`, on the CPU."""
        from safetensors.torch import load_file  # and with it torch, which a list of runs does without
        return load_file(self.path / f'{name}.safetensors')


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises `Damaged` if its `checkpoint.json` is missing or altered."""
    try:
        with _readable(path / METADATA):
            metadata = json.loads((path / METADATA).read_bytes())
        sha256 = metadata.pop('sha256')
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f'{path / METADATA} is not a checkpoint, or was cut short') from None
    if sha256 != _sha256(metadata):
        raise Damaged(f'{path / METADATA} was altered: its SHA-256 differs')
    if metadata['format'] > FORMAT:
        raise UserError(f'{path} has format {metadata["format"]}, and this labml_mlm reads formats up to {FORMAT}: '
                        f'a newer version wrote it')
    return Checkpoint(path, metadata)


def write_files(folder: Path, step: int, *, tensors: dict[str, dict[str, 'Tensor']], metadata: dict,
                texts: dict[str, str]):
    """
    Writes the files of a checkpoint into a new folder. They are on the disk when this returns.

    * `tensors` by file and name, contiguous and on the CPU
    * `metadata` is everything else, for JSON
    * `texts` are further files by name

    Raises `OSError` if that fails, and removes the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        files = {f'{name}.safetensors': _write_tensors(folder / f'{name}.safetensors', of_file)
                 for name, of_file in tensors.items()}
        for name, text in texts.items():
            files[name] = _write_text(folder / name, text)
        metadata = {'format': FORMAT, 'step': step, **metadata, 'files': files}
        _write_text(folder / METADATA, _with_sha256(metadata))
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def mark_before_decay(path: Path):
    """Marks the checkpoint in a folder as one from before the decay of the learning rate. Raises what `read` does."""
    write_atomically(path / METADATA, _with_sha256({**read(path).metadata, 'before_decay': True}).encode())


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as e:
        raise Damaged(f'{path}: {e.strerror}') from None
    except OSError as e:
        # The file may be intact
        raise UserError(f'cannot read {path}: {e.strerror}') from None


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


def _with_sha256(metadata: dict) -> str:
    """What `read` reads."""
    return json.dumps({**metadata, 'sha256': _sha256(metadata)})


def _sha256(metadata: dict) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
