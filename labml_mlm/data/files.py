"""Which files are texts, and how each is opened."""

import glob
import gzip
import io
import os
from pathlib import Path
from typing import Any

from labml_mlm.common.errors import UserError

# Bytes that are unpacked at once
_CHUNK = 1 << 22
_SUFFIXES = '.txt', '.md', '.jsonl'
_PACKED = '.gz', '.zst'
# The pattern of all files whose names are those of texts
ALL_TEXTS = '**/*'


def expanded(path: str | Path) -> Path:
    """A path with `~` for the home folder. Raises `UserError` if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UserError(f'cannot read {path}: {e}') from None


def folder_files(folder: str | Path, pattern: str) -> list[Path]:
    """
    The files in `folder` that `pattern` takes, sorted by name; of `**/*`, which takes all, those whose names are those
    of texts.

    Raises `UserError` if there is none.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder' if folder.exists() else f'there is no folder {folder}')
    found = sorted(Path(path) for path in glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True))
    files = [path for path in found if path.is_file() and (pattern != ALL_TEXTS or kind_of(path) in _SUFFIXES)]
    if not files:
        raise UserError(f'there is no text in {folder}: ' + (
            f'no file ends in {", ".join(_SUFFIXES)}, or in one of those and {" or ".join(_PACKED)}. '
            "text_glob='**/*.py' or the like takes others"
            if pattern == ALL_TEXTS else f'{pattern} takes no file'))
    return files


def kind_of(path: Path) -> str:
    """What a file is, by its name; a packed one by what is in it."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _PACKED else path.suffix.lower()


def open_text(path: Path) -> Any:
    """A file as bytes, unpacked. Raises `OSError`; so may reading it, or `EOFError`, or what a decompressor has."""
    if path.suffix.lower() == '.gz':
        return gzip.open(path, 'rb')
    if path.suffix.lower() == '.zst':
        import zstandard

        return io.BufferedReader(zstandard.open(path, 'rb'), _CHUNK)
    return open(path, 'rb')

