"""Texts from files and standard input."""
import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.inference.texts import Text, read_texts

LINES = ['first', '', 'é, "third"', ' fourth\t']


def test_every_line_is_a_text(tmp_path, monkeypatch):
    expected = [Text(i, text) for i, text in enumerate(LINES, start=1)]
    data = '\r\n'.join(LINES).encode()
    for name, content in (('a.txt', data), ('a', data + b'\n'), ('a.txt.gz', gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        assert list(read_texts(tmp_path / name)) == expected
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'\xef\xbb\xbf' + data)))
    assert list(read_texts(Path('-'))) == expected


def test_json_lines_of_standard_input(monkeypatch):
    data = '\n\n'.join(json.dumps({'note': text}) for text in LINES)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data.encode())))
    assert list(read_texts(Path('-'), field='note')) == list(map(Text, range(1, 8, 2), LINES))
    monkeypatch.setattr(sys, 'stdin', None)
    assert list(read_texts(Path('-'))) == list(read_texts(Path('-'), field='note')) == []


def test_rows_of_json_lines_and_tables(tmp_path):
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'text': text, 'other': 'x'}) for text in LINES))
    (tmp_path / 'a.csv').write_text('id,note\n' + ''.join(f'1,"{text.replace(chr(34), chr(34) * 2)}"\n'
                                                          for text in LINES))
    assert [text for _, text in read_texts(tmp_path / 'a.jsonl')] == LINES
    assert list(read_texts(tmp_path / 'a.csv', default_field='note')) == \
        list(read_texts(tmp_path / 'a.csv', field='note')) == list(map(Text, range(2, 6), LINES))
    assert {text for _, text in read_texts(tmp_path / 'a.jsonl', field='other')} == {'x'}


def test_records_of_parquet_and_fasta(tmp_path, monkeypatch):
    (tmp_path / 'a.fa').write_text('>a\nAC\nGT\n>b\n>c\nT\n')
    monkeypatch.setattr('labml_mlm.reading.fasta._PIECE', 2)
    assert list(read_texts(tmp_path / 'a.fa')) == [Text(1, 'ACGT'), Text(4, ''), Text(5, 'T')]
    pa = pytest.importorskip('pyarrow')
    from pyarrow import parquet
    parquet.write_table(pa.table({'note': ['a', None, 'b']}), tmp_path / 'a.parquet')
    assert list(read_texts(tmp_path / 'a.parquet', field='note')) == [Text(1, 'a'), Text(2, ''), Text(3, 'b')]
    with pytest.raises(UserError, match=r"a.parquet has no field `text` \(--field\): its fields are 'note'"):
        list(read_texts(tmp_path / 'a.parquet'))


@pytest.mark.parametrize('name, content, field, message', [
    ('a.fa', b'AC', None, 'a.fa, line 1 has a sequence without a header'),
    ('a.fa', b'>a\nAC', 'text', 'a.fa has a text in each record'),
    ('a.jsonl', b'{"text": "a"}\n{"txt": "b"}', None, r"line 2 has no field `text` \(--field\): its fields are 'txt'"),
    ('a.csv', b'txt\na', None, r"line 1 has no field `text` \(--field\): its fields are 'txt'.*Did you mean `txt`"),
    ('a.jsonl', b'{"text": 1}', None, 'line 1 has no text in the field that --field names, but a value of type int'),
    ('a.txt', b'a\n\xff', None, 'line 2 is not UTF-8: invalid byte 0xff'),
    ('a.txt', b'a', 'text', '--field text is for files that end in .json, .jsonl, .csv, .tsv, .parquet, and .*a.txt '
                            'has a text'),
    ('missing.txt', None, None, 'cannot read .*missing.txt: No such file')])
def test_what_is_no_text_is_refused_by_its_line(tmp_path, name, content, field, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_texts(tmp_path / name, field=field))
