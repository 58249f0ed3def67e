"""Which files are texts, and how each is opened."""
import glob
import gzip
import io
import os
from pathlib import Path
from typing import Any

from labml_mlm.common.errors import UserError

# Bytes that are decompressed at once
_CHUNK = 1 << 22
_SUFFIXES = '.txt', '.md', '.jsonl'
_COMPRESSED = '.gz', '.zst'
# The pattern of all files whose suffix is that of a text
ALL_TEXTS = '**/*'


def expand_path(path: str | Path) -> Path:
    """A path with `~` expanded. Raises `UserError` if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UserError(f'cannot read {path}: {e}') from None


def list_text_files(folder: str | Path, pattern: str) -> list[Path]:
    """
    The files in `folder` that match `pattern`, sorted by name; for `**/*`, those with the suffix of a text.

    Raises `UserError` if there is none.
    """
    folder = expand_path(folder)
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder' if folder.exists() else f'there is no folder {folder}')
    found = sorted(Path(path) for path in glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True))
    files = [path for path in found if path.is_file() and (pattern != ALL_TEXTS or text_suffix(path) in _SUFFIXES)]
    if not files:
        raise UserError(f'there is no text in {folder}: ' + (
            f'no file ends in {", ".join(_SUFFIXES)}, or in one of those and {" or ".join(_COMPRESSED)}. '
            "For others, give a text_glob such as '**/*.py'"
            if pattern == ALL_TEXTS else f'no file matches {pattern}'))
    return files


def text_suffix(path: Path) -> str:
    """The suffix of a file, without that of its compression."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _COMPRESSED else path.suffix.lower()


def open_text(path: Path) -> Any:
    """A file as bytes, decompressed. Opening raises `OSError`; reading may, too, or what a decompressor raises."""
    if path.suffix.lower() == '.gz':
        return gzip.open(path, 'rb')
    if path.suffix.lower() == '.zst':
        import zstandard

        return io.BufferedReader(zstandard.open(path, 'rb'), _CHUNK)
    return open(path, 'rb')
