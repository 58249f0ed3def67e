import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.project import ROOT

from labml_mlm.common import files
from labml_mlm.common.errors import UserError


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


@pytest.mark.parametrize('target', ['precious', 'missing'])
def test_atomic_write_follows_no_link_at_the_name_of_its_temporary_file(tmp_path, target):
    (tmp_path / 'precious').write_bytes(b'precious')
    (tmp_path / f'.file.{os.getpid()}').symlink_to(tmp_path / target)
    files.write_atomically(tmp_path / 'file', b'content')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'precious']
    assert not (tmp_path / 'file').is_symlink() and (tmp_path / 'file').read_bytes() == b'content'
    assert (tmp_path / 'precious').read_bytes() == b'precious'


def test_atomic_write_does_not_open_what_is_put_there_meanwhile(tmp_path, monkeypatch):
    (tmp_path / 'precious').write_bytes(b'precious')
    monkeypatch.setattr(Path, 'unlink', lambda *_, **__: None)
    (tmp_path / f'.file.{os.getpid()}').symlink_to(tmp_path / 'precious')
    with pytest.raises(OSError):
        files.write_atomically(tmp_path / 'file', b'content')
    assert (tmp_path / 'precious').read_bytes() == b'precious' and not (tmp_path / 'file').exists()


@pytest.mark.parametrize('put', [lambda path, other: path.symlink_to(other), lambda path, _: os.mkfifo(path)])
@pytest.mark.parametrize('mode', ['wb', 'ab', 'xb'])
def test_only_ordinary_files_are_written_to(tmp_path, put, mode):
    (tmp_path / 'precious').write_bytes(b'precious')
    put(tmp_path / 'file', tmp_path / 'precious')
    with pytest.raises((files.NotOrdinary, FileExistsError)), \
            open(tmp_path / 'file', mode, opener=files.opener_of_ordinary):
        pass
    assert (tmp_path / 'precious').read_bytes() == b'precious'


# Takes the lock and holds it until its standard input ends
HOLD = """
import sys
from pathlib import Path

from labml_mlm.common.files import ProcessLock

lock = ProcessLock(Path(sys.argv[1]))
assert lock.acquire() is None
print('held', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a lock, and the path of the lock."""
    path = tmp_path / 'lock'
    with subprocess.Popen([sys.executable, '-c', HOLD, path], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b'held\n'
        yield process, path


def test_lock_has_an_owner_until_its_process_ends(holder, monkeypatch):
    process, path = holder
    monkeypatch.setattr(files, '_PATIENCE', 0.1)
    lock = files.ProcessLock(path)
    # A failed attempt leaves the owner's id in the file
    for _ in range(2):
        assert lock.owner() == lock.acquire() == process.pid
    process.kill()
    process.wait()
    assert lock.owner() is None
    assert lock.acquire() is None
    assert files.ProcessLock(path).owner() == os.getpid()
    lock.release()
    assert lock.owner() is None


def test_lock_that_is_read_only_still_has_its_owner(holder):
    process, path = holder
    path.chmod(0o444)
    lock = files.ProcessLock(path)
    assert lock.owner() == process.pid
    process.kill()
    process.wait()
    # Its old owner's id is still in the file
    assert path.read_text() == str(process.pid)
    assert lock.owner() is None


def test_lock_that_others_look_at_has_no_owner(tmp_path):
    path = tmp_path / 'lock'
    path.touch()
    with open(path) as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert files.ProcessLock(path).owner() is None
    assert files.ProcessLock(tmp_path / 'missing').owner() is None


def test_lock_is_acquired_when_others_have_looked(tmp_path):
    path = tmp_path / 'lock'
    path.touch()
    lock = files.ProcessLock(path)
    with open(path) as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        assert lock.acquire() is None
        timer.join()
    assert path.read_text() == str(os.getpid())
    lock.release()


@pytest.mark.parametrize('path', ['https://example.org/a.txt', 'http://a/b', 's3://bucket/key', 'file:///a', 'HTTPS://A/b',
                                  'hf://datasets/a', Path('https://example.org/a.txt')])
def test_an_address_is_no_path(path):
    with pytest.raises(UserError) as e:
        files.refuse_address(path)
    assert str(e.value).startswith(f'{path} is an address')


@pytest.mark.parametrize('path', ['a.txt', '/a/b', './https/a', '~/a:b', 'a/b://c', 'C:/texts', 'a:b', ''])
def test_a_path_is_no_address(path):
    files.refuse_address(path)


@pytest.mark.parametrize('name, is_one', [
    ('bert-base-uncased', True), ('google/electra-small', True), ('answerdotai/ModernBERT-base', True),
    ('a/b/c', False), ('./a', False), ('/a', False), ('vocab.json', False), ('weights.safetensors', False),
    ('last', False), ('c0efacb', False), ('', False), ('two words', False)])
def test_only_what_may_be_at_a_hub_is_told_of_it(name, is_one):
    assert ('hf download' in files.how_to_download(name, 'init_from')) == is_one


@pytest.mark.parametrize('put', [lambda path, other: path.symlink_to(other), lambda path, _: os.mkfifo(path),
                                 lambda path, _: path.mkdir()])
def test_lock_that_is_no_file_is_refused_and_nothing_is_cut(tmp_path, put):
    other = tmp_path / 'precious'
    other.write_text('precious')
    put(tmp_path / 'run.lock', other)
    lock = files.ProcessLock(tmp_path / 'run.lock')
    assert lock.owner() is None
    with pytest.raises(files.NotOrdinary):
        lock.acquire()
    assert other.read_text() == 'precious'


def test_home_folder_that_does_not_exist_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert files.expand_home('~/text') == tmp_path / 'text'
    with pytest.raises(UserError, match='~nobody-is-called-so/text: there is no home folder of that'):
        files.expand_home('~nobody-is-called-so/text')
