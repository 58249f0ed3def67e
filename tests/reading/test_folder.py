import glob
import os
import socket

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.reading.folder import files_in


def found(folder, pattern='**/*'):
    return [path.relative_to(folder).as_posix() for path in files_in(folder, pattern).files]


@pytest.fixture
def folder(write, tmp_path):
    for name in ('a.txt', 'b.md', 'x/a.txt', 'x/y/c.txt', 'x/.hidden/d.txt', '.e.txt', '[x]/f.txt', 'x/y/z/g.TXT'):
        write(f'folder/{name}', name)
    return tmp_path / 'folder'


@pytest.mark.parametrize('pattern', ['**/*', '*', '*.txt', '**/*.txt', 'x/**/*.txt', '**/y/*', '*/*', '**/[ac].txt',
                                     '**', '?.md', '.*', '**/.*', 'x/.hidden/*', './x/*.txt', '[[]x]/*', 'none/*',
                                     'x/**/z/**'])
def test_patterns_are_those_of_glob(folder, pattern):
    expected = glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True)
    assert found(folder, pattern) == sorted({os.path.relpath(path, folder) for path in expected
                                             if os.path.isfile(path)})


def test_braces_are_any_of_them(folder):
    assert found(folder, '{a,x/a}.{txt,md}') == ['a.txt', 'x/a.txt']


@pytest.mark.parametrize('pattern', ['../*', '/etc/*', 'x/../../*'])
def test_patterns_stay_in_the_folder(folder, pattern):
    with pytest.raises(UserError, match='leads out of the folder'):
        files_in(folder, pattern)


def test_links_to_itself_lead_nowhere(folder):
    """Two of them have 2 ** 40 paths."""
    plain = found(folder)
    for name in ('loop', 'x/loop', 'x/y/other'):
        os.symlink(folder, folder / name)
    files, notes = files_in(folder, '**/*')
    assert [path.relative_to(folder).as_posix() for path in files] == plain
    assert notes == [f'{folder}/loop and 2 more: what this leads to is read under another name already']


def test_a_file_is_read_under_its_own_name(folder):
    plain = found(folder)
    # Sorted before what they lead to
    os.symlink(folder / 'b.md', folder / '_a.md')
    os.symlink(folder / 'x', folder / '_x')
    assert found(folder) == plain
    os.link(folder / 'b.md', folder / 'c.md')
    assert found(folder) == plain
    assert '3 more' not in files_in(folder, '**/*').notes[0] and ' and 2 more' in files_in(folder, '**/*').notes[0]


def test_a_link_out_of_the_folder_is_followed_once_and_said(folder, write, tmp_path):
    write('outside/o.txt', 'o')
    for name in ('first', 'second'):
        os.symlink(tmp_path / 'outside', folder / name)
    files, notes = files_in(folder, '**/o.txt')
    assert files == [folder / 'first/o.txt']
    assert notes == [f'{folder}/first leads out of the folder, to {tmp_path}/outside, and is read, too',
                     f'{folder}/second: what this leads to is read under another name already']


def test_what_is_no_file_is_named(folder):
    os.mkfifo(folder / 'pipe.txt')
    os.symlink('/dev/zero', folder / 'zero.txt')
    os.symlink('none', folder / 'broken.txt')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / 's.txt'))
        files, notes = files_in(folder, '*.txt')
    assert [path.name for path in files] == ['a.txt']
    assert sorted(notes) == [f'{folder}/broken.txt: cannot be read: No such file or directory',
                             f'{folder}/pipe.txt is not read: it is a FIFO',
                             f'{folder}/s.txt is not read: it is a socket',
                             f'{folder}/zero.txt is not read: it is a device']
    assert not files_in(folder, '*.md').notes
