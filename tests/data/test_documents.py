import gzip
import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data import documents
from labml_mlm.data.documents import TextFiles, TextIterable
from labml_mlm.data.files import list_text_files


def read(source):
    """The documents, whole."""
    found, parts = [], []
    for piece, is_last in source:
        parts.append(piece)
        if is_last:
            found.append(''.join(parts))
            parts = []
    assert not parts
    return found


@pytest.fixture(params=[1, 2, 3, 7, 1 << 22])
def chunk(request, monkeypatch):
    """Pieces of a few bytes, so that everything lies across a border of two."""
    monkeypatch.setattr(documents, '_CHUNK', request.param)


@pytest.fixture
def write(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data.encode() if isinstance(data, str) else data
        path.write_bytes({'.gz': gzip.compress, '.zst': zstandard.compress}.get(path.suffix, bytes)(data))
        return path
    return write


@pytest.mark.parametrize('suffix', ['.txt', '.md', '', '.txt.gz', '.md.zst'])
def test_a_file_is_a_document(write, chunk, suffix):
    assert read(TextFiles([write(f'a{suffix}', 'Ünïcödé ↵ 𝔘\nand more\n')])) == ['Ünïcödé ↵ 𝔘\nand more\n']


def test_line_ends_and_a_byte_order_mark(write, chunk):
    path = write('a.txt', b'\xef\xbb\xbfone\r\ntwo\rthree\n\r\nfour\r')
    assert read(TextFiles([path])) == ['one\ntwo\nthree\n\nfour\n']


@pytest.mark.parametrize('suffix', ['.jsonl', '.jsonl.gz', '.jsonl.zst'])
def test_a_json_line_is_a_document(write, chunk, suffix):
    lines = [json.dumps({'body': text, 'text': 5}) for text in ('one', 'two\r\nlines', '\u00e4')]
    path = write(f'a{suffix}', '\n'.join(lines) + '\n\n')
    assert read(TextFiles([path], field='body')) == ['one', 'two\nlines', '\u00e4']


def test_paragraphs(write, chunk):
    path = write('a.txt', '\n\none\nmore of it\n\n\n\ntwo\n\nthree')
    assert read(TextFiles([path], unit='paragraph')) == ['one\nmore of it\n', 'two\n', 'three\n']
    path = write('a.jsonl', json.dumps({'text': 'one\n\ntwo'}) + '\n' + json.dumps({'text': 'three'}))
    assert read(TextFiles([path], unit='paragraph')) == ['one\n', 'two\n', 'three\n']


WRONG = {'empty.txt': b'', 'binary.txt': b'a\0b', 'latin.md': 'Ü'.encode('latin-1'), 'cut.txt.gz': None,
         'lines.jsonl': b'{"text": "good"}\n{"text": 5}\nno JSON\n{"other": "x"}\n\xff\n{"text": ""}\n'}
SAID = ['empty.txt is empty', 'binary.txt is binary: it has the character NUL',
        'latin.md is not UTF-8 text: invalid byte 0xdc', 'cut.txt.gz cannot be',
        'lines.jsonl, line 2, has no text in the field `text`',
        'lines.jsonl, line 3, is no JSON', 'lines.jsonl, line 4, has no text in the field `text`',
        'lines.jsonl, line 5, is not UTF-8 text', 'lines.jsonl, line 6, is empty']


@pytest.fixture
def wrong(write, tmp_path):
    paths = [write('good.txt', 'good text')]
    for name, data in WRONG.items():
        if data is None:
            path = write(name, 'text' * 1000)
            path.write_bytes(path.read_bytes()[:-9])
        else:
            path = write(name, data)
        paths.append(path)
    return [*paths, tmp_path / 'missing.txt']


def test_what_is_no_text_is_named(wrong, chunk, monkeypatch):
    monkeypatch.setattr(documents, '_MAX_NAMED', 99)
    with pytest.raises(UserError) as caught:
        read(TextFiles(wrong))
    message = str(caught.value)
    for said in SAID:
        assert said in message
    assert 'missing.txt cannot be read: No such file' in message
    assert message.endswith('. text_errors=skip leaves them out, '
                            'text_errors=replace has U+FFFD in place of what is not UTF-8')
    assert message.startswith('10 files or lines are no text: ')
    assert 'good.txt' not in message


def test_a_message_names_some_and_counts_the_rest(write):
    paths = [write(f'{i}.txt', b'\xff') for i in range(12)]
    with pytest.raises(UserError, match=r'/0\.txt is not.*/4\.txt is not UTF-8 text: invalid byte 0xff and 7 more\.'):
        read(TextFiles(paths))


def test_what_is_no_text_is_skipped_and_said(wrong, chunk, capsys):
    source = TextFiles(wrong, errors='skip')
    for _ in range(2):
        assert read(source) == ['good text', 'good']
    assert capsys.readouterr().out.count('Left out: ') == 1


def test_what_cannot_be_decoded_is_replaced(write, chunk):
    path = write('latin.txt', 'a Ü b'.encode('latin-1'))
    assert read(TextFiles([path], errors='replace')) == ['a \ufffd b']
    path = write('a.jsonl', b'{"text": "a\xff"}')
    assert read(TextFiles([path], errors='replace')) == ['a\ufffd']


@pytest.mark.parametrize('errors', ['strict', 'skip', 'replace'])
def test_nothing_to_read(write, errors):
    with pytest.raises(UserError):
        read(TextFiles([write('a.txt', ''), write('b.jsonl', '\n')], errors=errors))
    with pytest.raises(UserError, match='there is no text: no file to read'):
        read(TextFiles([], errors=errors))


def test_a_folder(write, tmp_path):
    for name in ('b.txt', 'a.md', 'deep/er/c.jsonl.gz', 'deep/d.TXT.zst', 'no.py', 'e.gz', '[x]/f.txt'):
        write(name, '{"text": "x"}')
    assert [path.relative_to(tmp_path).as_posix() for path in list_text_files(tmp_path, '**/*')] == \
        ['[x]/f.txt', 'a.md', 'b.txt', 'deep/d.TXT.zst', 'deep/er/c.jsonl.gz']
    assert len(list_text_files(str(tmp_path / '[x]'), '**/*.txt')) == 1
    # What is asked for by name is taken
    assert [path.name for path in list_text_files(tmp_path, '*.py')] == ['no.py']
    with pytest.raises(UserError, match='there is no text in .*: \\*.rst takes no file'):
        list_text_files(tmp_path, '*.rst')
    with pytest.raises(UserError, match='no file ends in .txt, .md, .jsonl, or in one of those and .gz or .zst'):
        list_text_files(write('code/a.py', 'x').parent, '**/*')
    with pytest.raises(UserError, match='is no folder'):
        list_text_files(tmp_path / 'none', '*')


def test_identity_goes_by_name_size_and_time(write):
    path = write('a.txt', 'text')
    before = TextFiles([path]).identity
    assert TextFiles([path]).identity == before == json.loads(json.dumps(before))
    assert TextFiles([path], unit='paragraph').identity != before
    write('a.txt', 'other')
    assert TextFiles([path]).identity != before


def test_texts_from_python(chunk):
    for texts in (['one', '', 'th\u00fc'], ('one', '', 'th\u00fc'), iter(['one', '', 'th\u00fc']),
                  (text for text in ['one', '', 'th\u00fc'])):
        source = TextIterable(texts)
        # As often as needed
        for _ in range(2):
            assert read(source) == ['one', '', 'th\u00fc']
        # Also while it is being read
        outer = iter(source)
        next(outer)
        assert read(source) == ['one', '', 'th\u00fc']
        assert read([('', False), *outer])[-1] == 'th\u00fc'
    assert read(TextIterable('one text')) == ['one text']
    with pytest.raises(UserError, match='a document has to be a text, and one is a int'):
        read(TextIterable([5]))


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_give_texts_or_one_clear_error(tmp_path_factory, contents):
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
