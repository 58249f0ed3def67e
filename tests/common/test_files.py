import os

import pytest

from labml_mlm.common import files


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / 'folder' / 'file'
    old_mask = os.umask(0o027)
    try:
        files.write_atomically(path, b'before')
    finally:
        os.umask(old_mask)
    assert path.stat().st_mode & 0o777 == 0o640
    with open(path, 'rb') as before:
        files.write_atomically(path, b'after')
        # Whoever has it open goes on reading what it was
        assert before.read() == b'before'
    assert path.read_bytes() == b'after'


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_bytes(b'before')

    def no_space(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files.os, 'fsync', no_space)
    with pytest.raises(OSError, match='No space left'):
        files.write_atomically(path, b'after')
    assert path.read_bytes() == b'before'
    assert [p.name for p in tmp_path.iterdir()] == ['file']
