"""Files, compressed or not: their suffixes, and their content."""
import contextlib
import gzip
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import refuse_address

COMPRESSED = '.gz', '.zst'
# Bytes that are decompressed at once
_DECOMPRESSED = 1 << 22


def expand_path(path: str | Path) -> Path:
    """A path with `~` expanded. Raises `UserError` if there is no such user, and for an address."""
    refuse_address(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UserError(f'cannot read {path}: {e}') from None


def text_suffix(path: Path) -> str:
    """The suffix of a file, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """
    Inside, a file as bytes, decompressed. Opening raises `OSError`; reading may, too, or what a decompressor raises.

    Raises `UserError` at the end if the file was changed meanwhile, as by a program that still writes to it: what was
    read may be a part of it.
    """
    with open(path, 'rb') as file:
        before = os.fstat(file.fileno())
        try:
            with _decompressed(file, path) as content:
                yield content
        except Exception:
            # Perhaps that is why
            _check_unchanged(file, before, path)
            raise
        _check_unchanged(file, before, path)


def _decompressed(file: BinaryIO, path: Path) -> Any:
    if path.suffix.lower() == '.gz':
        return gzip.open(file, 'rb')
    if path.suffix.lower() == '.zst':
        import zstandard

        return io.BufferedReader(zstandard.open(file, 'rb', closefd=False), _DECOMPRESSED)
    return contextlib.nullcontext(file)


def _check_unchanged(file: BinaryIO, before: os.stat_result, path: Path):
    now = os.fstat(file.fileno())
    if stat.S_ISREG(now.st_mode) and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UserError(was_changed(str(path), before.st_size, now.st_size))


def was_changed(name: str, before: int | None, now: int | None) -> str:
    """What is said of a file that changed while it was read; its bytes before and now, `None` if it is not there."""
    sizes = '' if before == now else ': it is not there any more' if now is None else ': it is new' if before is None \
        else f': it had {before:,} bytes, and has {now:,} now'
    return f'{name} was changed while it was read{sizes}. Begin again when nothing writes to it, or take a copy of it'


def what_failed(error: Exception) -> str:
    """In words, what `open_text` and reading from it raised."""
    if isinstance(error, OSError | EOFError):
        return f'cannot be read: {getattr(error, "strerror", None) or error}'
    return f'cannot be decompressed: {error}'
