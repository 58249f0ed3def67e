"""Files, compressed or not: their suffixes, and their content."""
import gzip
import io
from pathlib import Path
from typing import Any

from labml_mlm.common.files import expand_home, refuse_address

COMPRESSED = '.gz', '.zst'
# Bytes that are decompressed at once
_DECOMPRESSED = 1 << 22


def expand_path(path: str | Path) -> Path:
    """A path with `~` expanded. Raises `UserError` if there is no such user, and for an address."""
    refuse_address(path)
    return expand_home(path)


def text_suffix(path: Path) -> str:
    """The suffix of a file, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def open_text(path: Path) -> Any:
    """A file as bytes, decompressed. Opening raises `OSError`; reading may, too, or what a decompressor raises."""
    if path.suffix.lower() == '.gz':
        return gzip.open(path, 'rb')
    if path.suffix.lower() == '.zst':
        import zstandard

        return io.BufferedReader(zstandard.open(path, 'rb'), _DECOMPRESSED)
    return open(path, 'rb')


def what_failed(error: Exception) -> str:
    """In words, what `open_text` and reading from it raised."""
    if isinstance(error, OSError | EOFError):
        return f'cannot be read: {getattr(error, "strerror", None) or error}'
    return f'cannot be decompressed: {error}'
