"""Files that are whole or not there."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes):
    """Writes a file as a whole or, if that fails (`OSError`), not at all; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with open(temporary, 'wb') as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path):
    """Returns when the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

# Seconds that a lock may be held by somebody who only looks
_GLANCE = 1.


class Lock:
    """A lock on the file `path`, which holds the number of the process that has it."""

    def __init__(self, path: Path):
        self.path = path
        self._file: Any = None

    def owner(self) -> int | None:
        """The process that has it, if any."""
        with contextlib.suppress(OSError), open(self.path) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._number()
        return None

    def acquire(self) -> int | None:
        """
        Makes it this process's, until `release` or the end of the process. Returns the number of the process that has
        it, if one does.

        Raises `OSError` if the file cannot be written.
        """
        file = open(self.path, 'a')  # noqa: SIM115  held open
        deadline = time.monotonic() + _GLANCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.close()
                    return self._number()
                time.sleep(0.05)
        self._file = file
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return None

    def release(self):
        """Lets others have it."""
        if self._file is not None:
            self._file.close()

    def _number(self) -> int:
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return 0


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Within it no other process is within it for the same `path`: it waits until that is through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f'.{path.name}.lock'), 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

