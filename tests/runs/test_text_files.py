import os

import pytest

from labml_mlm.runs import text_files
from labml_mlm.runs.text_files import describe_files, differences, read_files, write_files


@pytest.fixture
def describe(tmp_path):
    """What is noted of the files in the folder of a test, after these were written or, with `None`, removed."""
    def describe(**contents):
        for name, content in contents.items():
            if content is None:
                (tmp_path / name).unlink()
            else:
                (tmp_path / name).write_bytes(content)
        paths = sorted(tmp_path.iterdir())
        return describe_files([path.name for path in paths], paths)
    return describe


def test_files_are_told_by_name_and_content(describe):
    before = describe(a=b'one', b=b'two', c=b'three', d=b'four')
    now = describe(a=b'one', b=b'TWO', c=None, moved=b'three', d=None, e=b'five')
    assert differences(before, now) == 'added e; removed d; renamed c → moved; changed b'
    assert differences(before, before) == ''


def test_a_file_that_was_only_touched_is_the_same(describe, tmp_path):
    before = describe(a=b'one')
    os.utime(tmp_path / 'a', ns=(1, 1))
    assert differences(before, describe()) == ''


def test_a_change_anywhere_in_a_long_file_is_told(describe):
    content = bytearray(5_000_000)
    before = describe(a=bytes(content))
    content[2_600_000] = 1
    assert differences(before, describe(a=bytes(content))) == 'changed a'


def test_many_names_are_counted(describe):
    before = describe(a=b'one')
    now = describe(**{f'f{i:03}': bytes([i]) for i in range(100)})
    assert differences(before, now) == 'added f000, f001, f002 and 97 more'


def test_very_many_files_are_counted_only(describe, monkeypatch):
    monkeypatch.setattr(text_files, '_MAX_FILES', 2)
    before = describe(a=b'one', b=b'two', c=b'3')
    assert 'files' not in before
    assert differences(before, describe(d=b'4')) == '3 files with 7 bytes then, 4 with 8 now'
    assert differences(before, before) == ''


def test_files_of_a_run_are_kept_in_its_folder(describe, tmp_path_factory):
    run = tmp_path_factory.mktemp('run')
    assert read_files(run) == {}
    write_files(run, {'text_path': describe(a=b'one')})
    assert differences(read_files(run)['text_path'], describe(a=b'two')) == 'changed a'
    (run / 'text.json').write_text('{')
    assert read_files(run) == {}
