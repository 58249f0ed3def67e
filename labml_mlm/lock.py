"""
# A file that one process at a time holds

The system takes a lock away when its process ends, however it ends, so that it says for sure whether that process still
lives; a number of a process may be another's by then.
"""
import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any

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
