"""
# The files of paths

A path is a file, or a folder, of which a pattern takes some files. What it leaves out is said, with the pattern that
would take it.
"""
import codecs
import collections
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.reading.files import COMPRESSED, expand_path, open_text
from labml_mlm.reading.folder import FolderFiles, files_in
from labml_mlm.reading.texts import OF_FOLDERS

# The pattern of all files whose suffix is that of a text
ALL_TEXTS = '**/*'
# Kinds of files that a message names, and bytes that tell whether one is text
_MAX_KINDS, _SAMPLE = 5, 1 << 12


class Listing(NamedTuple):
    """Files to read, in order."""
    files: list[Path]
    # What they are called within the folders where they were found
    names: list[str]
    # For people: what was left out
    notes: list[str]


def as_paths(value: str | Path | Iterable[str | Path], *, item: str) -> list[str]:
    """
    The paths that an item has: one of type `str` is one path. Raises `UserError` if one of them is empty.

    * `item` is its name
    """
    if isinstance(value, str | os.PathLike):
        return [str(value)] if str(value) else []
    paths = [str(path) for path in value]
    if not all(paths):
        raise UserError(f'{item}={",".join(paths)}: one of its paths is empty')
    return paths


def list_files(paths: Sequence[str | Path], pattern: str, *, item: str, text_format: str = 'auto') -> Listing:
    """
    The files that paths lead to, in the order of the paths, each file once.

    * `pattern` is for folders; `**/*` is all files with the suffix of a text
    * `item` has the paths, for messages
    * `text_format` says which suffixes those are

    Raises `UserError` if there is no file in a folder.
    """
    files, names, notes, repeated, seen, taken = [], [], [], [], set(), set()
    for path in map(expand_path, paths):
        found = [path]
        if path.is_dir():
            found, notes_of_path = list_text_files(path, pattern, text_format=text_format)
            notes += notes_of_path
        for file in found:
            real = os.path.realpath(file)
            if real in seen:
                repeated.append(file)
                continue
            seen.add(real)
            files.append(file)
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            name = f'{path.name}/{name}' if path.is_dir() and len(paths) > 1 else name
            names.append(str(file) if name in taken else name)
            taken.add(names[-1])
    if repeated:
        more = f' and {len(repeated) - 1:,} more files are' if len(repeated) > 1 else ' is'
        notes.append(f'{repeated[0]}{more} read once: two paths of {item} lead there')
    return Listing(files, names, notes)


def list_text_files(folder: str | Path, pattern: str, *, text_format: str = 'auto') -> FolderFiles:
    """
    The files in `folder` that match `pattern`, as `files_in` finds them; for `**/*`, those with the suffix of a text.

    Raises `UserError` if there is none.
    """
    folder = expand_path(folder)
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder' if folder.exists() else f'there is no folder {folder}')
    suffixes = OF_FOLDERS[text_format]
    found, notes = files_in(folder, pattern)
    files = [path for path in found if pattern != ALL_TEXTS or _text_suffixes(path)[0] in suffixes]
    more = _left_out(folder, found, files)
    if not files:
        raise UserError(f'there is no text in {folder}: ' + (
            f'no file ends in {", ".join(suffixes)}, or in one of those and {" or ".join(COMPRESSED)}. '
            + (more[0] if more else "For others, give a text_glob such as '**/*.py'")
            if pattern == ALL_TEXTS else f'no file matches {pattern}'))
    return FolderFiles(files, notes + more)


def _text_suffixes(path: Path) -> tuple[str, str]:
    """The suffix of a file, in lower case, and the whole of it: `.txt` and `.txt.gz`."""
    if path.suffix.lower() in COMPRESSED and (inner := Path(path.stem).suffix):
        return inner.lower(), inner + path.suffix
    return path.suffix.lower(), path.suffix


def _left_out(folder: Path, found: list[Path], taken: list[Path]) -> list[str]:
    """What is not taken of what was found, in words, with a pattern that takes it; nothing if all is taken."""
    left_out = collections.defaultdict(list)
    for path in set(found) - set(taken):
        left_out[_text_suffixes(path)[1]].append(path)
    if not left_out:
        return []
    kinds = sorted(left_out.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    named = [f'{len(paths):,} {suffix or "without a suffix"}' for suffix, paths in kinds[:_MAX_KINDS]]
    if others := kinds[_MAX_KINDS:]:
        named.append(f'{sum(len(paths) for _, paths in others):,} of {len(others):,} other kinds')
    texts = [suffix for suffix, paths in kinds[:_MAX_KINDS] if suffix and _is_text(min(paths))]
    message = f'{folder}: files that are left out by their suffix: {", ".join(named)}'
    if not texts:
        return [message]
    suffixes = [suffix.removeprefix('.') for suffix in [*sorted({_text_suffixes(path)[1] for path in taken}), *texts]]
    inner = suffixes[0] if len(suffixes) == 1 else f'{{{",".join(suffixes)}}}'
    return [f"{message}; text_glob='**/*.{inner}' takes {', '.join(texts)}, too" if taken else
            f"{message}; text_glob='**/*.{inner}' takes {', '.join(texts)}"]


def _is_text(path: Path) -> bool:
    """Does a file look like text by its beginning?"""
    try:
        with open_text(path) as f:
            sample = f.read(_SAMPLE)
        # Whose last character may be cut
        codecs.getincrementaldecoder('utf-8')().decode(sample)
    except UserError:
        # It is changing: that is said when it is read
        return True
    except Exception:  # of any kind, as for `open_text`
        return False
    return bool(sample) and b'\0' not in sample
