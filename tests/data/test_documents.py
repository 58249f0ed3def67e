import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data import documents
from labml_mlm.data.documents import TextFiles, TextIterable


def read(source):
    """The documents of a source, joined from their pieces."""
    found, pieces = [], []
    for piece, is_last in source:
        pieces.append(piece)
        if is_last:
            found.append(''.join(pieces))
            pieces = []
    assert not pieces
    return found


@pytest.fixture(params=[1, 2, 3, 7, 1 << 22])
def chunk(request, monkeypatch):
    """Reads a few bytes at a time, so that characters, line ends and paragraphs span two pieces."""
    monkeypatch.setattr(documents, '_CHUNK', request.param)


@pytest.mark.parametrize('suffix', ['.txt', '.md', '', '.txt.gz', '.md.zst'])
def test_a_text_file_is_one_document(write, chunk, suffix):
    assert read(TextFiles([write(f'a{suffix}', 'Ünïcödé ↵ 𝔘\nand more\n')])) == ['Ünïcödé ↵ 𝔘\nand more\n']


def test_line_ends_are_normalized_and_a_byte_order_mark_is_dropped(write, chunk):
    path = write('a.txt', b'\xef\xbb\xbfone\r\ntwo\rthree\n\r\nfour\r')
    assert read(TextFiles([path])) == ['one\ntwo\nthree\n\nfour\n']


@pytest.mark.parametrize('suffix', ['.jsonl', '.jsonl.gz', '.jsonl.zst'])
def test_a_json_line_is_one_document(write, chunk, suffix):
    lines = [json.dumps({'body': text, 'text': 5}) for text in ('one', 'two\r\nlines', '\u00e4')]
    path = write(f'a{suffix}', '\n'.join(lines) + '\n\n')
    assert read(TextFiles([path], field='body')) == ['one', 'two\nlines', '\u00e4']


def test_a_paragraph_is_one_document(write, chunk):
    path = write('a.txt', '\n\none\nmore of it\n\n\n\ntwo\n\nthree')
    assert read(TextFiles([path], unit='paragraph')) == ['one\nmore of it\n', 'two\n', 'three\n']
    path = write('a.jsonl', json.dumps({'text': 'one\n\ntwo'}) + '\n' + json.dumps({'text': 'three'}))
    assert read(TextFiles([path], unit='paragraph')) == ['one\n', 'two\n', 'three\n']


def test_a_line_of_blanks_is_a_blank_line(write, chunk):
    path = write('a.txt', '  \n\t\n  one \nmore of it\n  \ntwo\n \n\n\t\n three\n  \n ')
    assert read(TextFiles([path], unit='paragraph')) == ['  one \nmore of it\n', 'two\n', ' three\n']


@given(st.text(alphabet='ab \n', max_size=40), st.integers(1, 6))
def test_paragraphs_do_not_depend_on_how_they_are_read(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, '_CHUNK', size)
        pieces = [text[i:i + size] for i in range(0, len(text), size)] or ['']
        found = read(documents._paragraphs((piece, i == len(pieces) - 1) for i, piece in enumerate(pieces)))
    # Line by line
    expected, lines = [], []
    for line in [*text.split('\n'), '']:
        if line.strip():
            lines.append(line)
        elif lines:
            expected.append('\n'.join(lines) + '\n')
            lines = []
    assert found == expected


INVALID = {'empty.txt': b'', 'binary.txt': b'a\0b', 'latin.md': 'Ü'.encode('latin-1'), 'truncated.txt.gz': None,
           'lines.jsonl': b'{"text": "good"}\n{"text": 5}\nno JSON\n{"other": "x"}\n\xff\n{"text": ""}\n'}
MESSAGES = ['empty.txt is empty', 'binary.txt is binary: it contains NUL characters',
            'latin.md is not UTF-8: invalid byte 0xdc', 'truncated.txt.gz cannot be',
            'lines.jsonl, line 2, has no text in the field that text_field names, but a value of type int',
            'lines.jsonl, line 3, is not JSON',
            "lines.jsonl, line 4, has no field `text` (text_field): its fields are 'other'.",
            'lines.jsonl, line 5, is not UTF-8']


@pytest.fixture
def invalid(write, tmp_path):
    paths = [write('good.txt', 'good text')]
    for name, data in INVALID.items():
        if data is None:
            path = write(name, 'text' * 1000)
            path.write_bytes(path.read_bytes()[:-9])
        else:
            path = write(name, data)
        paths.append(path)
    return [*paths, tmp_path / 'missing.txt']


def test_invalid_files_and_lines_are_named(invalid, chunk, monkeypatch):
    monkeypatch.setattr(documents, '_MAX_NAMED', 99)
    with pytest.raises(UserError) as caught:
        read(TextFiles(invalid))
    error = str(caught.value)
    for message in MESSAGES:
        assert message in error
    assert 'missing.txt cannot be read: No such file' in error
    assert error.endswith('. text_errors=skip leaves them out, '
                          'text_errors=replace puts U+FFFD in place of invalid UTF-8')
    assert error.startswith('9 files or lines are not text: ')
    assert 'good.txt' not in error


def test_error_names_some_files_and_counts_the_others(write):
    paths = [write(f'{i}.txt', b'\xff') for i in range(12)]
    with pytest.raises(UserError, match=r'/0\.txt is not.*/4\.txt is not UTF-8: invalid byte 0xff and 7 more\.'):
        read(TextFiles(paths))


def test_invalid_files_and_lines_are_skipped_and_reported_once(invalid, chunk, capsys):
    source = TextFiles(invalid, errors='skip')
    for _ in range(2):
        assert read(source) == ['good text', 'good']
    assert capsys.readouterr().out.count('Left out: ') == 1


def test_invalid_utf8_is_replaced(write, chunk):
    path = write('latin.txt', 'a Ü b'.encode('latin-1'))
    assert read(TextFiles([path], errors='replace')) == ['a \ufffd b']
    path = write('a.jsonl', b'{"text": "a\xff"}')
    assert read(TextFiles([path], errors='replace')) == ['a\ufffd']


@pytest.mark.parametrize('errors', ['strict', 'skip', 'replace'])
def test_empty_texts_are_refused(write, errors):
    with pytest.raises(UserError):
        read(TextFiles([write('a.txt', ''), write('b.jsonl', '\n')], errors=errors))
    with pytest.raises(UserError, match='there is no text: no file to read'):
        read(TextFiles([], errors=errors))


def test_identity_depends_on_name_size_time_and_unit(write):
    path = write('a.txt', 'text')
    before = TextFiles([path]).identity
    assert TextFiles([path]).identity == before == json.loads(json.dumps(before))
    assert TextFiles([path], unit='paragraph').identity != before
    write('a.txt', 'other')
    assert TextFiles([path]).identity != before


def test_texts_from_python_can_be_read_repeatedly(chunk):
    for texts in (['one', '', 'th\u00fc'], ('one', '', 'th\u00fc'), iter(['one', '', 'th\u00fc']),
                  (text for text in ['one', '', 'th\u00fc'])):
        source = TextIterable(texts)
        for _ in range(2):
            assert read(source) == ['one', '', 'th\u00fc']
        # Also while another iteration is under way
        outer = iter(source)
        next(outer)
        assert read(source) == ['one', '', 'th\u00fc']
        assert read([('', False), *outer])[-1] == 'th\u00fc'
    assert read(TextIterable('one text')) == ['one text']
    with pytest.raises(UserError, match='documents must be of type str, and one is of type int'):
        read(TextIterable([5]))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_give_texts_or_a_user_error(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp('any')
    paths = []
    for i, content in enumerate(contents):
        paths.append(folder / f'{i}{[".txt", ".jsonl", ".txt.gz", ".txt.zst"][i % 4]}')
        paths[-1].write_bytes(content)
    for errors in ('strict', 'skip', 'replace'):
        try:
            found = read(TextFiles(paths, errors=errors))
        except UserError as e:
            assert str(e)
        else:
            assert found and all(isinstance(text, str) and text for text in found)
