"""
# The files of a run's text

A run notes which files its text came from, so that it can tell, when it is resumed with another text, which of them
were added, removed, renamed or changed. Of a file it notes size, time, and a hash of some blocks: of all of a short
file, of parts from all over a long one.
"""
import collections
import contextlib
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labml_mlm.common.files import write_atomically
from labml_mlm.common.untrusted import is_integer, json_of

_FILE = 'text.json'
# More files are counted only
_MAX_FILES = 10_000
# Bytes of a block, and blocks of a file
_BLOCK, _N_BLOCKS = 1 << 16, 16
# Files that a message names, of a kind
_MAX_NAMED = 3


def describe_files(names: Sequence[str], paths: Sequence[Path]) -> dict[str, Any]:
    """
    What is noted of files, for JSON: their number, their bytes, and by name the size, hash and time of each, unless
    there are too many.
    """
    sizes = {}
    for name, path in zip(names, paths, strict=True):
        with contextlib.suppress(OSError):
            sizes[name] = path.stat()
    about = {'n_files': len(sizes), 'n_bytes': sum(stat.st_size for stat in sizes.values())}
    if len(sizes) > _MAX_FILES:
        return about
    files = {name: [sizes[name].st_size, _hash(path, sizes[name].st_size), sizes[name].st_mtime_ns]
             for name, path in zip(names, paths, strict=True) if name in sizes}
    return about | {'files': files}


def write_files(run: Path, described: Mapping[str, dict]):
    """Notes in the folder of a run the files of its texts, as `describe_files` gives them, by item."""
    write_atomically(run / _FILE, json.dumps(described).encode())


def read_files(run: Path) -> dict[str, dict]:
    """What `write_files` wrote; empty if it is missing, or damaged."""
    described = json_of(run / _FILE)
    return described if isinstance(described, dict) and all(map(_is_description, described.values())) else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What became of the files since, in words; empty if nothing can be told."""
    if 'files' not in before or 'files' not in now:
        names = 'n_files', 'n_bytes'
        return '' if all(before.get(name) == now.get(name) for name in names) or 'n_files' not in before else \
            f'{before["n_files"]:,} files with {before["n_bytes"]:,} bytes then, {now["n_files"]:,} with ' \
            f'{now["n_bytes"]:,} now'
    before, now = before['files'], now['files']
    changed = [name for name in now if name in before and _is_changed(before[name], now[name])]
    # By their content
    removed = collections.defaultdict(list)
    for name in before.keys() - now.keys():
        removed[tuple(before[name][:2])].append(name)
    added, renamed = [], []
    for name in now.keys() - before.keys():
        if old := removed[tuple(now[name][:2])]:
            renamed.append(f'{old.pop()} → {name}')
        else:
            added.append(name)
    found = {'added': sorted(added), 'removed': sorted(itertools.chain(*removed.values())),
             'renamed': sorted(renamed), 'changed': changed}
    return '; '.join(f'{what} {_some(names)}' for what, names in found.items() if names)


def _is_description(value: Any) -> bool:
    """What `describe_files` gives."""
    return isinstance(value, dict) and is_integer(value.get('n_files')) and is_integer(value.get('n_bytes')) and (
        'files' not in value or isinstance(value['files'], dict) and all(map(_is_file, value['files'].values())))


def _is_file(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and isinstance(value[1], str) and all(
        map(is_integer, value[::2]))


def _is_changed(before: Sequence, now: Sequence) -> bool:
    # Between the blocks of a long file, only its time tells
    return before[:2] != now[:2] or (now[0] > _BLOCK * _N_BLOCKS and before[2] != now[2])


def _hash(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with contextlib.suppress(OSError), open(path, 'rb') as f:
        if size <= _BLOCK * _N_BLOCKS:
            digest.update(f.read(_BLOCK * _N_BLOCKS))
        else:
            for block in range(_N_BLOCKS):
                f.seek((size - _BLOCK) * block // (_N_BLOCKS - 1))
                digest.update(f.read(_BLOCK))
    return digest.hexdigest()[:16]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ', '.join(names[:_MAX_NAMED]) + (f' and {more:,} more' if more > 0 else '')
