"""Files to read."""
import gzip

import pytest
import zstandard


@pytest.fixture
def write(tmp_path):
    """Writes a file, compressed if its name says so."""
    def write(name, data):
        path = tmp_path / name
        data = data.encode() if isinstance(data, str) else data
        path.write_bytes({'.gz': gzip.compress, '.zst': zstandard.compress}.get(path.suffix, bytes)(data))
        return path
    return write
