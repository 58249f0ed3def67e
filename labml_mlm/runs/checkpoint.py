r"""
# A checkpoint: complete or absent, verified, and nothing in it can execute

A checkpoint is a folder `<run folder>/checkpoints/<global step>` with

* `model.safetensors` and `optimizer.safetensors`, the tensors;
* the files of the tokenizer, if it has any: `tokenizer.json`;
* `checkpoint.json`, everything else. It has size and SHA-256 of each of the other files, and of itself.

Nothing is pickled: loading a stranger's checkpoint reads numbers and text. It reads ordinary files in the folder
itself, and follows no link; what `checkpoint.json` says is checked before it is used.

`CheckpointFolder` keeps the checkpoints of a run.
"""
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import NotOrdinary, open_ordinary, read_ordinary, sync_folder, write_atomically
from labml_mlm.common.untrusted import is_integer, is_number, parse_json
from labml_mlm.runs.snapshot_schema import is_snapshot

if TYPE_CHECKING:
    from torch import Tensor

METADATA = 'checkpoint.json'
# Bytes of it
_MAX_METADATA = 2 ** 26
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
        """
        Figures of the validation at this step, if there was one: `loss`, `accuracy` and perhaps more. `best_by` names
        the one by which runs choose the best, if that is not the loss, and `is_best_highest` says how.
        """
        return self.metadata.get('valid')

    @property
    def to_minimize(self) -> float | None:
        """By what the best is chosen: the validation loss, or the figure that `best_by` names; may be NaN."""
        return to_minimize(self.valid)

    @property
    def about_valid(self) -> str:
        """That figure in words."""
        name = self.valid.get('best_by', 'loss')
        return f'{f"validation {name}" if name == "loss" else f"{name} in validation"}: {self.valid[name]:.4f}'

    @property
    def is_before_decay(self) -> bool:
        """Was it saved, with lr_schedule=wsd, where the decay of the learning rate begins?"""
        return bool(self.metadata.get('before_decay'))

    def verify(self):
        """Reads all files. Raises `Damaged` if one of them differs from what was written."""
        for name, written in self.metadata['files'].items():
            with _readable(self.path / name), open_ordinary(self.path / name) as f:
                # First, as it takes no time: the file may be any size
                if (n_bytes := os.fstat(f.fileno()).st_size) != written['bytes']:
                    raise Damaged(f'{self.path / name} has {n_bytes:,} bytes, but {written["bytes"]:,} were written')
                sha256 = hashlib.file_digest(f, 'sha256').hexdigest()
            if sha256 != written['sha256']:
                raise Damaged(f'{self.path / name} was altered: its SHA-256 differs')

    def load_tensors(self, name: str) -> dict[str, 'Tensor']:
        """The tensors of `name.safetensors`, on the CPU. Raises `Damaged` if it holds none."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # and with it torch, which a list of runs does without
        path = self.path / f'{name}.safetensors'
        if path.name not in self.metadata['files']:
            # It was not verified
            raise Damaged(f'{self.path / METADATA} does not name {path.name}')
        try:
            with _readable(path):
                return load_file(path)
        except SafetensorError as e:
            raise Damaged(f'{path} has no tensors that can be read: {e}') from None


def to_minimize(valid: dict | None) -> float | None:
    """`Checkpoint.to_minimize` from the figures of a validation."""
    if valid is None:
        return None
    value = valid[valid.get('best_by', 'loss')]
    return -value if valid.get('is_best_highest') else value


def read(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises `Damaged` if its `checkpoint.json` is missing or altered."""
    try:
        with _readable(path / METADATA):
            metadata = parse_json(read_ordinary(path / METADATA, max_bytes=_MAX_METADATA))
        sha256 = metadata.pop('sha256')
        is_intact = sha256 == _sha256(metadata)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f'{path / METADATA} is not a checkpoint, or was cut short') from None
    if not is_intact:
        raise Damaged(f'{path / METADATA} was altered: its SHA-256 differs')
    if not _is_number(metadata.get('format'), int):
        raise Damaged(f'{path / METADATA} is not a checkpoint: it has no format')
    if metadata['format'] > FORMAT:
        raise UserError(f'{path} has format {metadata["format"]}, and this labml_mlm reads formats up to {FORMAT}: '
                        f'a newer version wrote it')
    if wrong := [name for name, fits in _PARTS.items() if not fits(metadata.get(name))]:
        raise Damaged(f'{path / METADATA} is not a checkpoint: it has no valid `{wrong[0]}`')
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
    except (FileNotFoundError, NotADirectoryError, NotOrdinary) as e:
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
    with open_ordinary(path) as f:
        return os.fstat(f.fileno()).st_size, hashlib.file_digest(f, 'sha256').hexdigest()


def _is_number(value: Any, *kinds: type) -> bool:
    return type(value) in kinds


def _are_files(value: Any) -> bool:
    """Names in the folder, with their sizes and checksums."""
    return isinstance(value, dict) and all(
        re.fullmatch(r'[\w][\w.-]*', name) and isinstance(written, dict) and _is_number(written.get('bytes'), int)
        and isinstance(written.get('sha256'), str) for name, written in value.items())


def _are_figures(value: Any) -> bool:
    """Those of a validation; the one that the best is chosen by is a number, and the others are numbers or nothing."""
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get('best_by', 'loss'), str):
        return False
    chosen = value.get(value.get('best_by', 'loss'))
    return _is_figure(chosen) and all(figure is None or isinstance(figure, bool | str) or _is_figure(figure)
                                      for figure in value.values()) and all(
        value.get(name) is None or _is_figure(value[name]) for name in ('loss', 'accuracy'))


def _is_figure(value: Any) -> bool:
    """A number, which may be NaN."""
    return type(value) is float or is_integer(value)


def _is_progress(value: Any) -> bool:
    """How far the run had come."""
    return value is None or isinstance(value, dict) and all(
        is_number(value[name]) for name in ('seconds', 'left_out') if name in value) and all(
        is_integer(value[name]) and value[name] >= 0 for name in _COUNTS if name in value) and (
        value.get('best') is None or is_number(value['best']))


# Of the progress of a run
_COUNTS = 'epoch', 'round', 'batches', 'windows', 'steps', 'tokens', 'validations_since_best'
# What must be in `checkpoint.json`, and what it must be
_PARTS = {'step': lambda value: is_integer(value) and value >= 0, 'files': _are_files, 'valid': _are_figures,
          'configs': lambda value: value is None or is_snapshot(value), 'progress': _is_progress,
          'log_bytes': lambda value: value is None or is_integer(value) and value >= 0}


def _with_sha256(metadata: dict) -> str:
    """What `read` reads."""
    return json.dumps({**metadata, 'sha256': _sha256(metadata)})


def _sha256(metadata: dict) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
