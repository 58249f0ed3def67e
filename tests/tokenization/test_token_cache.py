import hashlib
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.data import corpus, documents
from labml_mlm.data.documents import TextFiles, TextIterable
from labml_mlm.tokenization import token_cache, token_file
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.tokenization.token_file import DamagedTokens, TokenFile, TokenFileWriter


@pytest.fixture
def text_files(tmp_path):
    paths = []
    for i in range(40):
        paths.append(tmp_path / f'{i}.txt')
        paths[-1].write_text(f'text number {i}, ünïcödé and more of it\n' * (i + 1))
    return paths


@pytest.fixture
def cache(tmp_path, text_files):
    def cache(paths=text_files, **options):
        return TokenCache(tmp_path / 'cache', TextFiles(paths), valid_fraction=0.1, **options)
    return cache


def tokens_of(cache):
    found = cache.corpus()
    tokenizer = CharacterTokenizer(found.characters)
    return cache.tokens(found, tokenizer), tokenizer


def documents_of(tokens, ends, tokenizer):
    begins = [0, *ends[:-1].tolist()]
    return [tokenizer.decode(tokens[begin:end].tolist()) for begin, end in zip(begins, ends.tolist(), strict=True)]


def test_documents_are_split_into_training_and_validation(cache, text_files):
    tokens, tokenizer = tokens_of(cache())
    assert tokens.train.dtype == np.uint8
    texts = [path.read_text() for path in text_files]
    _, is_valid = corpus.scan(TextIterable(texts), valid_fraction=0.1)
    train, valid = ([text for text, is_of_valid in zip(texts, is_valid, strict=True) if is_of_valid == part]
                    for part in (False, True))
    assert documents_of(tokens.train, tokens.train_ends, tokenizer) == [f'{text}[SEP]' for text in train]
    assert documents_of(tokens.valid, tokens.valid_ends, tokenizer) == [f'{text}[SEP]' for text in valid]
    assert len(valid) > 0


def test_single_document_is_cut_at_90_percent(cache, text_files, monkeypatch):
    monkeypatch.setattr(documents, '_CHUNK', 50)
    tokens, tokenizer = tokens_of(cache(text_files[9:10]))
    text = text_files[9].read_text()
    assert tokenizer.decode(tokens.train.tolist()) == text[:int(len(text) * 0.9)]
    assert tokenizer.decode(tokens.valid.tolist()) == text[int(len(text) * 0.9):]
    assert (len(tokens.train_ends), len(tokens.valid_ends)) == (1, 1)


def test_equal_documents_are_cut(tmp_path):
    (tmp_path / 'one.txt').write_text('0123456789')
    (tmp_path / 'two.txt').write_text('0123456789')
    tokens, tokenizer = tokens_of(TokenCache(tmp_path, TextFiles(sorted(tmp_path.glob('*.txt'))), valid_fraction=0.25))
    assert documents_of(tokens.train, tokens.train_ends, tokenizer) == ['0123456789[SEP]', '01234']
    assert documents_of(tokens.valid, tokens.valid_ends, tokenizer) == ['56789[SEP]']


def test_tokens_are_reused_and_reported(cache, text_files, capsys, monkeypatch):
    first, _ = tokens_of(cache())
    assert 'Using' not in capsys.readouterr().out
    # Without reading the text again
    monkeypatch.setattr(TextFiles, '__iter__', lambda self: pytest.fail('read'))
    second, _ = tokens_of(cache())
    assert capsys.readouterr().out.count(f'Using the tokens in {second.path}') == 1
    assert second.path == first.path and np.array_equal(first.train, second.train)


def test_another_text_or_fraction_is_another_file(cache, text_files, tmp_path):
    before, _ = tokens_of(cache())
    text_files[3].write_text('changed')
    changed, _ = tokens_of(cache())
    assert changed.path != before.path and not np.array_equal(changed.train, before.train)
    fewer, _ = tokens_of(cache(text_files[:-1]))
    assert fewer.path not in (before.path, changed.path)
    other = TokenCache(tmp_path / 'cache', TextFiles(text_files), valid_fraction=0.4)
    assert tokens_of(other)[0].path not in (before.path, changed.path, fewer.path)


def truncated(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def foreign(path):
    path.write_bytes(b'something else' * 10_000)


def altered_header(path):
    with open(path, 'r+b') as f:
        f.seek(100)
        f.write(b'#')


def altered_tokens(path):
    with open(path, 'r+b') as f:
        f.seek(token_file._TOKENS_AT + 5)
        f.write(b'\xff')


def other_version(path):
    with open(path, 'r+b') as f:
        f.seek(8)
        f.write(b'\x63')


@pytest.mark.parametrize('damage', [truncated, empty, foreign, altered_header, altered_tokens, other_version])
def test_damaged_tokens_are_rewritten(cache, capsys, damage):
    before, _ = tokens_of(cache())
    path, train = before.path, before.train.copy()
    damage(path)
    with pytest.raises(DamagedTokens):
        TokenFile(path)
    capsys.readouterr()
    after, _ = tokens_of(cache())
    assert np.array_equal(after.train, train)
    assert 'it is written again' in capsys.readouterr().out
    assert [name for name in os.listdir(path.parent) if name.endswith('.new')] == []


@pytest.mark.parametrize('content', [b'[1, 2', b'[]', b'[' * 100_000, b'{"n_documents": 1}', b'5', bytes(range(256)),
                                     b'{"n_documents": "x", "n_characters": -1, "sha256": 5, "characters": []}'])
@pytest.mark.parametrize('name', ['json', 'tokens'])
def test_invalid_files_in_the_cache_are_rewritten(cache, name, content):
    before, _ = tokens_of(cache())
    train = before.train.copy()
    for path in before.path.parent.glob(f'*.{name}'):
        path.write_bytes(content)
    assert np.array_equal(tokens_of(cache())[0].train, train)


@pytest.mark.parametrize('put', [os.mkfifo, lambda path: path.symlink_to('/dev/zero')], ids=['pipe', 'endless'])
@pytest.mark.parametrize('name', ['json', 'tokens'])
def test_what_is_no_file_in_the_cache_is_replaced(cache, name, put):
    before, _ = tokens_of(cache())
    train = before.train.copy()
    for path in before.path.parent.glob(f'*.{name}'):
        path.unlink()
        put(path)
    assert np.array_equal(tokens_of(cache())[0].train, train)
    assert all(path.is_file() and not path.is_symlink() for path in before.path.parent.glob(f'*.{name}'))


HEADERS = [{'dtype': 'O'}, {'dtype': 'f8'}, {'dtype': 'x'}, {'dtype': 5}, {'dtype': '(1000000000000,)u1'},
           {'n_tokens': 10 ** 12}, {'n_tokens': -1}, {'n_tokens': 'x'}, {'n_train_tokens': 10 ** 12},
           {'n_documents': 10 ** 12}, {'n_train_documents': -1}, {'ends_at': 10 ** 12}, {'ends_at': 3}, {'blocks': 5},
           {'blocks': [[0, 10 ** 15, 0]]}, {'blocks': [[-1, 4, 0]]}, {'size': 5}, {'about': None}]


@pytest.mark.parametrize('changes', HEADERS, ids=str)
def test_header_that_asks_for_what_is_not_in_the_file_is_damage(cache, changes):
    """Also with a right checksum."""
    before, _ = tokens_of(cache())
    path, train = before.path, before.train.copy()
    with open(path, 'rb') as f:
        header = token_file._header(f)
    data = json.dumps(header | changes).encode()
    with open(path, 'r+b') as f:
        f.write(token_file._HEAD.pack(token_file._MAGIC, token_file._VERSION, len(data), hashlib.sha256(data).digest())
                + data)
    if changes != {'about': None}:
        with pytest.raises(DamagedTokens):
            TokenFile(path)
    assert np.array_equal(tokens_of(cache())[0].train, train)


def write_and_count(cache, queue):
    """Puts how often this process wrote the tokens, and their sum."""
    written = []
    finish = TokenFileWriter.finish
    TokenFileWriter.finish = lambda *arguments, **options: (written.append(1), finish(*arguments, **options))
    tokens, _ = tokens_of(cache)
    queue.put((len(written), int(tokens.train.sum())))


def test_concurrent_processes_write_tokens_once(cache):
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    processes = [context.Process(target=write_and_count, args=[cache(), queue]) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    assert sum(n for n, _ in results) == 1
    assert len({total for _, total in results}) == 1


def test_too_little_space_is_reported_before_writing(cache, monkeypatch):
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=100))
    with pytest.raises(OSError, match='the tokens take some 0 MB more while they are written, and 0 MB are free'):
        tokens_of(cache())


def test_full_disk_leaves_nothing_behind(text_files, small_disk):
    cache = TokenCache(small_disk, TextFiles(text_files), valid_fraction=0.1)
    found = cache.corpus()
    (small_disk / 'other').write_bytes(bytes(480 * 1024))
    with pytest.raises(OSError):
        cache.tokens(found, CharacterTokenizer(found.characters))
    assert not [path for path in small_disk.iterdir() if path.suffix in ('.new', '.tokens')]


def test_text_that_changes_while_it_is_read_is_refused(cache, text_files):
    for change in (lambda: text_files[3].write_text('changed, and of other characters, too'),
                   lambda: text_files[5].write_text('0123456789' * 50)):
        of_text = cache()
        found = of_text.corpus()
        change()
        with pytest.raises(UserError, match=r'\d\.txt was changed while it was read'):
            of_text.tokens(found, CharacterTokenizer(found.characters))
        assert not list(of_text.folder.glob('*.tokens'))


@pytest.mark.parametrize('change', [lambda path: path.write_text('other'), lambda path: path.unlink(),
                                    lambda path: path.open('a').write('more')], ids=['other', 'gone', 'more'])
def test_file_that_changes_after_it_was_read_is_named_by_the_first_pass(cache, text_files, monkeypatch, change):
    def scan(documents, **options):
        found = whole(documents, **options)
        change(text_files[7])
        return found

    whole = corpus.scan
    monkeypatch.setattr(corpus, 'scan', scan)
    of_text = cache()
    with pytest.raises(UserError, match=r'7\.txt was changed while it was read'):
        of_text.corpus()
    # Nothing is kept of it
    assert not of_text.folder.exists() or not list(of_text.folder.iterdir())


def test_text_is_named_by_what_it_was_when_it_was_read(cache, text_files):
    """A change before the first pass is none: it must not be kept under the name of the earlier text."""
    of_text, before = cache(), [path.read_text() for path in text_files]
    text_files[0].write_text('0123456789' * 20)
    assert '9' in of_text.corpus().characters
    text_files[0].write_text(before[0])
    assert cache().corpus() == corpus.scan(TextIterable(before), valid_fraction=0.1)[0]


class Growing:
    """One document more at each reading."""
    identity = None

    def __init__(self):
        self.n = 3

    def __iter__(self):
        self.n += 1
        return iter([(f'document {i}', True) for i in range(self.n)])


@pytest.mark.parametrize('step', [1, -2])
def test_text_whose_number_of_documents_changes_is_refused(tmp_path, step):
    growing = Growing()
    cache = TokenCache(tmp_path, growing, valid_fraction=0.1)
    found = cache.corpus()
    # Another reading estimates the number of tokens
    growing.n += step - 1
    with pytest.raises(UserError, match='the text was changed while it was read'):
        cache.tokens(found, CharacterTokenizer(found.characters))


def test_unknown_tokens_are_said_again_with_cached_tokens(cache, monkeypatch):
    said = []
    monkeypatch.setattr(token_cache.logger, 'log', lambda message, *_: said.append(message))
    # Block by block
    monkeypatch.setattr(token_cache, '_BLOCK', 100)
    monkeypatch.setattr(token_cache, '_LOOKED_AT', 10_000)
    found = cache().corpus()
    for unknown in ('u', ''):
        tokenizer = CharacterTokenizer(c for c in found.characters if c != unknown)
        tokens = cache().tokens(found, tokenizer)
        n = len(tokens.train) + len(tokens.valid)
        del said[:]
        cache().tokens(found, tokenizer)
        about = [message for message in said if '[UNK]' in message]
        if not unknown:
            assert about == []
            continue
        share = sum(int((part == 1).sum()) for part in (tokens.train, tokens.valid)) / n
        [message] = about
        assert float(message.partition('%')[0]) / 100 == pytest.approx(share, rel=0.2)
