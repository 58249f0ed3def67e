"""The first pass over a text."""
import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.data.documents import TextFiles
from labml_mlm.text_facts.facts import read_facts


def test_facts_of_files(tmp_path):
    (tmp_path / 'a.txt').write_text('one\ntwo\n')
    (tmp_path / 'b.jsonl').write_text('{"text": "one"}\n{"text": "three"}\n{"text": "one"}\n')
    seen = []
    found = read_facts(TextFiles([tmp_path / 'a.txt', tmp_path / 'b.jsonl'], errors='replace'), progress=seen.append)
    assert (found.n_files, found.n_documents, found.n_characters) == (2, 4, 19)
    assert found.n_bytes == sum((tmp_path / name).stat().st_size for name in ('a.txt', 'b.jsonl'))
    assert found.repeated_documents == 0.25
    assert (found.lines.n, found.lines.repeated_share) == (5, 0.4)
    assert found.characters['o'] == 4 and found.invalid.n == 0
    assert seen[-1] == 19


def test_files_that_are_left_out_do_not_count(tmp_path):
    (tmp_path / 'a.txt').write_text('one\ntwo\n')
    (tmp_path / 'b.txt').write_bytes(b'\xff\0\xff' * 100)
    files = TextFiles([tmp_path / 'a.txt', tmp_path / 'b.txt'], errors='replace')
    said = []
    files.say = said.append
    found = read_facts(files)
    assert (found.n_files, found.n_bytes, found.invalid.n) == (1, 8, 0)
    assert 'b.txt is binary' in said[0]


def test_text_that_is_none_is_refused(tmp_path):
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(UserError, match='a.txt is empty'):
        read_facts(TextFiles([tmp_path / 'a.txt'], errors='replace'))
