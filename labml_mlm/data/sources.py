"""
# Built-in texts

For each of these a function returns the whole text, or the files of one, or raises `OSError` with one clear message.
"""
import hashlib
import queue
import sysconfig
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from labml_mlm.common.files import write_atomically

TINY_SHAKESPEARE_URL = 'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt'
TINY_SHAKESPEARE_BYTES = 1_115_394
TINY_SHAKESPEARE_SHA256 = '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'

# Seconds to wait for the next chunk of a download, the first one included
TIMEOUT = 10.
_CHUNK = 1 << 16
# Folders within that of the standard library for packages that were installed later
_INSTALLED = {'site-packages', 'dist-packages'}


def python_topics() -> str:
    """The language reference that comes with Python (`help('topics')`): some 460,000 characters of English."""
    from pydoc_data.topics import topics
    return '\n\n'.join(topics[name].strip() for name in sorted(topics)) + '\n'


def python_sources() -> list[Path]:
    """The sources of the standard library that comes with Python: some 30 MB, or 12 if its tests are not installed."""
    library = Path(sysconfig.get_path('stdlib'))
    paths = [path for path in sorted(library.rglob('*.py')) if not _INSTALLED & set(path.parts) and _is_text(path)]
    if not paths:
        raise OSError(f'there are no Python sources in {library}')
    return paths


def _is_text(path: Path) -> bool:
    """A few sources test other encodings, and some are empty."""
    try:
        data = path.read_bytes()
        data.decode('utf-8')
    except (OSError, UnicodeDecodeError):
        return False
    return bool(data) and b'\0' not in data


def cached_tiny_shakespeare(data_path: Path) -> str | None:
    """Tiny Shakespeare from the cache; `None` if it is missing or damaged."""
    try:
        data = _tiny_shakespeare_path(data_path).read_bytes()
    except OSError:
        return None
    return data.decode('utf-8') if _sha256(data) == TINY_SHAKESPEARE_SHA256 else None


def download_tiny_shakespeare(data_path: Path, url: str, progress: Callable[[float], None]) -> str:
    """
    Downloads Tiny Shakespeare and caches it in `data_path`. `progress` is called with fractions from 0 to 1.

    Raises `OSError` if it cannot be downloaded or stored, or if its checksum differs. Nothing is stored then.
    """
    data = download(url, size=TINY_SHAKESPEARE_BYTES, progress=progress)
    if _sha256(data) != TINY_SHAKESPEARE_SHA256:
        raise OSError(f'{url} is not Tiny Shakespeare: its SHA-256 differs')
    write_atomically(_tiny_shakespeare_path(data_path), data)
    return data.decode('utf-8')


def download(url: str, *, size: int, progress: Callable[[float], None] = lambda fraction: None) -> bytes:
    """
    The content of `url`: exactly `size` bytes. Raises `OSError` otherwise, and after `TIMEOUT` seconds without data.

    A thread does the reading: a socket's time-out restarts for each address of a host and does not cover name
    look-up, which behind a firewall adds up to minutes. So `requests`, and `pooch` on top of it, wait as long.
    """
    chunks: queue.Queue = queue.Queue()

    def read():
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                while chunk := response.read1(_CHUNK):
                    chunks.put(chunk)
            chunks.put(b'')
        except Exception as e:  # not `OSError` alone: an invalid address, or no HTTP
            chunks.put(e)

    threading.Thread(target=read, daemon=True).start()
    data = bytearray()
    while True:
        try:
            chunk = chunks.get(timeout=TIMEOUT)
        except queue.Empty:
            chunk = TimeoutError()
        if isinstance(chunk, Exception):
            error = getattr(chunk, 'reason', None) or chunk
            # The socket's may come first
            if isinstance(error, TimeoutError):
                raise TimeoutError(f'{url}: no answer for {TIMEOUT:g} seconds')
            raise OSError(f'{url}: {str(error) or type(error).__name__}')
        data += chunk
        if len(data) > size or (not chunk and len(data) < size):
            raise OSError(f'{url}: got {len(data):,} bytes{"" if chunk else " only"} instead of {size:,}')
        progress(len(data) / size)
        if not chunk:
            return bytes(data)


def _tiny_shakespeare_path(data_path: Path) -> Path:
    return data_path / 'tiny_shakespeare.txt'


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
