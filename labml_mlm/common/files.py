"""Atomic writes, and locks between processes."""
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

# Seconds that a lock may be held by a process that only looks
_PATIENCE = 1.


def write_atomically(path: Path, data: bytes):
    """Writes a file as a whole or, on `OSError`, not at all. It is on the disk when this returns."""
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
    """`fsync` of a folder: the names in it are on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process at a time may be inside for the same `path`; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f'.{path.name}.lock')):
        yield


class ProcessLock:
    """
    ## A lock on the file `path`, which holds the process id of its owner

    The system releases it when its process ends, however it ends. So it tells whether the owner is alive, which a
    process id alone does not: another process may have that number by now.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path, thread_local=False)

    def owner(self) -> int | None:
        """The process that holds it, if any."""
        # A shared lock, which filelock does not have: any number may look at once, at files that only others may write
        with contextlib.suppress(OSError), open(self.path) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._read()
        return None

    def acquire(self) -> int | None:
        """
        Takes it, until `release` or the end of the process. Returns the owner if another process holds it.

        Raises `OSError` if the file cannot be written.
        """
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            return self._read()
        self.path.write_text(str(os.getpid()))
        return None

    def release(self):
        """Others may take it."""
        self._lock.release()

    def _read(self) -> int:
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return 0


def is_alive(pid: int) -> bool:
    """Is there a process with this id?"""
    with contextlib.suppress(PermissionError):  # another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
