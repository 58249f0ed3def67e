"""A file that another program writes to while it is read is refused by its name."""
import os

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.data.documents import TextFiles
from labml_mlm.reading.files import open_text
from labml_mlm.reading.lines import read_lines
from labml_mlm.reading.rows import read_table

# More than is read at once
FILES = {'a.txt': 'text of a file\n' * 400_000, 'a.jsonl': '{"text": "a row"}\n' * 20_000,
         'a.csv': 'text\n' + 'a row\n' * 20_000, 'a.fasta': '>name\nACGT\n' * 20_000}


def append(path):
    with open(path, 'ab') as f:
        f.write(b'more\n')


def shrink(path):
    os.truncate(path, path.stat().st_size - 5)


def rewrite_the_same(path):
    with open(path, 'r+b') as f:
        f.write(f.read(1))
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize('change', [append, shrink, rewrite_the_same])
@pytest.mark.parametrize('suffix', ['', '.gz', '.zst'])
@pytest.mark.parametrize('name', FILES)
def test_text_that_changes_while_it_is_read_is_refused_by_name(write, name, suffix, change):
    path = write(name + suffix, FILES[name])
    pieces = iter(TextFiles([path]))
    next(pieces)
    change(path)
    with pytest.raises(UserError, match=rf'{name}{suffix} was changed while it was read') as error:
        list(pieces)
    assert len(str(error.value).splitlines()) == 1


def test_sizes_are_said(write):
    path = write('a.txt', 'x' * 1000)
    with pytest.raises(UserError, match='it had 1,000 bytes, and has 1,005 now. Begin again'), open_text(path) as f:
        f.read(10)
        append(path)


def test_change_is_said_rather_than_what_it_brings_about(write):
    path = write('a.txt', 'ä' * 4_000_000)
    pieces = iter(TextFiles([path]))
    next(pieces)
    # Half of a character is no UTF-8
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match='was changed while it was read'):
        list(pieces)


@pytest.mark.parametrize('read', [read_lines, lambda path: read_table(path, {'text_field': 'text'})])
def test_rows_and_lines_with_labels_are_of_one_moment(write, read):
    path = write('a.csv', FILES['a.csv'])
    rows = iter(read(path))
    next(rows)
    append(path)
    with pytest.raises(UserError, match='a.csv was changed while it was read'):
        list(rows)


def test_what_is_read_in_part_is_not_checked(write):
    path = write('a.txt', FILES['a.txt'])
    pieces = iter(TextFiles([path]))
    next(pieces)
    append(path)
    pieces.close()


def test_pipe_has_no_size_to_change(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    if os.fork() == 0:
        (tmp_path / 'pipe').write_bytes(b'text')
        os._exit(0)
    with open_text(tmp_path / 'pipe') as f:
        assert f.read() == b'text'
    os.wait()


def test_file_that_takes_the_place_of_another_leaves_that_as_it_was(write):
    path = write('a.txt', FILES['a.txt'])
    with open_text(path) as f:
        f.read(10)
        os.replace(write('b.txt', 'other'), path)
        assert len(f.read()) == len(FILES['a.txt']) - 10
