"""`labml-mlm text`."""
import json

import pytest
from support.project import TEXT, outcome

from labml_mlm.text_facts import epoch
from labml_mlm.tokenization.train_tokenizer import TRAINERS


@pytest.fixture
def show(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(epoch, '_SECONDS', 0.)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.txt').write_text(TEXT)

    def show(*arguments):
        return outcome(capsys, 'text', *arguments)
    return show


def rows_of(out):
    return {line[:15].strip(): line[15:] for line in out.splitlines()}


def test_facts_of_a_text(show):
    code, out, err = show('a.txt')
    assert (code, err) == (0, '')
    rows = rows_of(out)
    assert list(rows) == ['files', 'documents', 'lines', 'line length', 'characters', '', 'tokenizer', 'tokens',
                          'tokens a word', '[UNK]', 'windows', 'an epoch']
    assert rows['lines'] == '100, 0 of them blank; 99.0% repeat an earlier one'
    assert rows['tokenizer'] == 'recipe=char, 33 tokens'
    assert rows['an epoch'].startswith('2 steps of batch_size=64, about ')


def test_facts_in_json(show, tmp_path):
    (tmp_path / 'b.txt').write_bytes(b'fa\xe9 x\n')
    code, out, err = show('a.txt', 'b.txt', '--json')
    found = json.loads(out)
    assert (code, err, found['files'], found['documents']['count']) == (0, '', 2, 2)
    assert found['invalid_utf8'] == {'count': 1, 'file': 'b.txt', 'line': 1, 'byte': 0xe9}
    assert found['characters']['scripts']['Latin'] == 100 * 35 + 3
    assert found['tokens']['count'] == len(TEXT) + 6 + 2
    assert found['epoch']['steps'] == 2 and found['epoch']['minutes'] > 0


def test_invalid_utf8_is_said(show, tmp_path):
    (tmp_path / 'b.txt').write_bytes(TEXT.encode() + b'\nfa\xe9 x\n')
    assert rows_of(show('b.txt')[1])['invalid UTF-8'] == \
        '1 place, the first in b.txt, line 102: byte 0xe9. Training needs text_errors=replace or skip'


def test_tokenizer_of_a_file(show, tmp_path):
    tokenizer = TRAINERS['bpe']([TEXT], vocab_size=270, max_token_length=32)
    (tmp_path / 'tokenizer.json').write_text(tokenizer.files['tokenizer.json'])
    for name in ('tokenizer.json', '.'):
        code, out, _ = show('a.txt', '--tokenizer', name)
        rows = rows_of(out)
        assert code == 0 and rows['tokenizer'] == f'{name}, with recipe=subword, 270 tokens'
        assert 'of seq_len=128' in rows['windows']
        assert rows['cut most'].endswith(')') and ': ' in rows['cut most']


def test_tokenizer_and_items_of_a_run(show, run):
    code, out, _ = show('a.txt', '--tokenizer', str(run))
    rows = rows_of(out)
    assert code == 0 and '/feed/checkpoints/' in rows['tokenizer']
    assert 'of seq_len=16' in rows['windows']


def test_folders_and_fields(show, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder/a.txt').write_text(TEXT)
    (tmp_path / 'folder/b.csv').write_text('body,n\nthe fox,1\n,2\n')
    (tmp_path / 'folder/c.py').write_text('pass')
    code, out, err = show('folder', '--field', 'body', '--json')
    assert code == 0 and json.loads(out)['documents']['count'] == 2
    assert 'c.py' not in out and '1 .py' in err and '1 row without text is left out' in err


@pytest.mark.parametrize('arguments, message', [
    (['none.txt'], 'there is no file or folder none.txt'), (['empty.txt'], 'empty.txt is empty'),
    (['binary.dat'], 'binary.dat is binary: it contains NUL characters'),
    (['https://host/a.txt'], 'is an address, and must be a path'),
    (['a.txt', '--tokenizer', 'none'], '--tokenizer none: '), (['a.txt', '--tokenizer', 'a.txt'], 'is not a tokenizer'),
    (['a.txt', '--tokenizer', 'folder'], 'the folder has no tokenizer'),
    (['a.txt', '--field', 'body'], '--field body is for JSON lines'), ([], 'arguments are required: FILE'),
    (['one.txt'], 'there is nothing to predict with fewer than 2')])
def test_wrong_input_is_refused(show, tmp_path, arguments, message):
    (tmp_path / 'empty.txt').touch()
    (tmp_path / 'one.txt').write_text('aaaa')
    (tmp_path / 'binary.dat').write_bytes(b'\x7fELF\0\0\1')
    (tmp_path / 'folder').mkdir()
    code, out, err = show(*arguments)
    assert (code, out) == (2, '') and message in err and len(err.splitlines()) == 1
