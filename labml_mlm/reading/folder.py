"""
# The files of a folder, each once

A file that has several names, by links of either kind, is read under one of them, and a link to a folder that is being
read leads nowhere new. Folders and files come under their own names first, then what only links lead to.
"""
import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labml_mlm.common.errors import UserError

_ALTERNATIVES = re.compile(r'\{([^{}]*,[^{}]*)\}')
_KINDS = {stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket', stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}

# What tells files apart, whatever their names: device and inode
_Identity = tuple[int, int]


class FolderFiles(NamedTuple):
    """What was found."""
    # Sorted by name
    files: list[Path]
    # For people: what was left out, and what links lead to
    notes: list[str]


def files_in(folder: Path, pattern: str) -> FolderFiles:
    """
    The files below a folder whose path in it matches `pattern`: `*` and `?` are parts of a name, `**` is any folders,
    `{a,b}` is either one. Names with a dot in front are found by patterns with one.

    Raises `UserError` for a pattern that leads out of the folder.
    """
    patterns = [_parts(one) for one in _alternatives(pattern)]
    return _Walk(folder, patterns).found()


def _alternatives(pattern: str) -> Iterator[str]:
    if found := _ALTERNATIVES.search(pattern):
        for part in found[1].split(','):
            yield from _alternatives(pattern[:found.start()] + part + pattern[found.end():])
    else:
        yield pattern


def _parts(pattern: str) -> tuple[str, ...]:
    parts = tuple(part for part in pattern.split('/') if part not in ('', '.'))
    if pattern.startswith('/') or '..' in parts:
        raise UserError(f'the pattern {pattern} leads out of the folder: give the other folder as a path')
    return (*parts, '*') if parts[-1:] == ('**',) else parts


class _Walk:
    """What is found on the way through a folder."""

    def __init__(self, folder: Path, patterns: list[tuple[str, ...]]):
        self._folder, self._patterns = folder, patterns
        self._files: list[Path] = []
        self._notes: list[str] = []
        # What was read already, links that were not followed yet, and names that lead to what was read
        self._seen: set[_Identity] = set()
        self._links: list[Path] = []
        self._repeated: list[Path] = []

    def found(self) -> FolderFiles:
        self._visit(self._folder)
        while self._links:
            # Those within what links lead to come last
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)
        if self._repeated:
            first, more = min(self._repeated), len(self._repeated) - 1
            self._notes.append(f'{first}{f" and {more:,} more" if more else ""}: what this leads to is read under '
                               f'another name already')
        return FolderFiles(sorted(self._files), self._notes)

    def _visit(self, folder: Path):
        """Everything in a folder that is no link, and the links for later."""
        folders = [folder]
        while folders:
            folder = folders.pop()
            try:
                status = folder.stat()
                if not self._is_new(status):
                    continue
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as e:
                self._notes.append(f'{folder}: cannot be read: {e.strerror}')
                continue
            for entry in entries:
                path = folder / entry.name
                if entry.is_symlink():
                    self._links.append(path)
                elif entry.is_dir():
                    if self._may_hold(path):
                        folders.append(path)
                elif self._is_match(path):
                    self._add(path)

    def _follow(self, link: Path):
        try:
            status = link.stat()
        except OSError as e:
            if self._is_match(link):
                self._notes.append(f'{link}: cannot be read: {e.strerror}')
            return
        if not stat.S_ISDIR(status.st_mode):
            if self._is_match(link):
                self._add(link)
        elif not self._may_hold(link):
            pass
        elif (status.st_dev, status.st_ino) in self._seen:
            self._repeated.append(link)
        else:
            target = os.path.realpath(link)
            if not Path(target).is_relative_to(os.path.realpath(self._folder)):
                self._notes.append(f'{link} leads out of the folder, to {target}, and is read, too')
            self._visit(link)

    def _add(self, path: Path):
        """A file, if it is one, and new."""
        try:
            status = path.stat()
        except OSError as e:
            self._notes.append(f'{path}: cannot be read: {e.strerror}')
            return
        if not stat.S_ISREG(status.st_mode):
            self._notes.append(f'{path} is not read: it is {_KINDS.get(stat.S_IFMT(status.st_mode), "no file")}')
        elif self._is_new(status):
            self._files.append(path)
        else:
            self._repeated.append(path)

    def _is_new(self, status: os.stat_result) -> bool:
        identity = status.st_dev, status.st_ino
        is_new = identity not in self._seen
        self._seen.add(identity)
        return is_new

    def _is_match(self, path: Path) -> bool:
        parts = path.relative_to(self._folder).parts
        return any(_matches(parts, pattern) for pattern in self._patterns)

    def _may_hold(self, folder: Path) -> bool:
        """May files in this folder match?"""
        parts = folder.relative_to(self._folder).parts
        return any(_may_begin(parts, pattern) for pattern in self._patterns)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not parts or not pattern:
        return not parts and not pattern
    if pattern[0] == '**':
        return _matches(parts, pattern[1:]) or not _is_hidden(parts[0]) and _matches(parts[1:], pattern)
    return _matches_name(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_begin(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Can something below the folder `parts` match?"""
    if not parts or not pattern:
        return bool(pattern)
    if pattern[0] == '**':
        return _may_begin(parts, pattern[1:]) or not _is_hidden(parts[0]) and _may_begin(parts[1:], pattern)
    return _matches_name(parts[0], pattern[0]) and _may_begin(parts[1:], pattern[1:])


def _matches_name(name: str, pattern: str) -> bool:
    return (not _is_hidden(name) or pattern.startswith('.')) and fnmatch.fnmatchcase(name, pattern)


def _is_hidden(name: str) -> bool:
    return name.startswith('.')
