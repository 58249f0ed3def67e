"""Ordinary files alone, atomic writes, locks between processes, and what a person gives in place of a file."""
import contextlib
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from labml_mlm.common.errors import UserError

# Seconds that a lock may be held by a process that only looks
_PATIENCE = 1.
# A `Path` makes one of two slashes; a single letter is a drive
_ADDRESS = re.compile(r'[a-z][a-z0-9+.-]+:/', re.IGNORECASE)
# Bytes of a JSON file beside published weights
_MAX_JSON = 2 ** 28
# Of a model at a hub, and what looks like one, but is the beginning of a uuid, or a file
_HUB_NAME = re.compile(r'[\w-][\w.-]*(/[\w-][\w.-]*)?')
_NO_HUB_NAME = re.compile(r'[0-9a-f]+|last|.*\.(json|txt|model|bin|pt|safetensors|zip|gz|zst)')


class NotOrdinary(OSError):
    """Something else than a file: a device, a pipe, a folder, a link; or a file that is too large."""


def read_ordinary(path: Path, *, max_bytes: int, is_link_followed: bool = False) -> bytes:
    """
    The content of a file in a folder that may be anybody's. Nothing that never ends is read, and no link is followed
    unless `is_link_followed`.

    Raises `NotOrdinary` for anything but a file of up to `max_bytes`, and `OSError` if it cannot be read.
    """
    with open_ordinary(path, is_link_followed=is_link_followed) as f:
        data = f.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise NotOrdinary(errno.EFBIG, f'it has more than {max_bytes:,} bytes', str(path))
    return data


def open_ordinary(path: Path, *, is_link_followed: bool = False) -> BinaryIO:
    """An ordinary file to be read. Raises `NotOrdinary` for anything else, and `OSError` if it cannot be read."""
    try:
        # A pipe without a writer would be waited for
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW * (not is_link_followed) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):
            raise NotOrdinary(e.errno, 'it is no ordinary file', str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotOrdinary(errno.EINVAL, 'it is no ordinary file', str(path))
    return open(handle, 'rb')


def opener_of_ordinary(path: str, flags: int) -> int:
    """
    An `opener` of `open` for a file that is written to, in a folder that may be anybody's: it follows no link, and
    waits for no pipe. `open` raises `NotOrdinary` there.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):
            raise NotOrdinary(e.errno, 'it is no ordinary file', str(path)) from None
        raise


def write_atomically(path: Path, data: bytes):
    """Writes a file as a whole or, on `OSError`, not at all. It is on the disk when this returns."""
    with open_atomically(path) as f:
        f.write(data)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """
    A file to write to inside, which takes the place of `path` at the end, or, after any error, is removed. It is on the
    disk then. It is a new one: a link in its place is removed, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        # A leftover of a process that was killed, or what somebody has put there
        temporary.unlink(missing_ok=True)
        with open(temporary, 'xb', opener=opener_of_ordinary) as f:
            yield f
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
        with contextlib.suppress(OSError), open_ordinary(self.path) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._read()
        return None

    def acquire(self) -> int | None:
        """
        Takes it, until `release` or the end of the process. Returns the owner if another process holds it.

        Raises `NotOrdinary` if there is no file but a link or something else, and `OSError` if it cannot be written.
        """
        if self.path.is_symlink() or self.path.exists() and not self.path.is_file():
            raise NotOrdinary(errno.EINVAL, 'it is no ordinary file', str(self.path))
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            return self._read()
        with open(os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC), 'w') as f:
            f.write(str(os.getpid()))
        return None

    def release(self):
        """Others may take it."""
        self._lock.release()

    def _read(self) -> int:
        try:
            return int(read_ordinary(self.path, max_bytes=100))
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


def expand_home(path: str | Path) -> Path:
    """A path with `~` and `~user` expanded. Raises `UserError` if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f'{path}: there is no home folder of that name here; set HOME, or give the whole '
                        'path') from None


def refuse_address(path: str | Path):
    """Raises `UserError` if it is an address on the web, or in a storage elsewhere."""
    if _ADDRESS.match(str(path)):
        raise UserError(f'{path} is an address, and must be a path: download it first, as nothing is downloaded from '
                        'there, and give the path')


def how_to_download(name: str, item: str) -> str:
    """The end of a message on a path that does not exist, if it may be the name of a model at a hub; else empty."""
    if not _HUB_NAME.fullmatch(name) or _NO_HUB_NAME.fullmatch(name):
        return ''
    folder = name.rpartition('/')[2]
    return f'. If it is the name of a model at Hugging Face, download it first, with `hf download {name} --local-dir ' \
           f'{folder}`, and give {item}={folder}'


def read_json(path: Path) -> dict[str, Any]:
    """
    The object in a file of a folder that `save_pretrained` wrote, whose files may be links, as in the cache of a hub.
    Raises `UserError` if there is none.
    """
    if not path.parent.is_dir():
        raise UserError(f'{path.parent} is not a folder: it must be one that save_pretrained wrote')
    try:
        content = json.loads(read_ordinary(path, max_bytes=_MAX_JSON, is_link_followed=True))
    except FileNotFoundError:
        raise UserError(f'{path.parent} has no {path.name}: it must be a folder that save_pretrained wrote') from None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f'cannot read {path}: {getattr(e, "strerror", None) or e}') from None
    if not isinstance(content, dict):
        raise UserError(f'{path} is not an object in JSON')
    return content
