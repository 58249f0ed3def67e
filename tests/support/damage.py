"""Runs whose files are damaged, or were made to harm."""
import contextlib
import hashlib
import json
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from labml_mlm.runs import checkpoint

# Seconds after which something hangs, and megabytes that nothing here needs
_PATIENCE, _MEGABYTES = 60, 1000

Damage = Callable[[Path], Any]


def rewrite(path: Path, change: Callable[[dict], Any] = lambda metadata: None):
    """Changes what the `checkpoint.json` in a folder says. Its checksums, and those of the other files, are right."""
    metadata = json.loads((path / 'checkpoint.json').read_text())
    metadata.pop('sha256')
    for name, written in metadata['files'].items():
        data = (path / name).read_bytes()
        written |= {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
    change(metadata)
    (path / 'checkpoint.json').write_text(checkpoint._with_sha256(metadata))


def metadata(change: Callable[[dict], Any]) -> Damage:
    """Changes all checkpoints of a run."""
    def damage(run: Path):
        for path in (run / 'checkpoints').iterdir():
            rewrite(path, change)
    return damage


def of_configs(part: str, **values: Any) -> Damage:
    """Changes the `given`, `computed` or other values in the configs of all checkpoints; `__` stands for a dot."""
    return metadata(lambda found: found['configs'][part].update(
        {name.replace('__', '.'): value for name, value in values.items()}))


def content(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Changes a file of all checkpoints, whose checksums are right then."""
    def damage(run: Path):
        for path in (run / 'checkpoints').iterdir():
            (path / name).write_bytes(change((path / name).read_bytes()))
            rewrite(path)
    return damage


def tokenizer(change: Callable[[dict], Any]) -> Damage:
    """Changes the `tokenizer.json` of all checkpoints."""
    def changed(data: bytes) -> bytes:
        about = json.loads(data)
        change(about)
        return json.dumps(about).encode()
    return content('tokenizer.json', changed)


def tensors(header: Any, data: bytes = b'') -> bytes:
    """The content of a safetensors file."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(written)) + written + data


def header(change: Callable[[dict], Any]) -> Callable[[bytes], bytes]:
    """Changes what a safetensors file says of its first tensor."""
    def changed(data: bytes) -> bytes:
        [length] = struct.unpack('<Q', data[:8])
        about = json.loads(data[8:8 + length])
        change(about[next(name for name in about if name != '__metadata__')])
        return tensors(about, data[8 + length:])
    return changed


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fails if what is inside hangs, or takes far more memory than the files of a small run."""
    def hangs(*_: Any):
        raise AssertionError('it hangs')

    before, peak = signal.signal(signal.SIGALRM, hangs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(_PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < _MEGABYTES * 1024
