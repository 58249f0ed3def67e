import os

import pytest

from labml_mlm.common import files


def test_atomic_write_replaces_the_complete_file(tmp_path):
    path = tmp_path / 'folder' / 'file'
    old_mask = os.umask(0o027)
    try:
        files.write_atomically(path, b'before')
    finally:
        os.umask(old_mask)
    assert path.stat().st_mode & 0o777 == 0o640
    with open(path, 'rb') as before:
        files.write_atomically(path, b'after')
        # A reader that has it open keeps reading the old content
        assert before.read() == b'before'
    assert path.read_bytes() == b'after'


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_bytes(b'before')

    def no_space(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files.os, 'fsync', no_space)
    with pytest.raises(OSError, match='No space left'):
        files.write_atomically(path, b'after')
    assert path.read_bytes() == b'before'
    assert [p.name for p in tmp_path.iterdir()] == ['file']
