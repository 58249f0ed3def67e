import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.documents import TextFiles
from labml_mlm.reading.lines import Wrong
from labml_mlm.reading.texts import has_records, read_texts_of


def texts(path, *, field='text', **options):
    """The texts of a file, joined from their pieces; all of them are text or blank."""
    found, pieces = [], []
    for _, text, is_last in read_texts_of(path, field=field, **options):
        assert not isinstance(text, Wrong), text
        pieces.append(text)
        if is_last:
            found.append(None if pieces == [None] else ''.join(pieces))
            pieces = []
    return found


def wrong(path, **options):
    """What is wrong with a file, by line."""
    return {line: text.what for line, text, _ in read_texts_of(path, field='text', **options)
            if isinstance(text, Wrong)}


SAME = [('a.csv', 'id,text\r\n1,"Good, ""very"""\r\n2,\r\n3,"two\r\nlines"\r\n4, \r\n'),
        ('a.tsv', 'id\ttext\n1\t"Good, ""very"""\n2\t\n3\t"two\\nlines"\n4\t \n'),
        ('a.jsonl', '{"text": "Good, \\"very\\""}\n{"text": null}\n{"text": "two\\r\\nlines"}\n{"text": " "}\n'),
        ('a.json', '{"text": "Good, \\"very\\""}\n{"text": ""}\n{"text": "two\\nlines", "id": 3}\n{"text": "\\n"}\n')]


@pytest.mark.parametrize('suffix', ['', '.gz', '.zst'])
@pytest.mark.parametrize(['name', 'data'], SAME)
def test_all_tables_give_the_same_texts_and_blank_ones(write, name, data, suffix):
    found = texts(write(name + suffix, data))
    assert found == ['Good, "very"', None, 'two\\nlines' if name == 'a.tsv' else 'two\nlines', None]


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=['Cs'], exclude_characters='\0\r'), min_size=1)))
def test_any_text_comes_back_from_csv(tmp_path_factory, values):
    import csv
    path = tmp_path_factory.mktemp('any') / 'a.csv'
    with open(path, 'w', newline='', encoding='utf-8') as f:
        writer = csv.writer(f, quoting=csv.QUOTE_ALL)
        writer.writerows([['text'], *([value] for value in values)])
    assert texts(path) == [value if value.strip() else None for value in values]


def test_the_column_is_chosen_and_words_are_no_blanks(write):
    path = write('a.csv', 'a,b\nNone,nan\nNA,null\n')
    assert texts(path, field='a') == ['None', 'NA'] and texts(path, field='b') == ['nan', 'null']


@pytest.mark.parametrize(['name', 'data', 'expected'], [
    ('a.csv', 'body,id\nx,1\n', {1: "has no field `text` (text_field): its fields are 'body', 'id'."}),
    ('a.csv', 'texts,id\nx,1\n', {1: 'Did you mean `texts`?'}),
    ('a.csv', 'text\na\nb,c\n"d\ne"\nf,g\n', {3: 'has 2 columns, and the header has 1', 6: 'has 2 columns'}),
    ('a.csv', 'text\na\n"b\nc\n', {3: 'is not CSV: unexpected end of data'}),
    ('a.csv', b'text\na\n\xe9\nb\n', {3: 'is not UTF-8: invalid byte 0xe9'}),
    ('a.csv', b'text\na\0b\nb\n', {2: 'is not text: it contains NUL characters'}),
    ('a.csv', 'text\na\n'.encode('utf-16'), {1: 'is UTF-16 instead of UTF-8'}),
    ('a.csv', '', {0: 'is empty'}),
    ('a.jsonl', '{"text": "\\ud800"}\n{"text": "b"}', {1: 'has a lone surrogate: U+D800'}),
    ('a.jsonl', '[1]\n"a"\n5', {1: 'is a JSON list: there must be an object on each line', 2: 'is a JSON str',
                                3: 'is a JSON int'}),
    ('a.jsonl', '{"text": NaN}\n{"text": ["a"]}', {1: 'but NaN', 2: 'but a value of type list'}),
    ('a.jsonl', b'{"text": "a\0"}\nno', {1: 'NUL characters', 2: 'is not JSON'}),
    ('a.jsonl', '{"txet": "a"}', {1: "its fields are 'txet'. Did you mean `txet`?"}),
    ('a.fa', 'ACGT\n>a\nAC\n', {1: 'has a sequence without a header'}),
    ('a.fa', b'>a\nAC\n>b\nA\0\n', {3: 'begins a record, and line 4 is not text: it contains NUL characters'}),
])
def test_what_is_wrong_is_told_by_line_and_the_rest_is_read(write, name, data, expected):
    found = wrong(write(name, data))
    assert found.keys() == expected.keys()
    for line, what in expected.items():
        assert what in found[line]


def test_invalid_utf8_and_surrogates_are_replaced(write):
    assert texts(write('a.csv', b'text\na\xff\n'), decoding='replace') == ['a\ufffd']
    assert texts(write('a.jsonl', '{"text": "a\\ud800"}'), decoding='replace') == ['a\ufffd']
    assert texts(write('a.fa', b'>\xff\nA\xff\n'), decoding='replace') == ['A\ufffd']


FASTA = '>sp|P1|A first\nMKV\n LSP \n\n>second\n;comment\nAC\nGT*\n>third\n>fourth\nX'


def test_a_record_of_fasta_is_a_text_without_its_header(write):
    for name in ('a.fasta', 'a.fa', 'a.faa.gz', 'a.FNA'):
        assert texts(write(name, FASTA)) == ['MKVLSP', 'ACGT*', None, 'X']


def test_a_long_sequence_comes_in_pieces(write, monkeypatch):
    monkeypatch.setattr('labml_mlm.reading.fasta._PIECE', 10)
    path = write('a.fa', '>a\n' + 'ACGTAC\n' * 100 + '>b\nA\n')
    pieces = [*read_texts_of(path, field='text')]
    assert len(pieces) > 50 and max(len(text or '') for _, text, _ in pieces) < 20
    assert texts(path) == ['ACGTAC' * 100, 'A']


def test_early_versions_read_everything_but_json_lines_as_it_is(write):
    assert not has_records(write('a.csv', ''), text_format='plain')
    path = write('a.jsonl', '{"text": " "}\n{"text": ""}\n{"text": null}')
    assert texts(path, text_format='plain') == [' ', None, None]


@pytest.fixture
def table(tmp_path):
    pa = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    def table(name='a.parquet', **columns):
        path = tmp_path / name
        parquet.write_table(pa.table(columns), path, row_group_size=3)
        return path
    return table


def test_a_row_of_parquet_is_a_text(table):
    import pyarrow as pa
    values = ['a', None, 'two\r\nlines', ' ', 'é', '', 'last']
    expected = ['a', None, 'two\nlines', None, 'é', None, 'last']
    for kind in (pa.string(), pa.large_string()):
        assert texts(table(id=[*range(7)], text=pa.array(values, kind))) == expected
    assert texts(table(text=pa.array(values).dictionary_encode())) == expected


def test_parquet_is_read_as_a_stream(table, monkeypatch):
    path = table(text=[f'row {i}' for i in range(5000)])
    rows = read_texts_of(path, field='text')
    assert next(rows) == (1, 'row 0', True)
    # Not the whole file was decoded for it
    import pyarrow
    assert pyarrow.total_allocated_bytes() < path.stat().st_size
    assert sum(1 for _ in rows) == 4999


def test_what_is_wrong_with_parquet(table, tmp_path, write):
    import pyarrow as pa
    assert wrong(table(body=['a'])) == {0: "has no field `text` (text_field): its fields are 'body'."}
    assert 'Did you mean `texts`?' in wrong(table(texts=['a'], id=[1]))[0]
    assert wrong(table(text=[1])) == {0: 'has no text in its column `text` (text_field), but values of type int64'}
    damaged = pa.array([b'a', b'\xed\xa0\x80', b'c\0']).cast(pa.binary()).view(pa.string())
    found = wrong(table(text=damaged))
    assert found == {2: 'is not UTF-8: invalid byte 0xed', 3: 'is not text: it contains NUL characters'}
    assert 'is no Parquet file, or a damaged one' in wrong(write('b.parquet', 'PAR1'))[0]
    assert 'decompress it to a.parquet' in wrong(write('a.parquet.gz', 'x'))[0]


def test_parquet_needs_pyarrow(write, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(UserError, match=r"a.parquet needs pyarrow, .*: pip install 'labml_mlm\[parquet\]'"):
        [*read_texts_of(write('a.parquet', 'x'), field='text')]


def test_documents_leave_out_wrong_rows_and_count_blank_ones(write):
    paths = [write('a.csv', 'text\none\n""\na,b\ntwo\n'), write('b.fa', '>a\nACGT\n>b\n'), write('c.txt', 'plain'),
             write('d.csv', 'body\nx\n')]
    with pytest.raises(UserError, match=r"2 files or lines are not text: .*a.csv, line 4, has 2 columns.*; .*d.csv, "
                                        r"line 1, has no field `text`.*\. text_errors=skip leaves them out"):
        [*TextFiles(paths)]
    source, said = TextFiles(paths, errors='skip'), []
    source.say = said.append
    for _ in range(2):
        assert [*source] == [('one', True), ('two', True), ('ACGT', True), ('plain', True)]
    assert len(said) == 2 and said[1] == '2 rows without text are left out'
    with pytest.raises(UserError, match='e.csv has no text: all of its 1 rows are blank'):
        [*TextFiles([write('e.csv', 'text\n" "\n')])]
    with pytest.raises(UserError, match='f.csv has no rows'):
        [*TextFiles([write('f.csv', 'text\n')])]


def test_the_same_error_on_many_lines_is_named_once(write):
    path = write('a.jsonl', '{"body": "x"}\n' * 1000)
    with pytest.raises(UserError) as caught:
        [*TextFiles([path])]
    assert str(caught.value) == (
        f"1,000 files or lines are not text: {path}, line 1, has no field `text` (text_field): its fields are 'body'. "
        '(999 more lines are like this). text_errors=skip leaves them out')


def test_identity_depends_on_field_and_format(write):
    path = write('a.csv', 'text,other\na,b\n')
    identities = [TextFiles([path], **options).identity for options in
                  ({}, {'field': 'other'}, {'text_format': 'plain'}, {'errors': 'skip'})]
    assert len({json.dumps(identity) for identity in identities}) == 4
    # A text that is read as before is cached as before
    text = write('a.txt', 'a')
    assert TextFiles([text]).identity == TextFiles([text], text_format='plain').identity
