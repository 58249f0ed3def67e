"""Files of tests, compressed if their names say so."""
import gzip

import pytest
import zstandard


@pytest.fixture
def write(tmp_path):
    """Writes a file, compressed if its name says so."""
    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data.encode() if isinstance(data, str) else data
        path.write_bytes({'.gz': gzip.compress, '.zst': zstandard.compress}.get(path.suffix, bytes)(data))
        return path
    return write
