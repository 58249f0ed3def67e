import os

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.reading.listing import as_paths, list_files, list_text_files


def test_folder_lists_files_with_the_suffix_of_a_text(write, tmp_path):
    for name in ('b.txt', 'a.md', 'deep/er/c.jsonl.gz', 'deep/d.TXT.zst', 'no.py', 'e.gz', '[x]/f.txt', 'g.csv',
                 'h.fasta', 'i.json', 'j.parquet'):
        write(name, '{"text": "x"}')
    old = ['[x]/f.txt', 'a.md', 'b.txt', 'deep/d.TXT.zst', 'deep/er/c.jsonl.gz']

    def found(**options):
        return [path.relative_to(tmp_path).as_posix() for path in list_text_files(tmp_path, '**/*', **options).files]
    assert found(text_format='plain') == old
    assert found() == [*old, 'g.csv', 'h.fasta', 'j.parquet']
    assert len(list_text_files(str(tmp_path / '[x]'), '**/*.txt').files) == 1
    # A pattern may ask for any other suffix
    assert [path.name for path in list_text_files(tmp_path, '*.py').files] == ['no.py']
    with pytest.raises(UserError, match='there is no text in .*: no file matches \\*.rst'):
        list_text_files(tmp_path, '*.rst')
    with pytest.raises(UserError, match=r"no file ends in .txt, .md, .*, or in one of those and .gz or .zst. .*/code: "
                                        r"files that are left out by their suffix: 1 .py; text_glob='\*\*/\*.py' "
                                        'takes .py$'):
        list_text_files(write('code/a.py', 'x').parent, '**/*')
    with pytest.raises(UserError, match='there is no folder'):
        list_text_files(tmp_path / 'none', '*')


def test_braces_are_either_one(write, tmp_path):
    for name in ('a.txt', 'b.py', 'c.rst', 'deep/d.py'):
        write(name, 'x')
    assert [path.name for path in list_text_files(tmp_path, '**/*.{txt,py}').files] == ['a.txt', 'b.py', 'd.py']
    assert [path.name for path in list_text_files(tmp_path, '{a,c}.{txt,rst}').files] == ['a.txt', 'c.rst']


def test_what_is_left_out_is_said_with_the_pattern_that_takes_it(write, tmp_path):
    for i in range(3):
        write(f'{i}.txt', 'text')
    for i in range(12):
        write(f'code/{i}.py', 'x = 1')
    write('a.rst', 'text')
    write('b.png', b'\x89PNG\0')
    write('LICENSE', 'text')
    folder = tmp_path
    [note] = list_files([folder], '**/*', item='text_path').notes
    assert note == (f'{folder}: files that are left out by their suffix: 12 .py, 1 without a suffix, 1 .png, 1 .rst; '
                    "text_glob='**/*.{txt,py,rst}' takes .py, .rst, too")
    taken = list_files([folder], '**/*.{txt,py,rst}', item='text_path')
    assert len(taken.files) == 16 and not taken.notes
    assert not list_files([write('only/a.txt', 'x').parent], '**/*', item='text_path').notes


def test_paths_are_read_in_the_order_given_and_each_file_once(write, tmp_path):
    b, a, c = write('b.txt', 'b'), write('x/a.txt', 'a'), write('x/c.txt', 'c')
    os.symlink(b, tmp_path / 'link.txt')
    listing = list_files([str(b), str(tmp_path / 'x'), str(a), str(tmp_path / 'link.txt')], '**/*', item='text_path')
    assert listing.files == [b, a, c] and listing.names == ['b.txt', 'x/a.txt', 'x/c.txt']
    assert listing.notes == [f'{a} and 1 more files are read once: two paths of text_path lead there']
    # Files of the same name have names of their own
    listing = list_files([a, write('y/a.txt', 'y')], '**/*', item='text_path')
    assert len(set(listing.names)) == 2 and not listing.notes


def test_paths_of_an_item():
    assert as_paths('a,b.txt', item='text_path') == ['a,b.txt'] and as_paths('', item='text_path') == []
    assert as_paths(('a', 'b'), item='text_path') == ['a', 'b'] and as_paths([], item='text_path') == []
    with pytest.raises(UserError, match='text_path=a,: one of its paths is empty'):
        as_paths(['a', ''], item='text_path')
