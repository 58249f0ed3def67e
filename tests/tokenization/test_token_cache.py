import multiprocessing
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data import corpus, documents
from labml_mlm.data.documents import TextFiles, TextIterable
from labml_mlm.tokenization import token_file
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
    known = cache.corpus()
    return cache.tokens(known, CharacterTokenizer(known.characters)), CharacterTokenizer(known.characters)


def documents_of(tokens, ends, tokenizer):
    begins = [0, *ends[:-1].tolist()]
    return [tokenizer.decode(tokens[begin:end].tolist()) for begin, end in zip(begins, ends.tolist(), strict=True)]


def test_all_documents_are_there_each_on_its_side(cache, text_files):
    tokens, tokenizer = tokens_of(cache())
    assert tokens.train.dtype == np.uint8
    texts = [path.read_text() for path in text_files]
    _, is_valid = corpus.read(TextIterable(texts), valid_fraction=0.1)
    train, valid = ([text for text, side in zip(texts, is_valid, strict=True) if side == which] for which in (0, 1))
    assert documents_of(tokens.train, tokens.train_document_ends, tokenizer) == [f'{text}[SEP]' for text in train]
    assert documents_of(tokens.valid, tokens.valid_document_ends, tokenizer) == [f'{text}[SEP]' for text in valid]
    assert len(valid) > 0


def test_one_document_is_cut_at_90_percent(cache, text_files, monkeypatch):
    monkeypatch.setattr(documents, '_CHUNK', 50)
    tokens, tokenizer = tokens_of(cache(text_files[9:10]))
    text = text_files[9].read_text()
    assert tokenizer.decode(tokens.train.tolist()) == text[:int(len(text) * 0.9)]
    assert tokenizer.decode(tokens.valid.tolist()) == text[int(len(text) * 0.9):]
    assert (len(tokens.train_document_ends), len(tokens.valid_document_ends)) == (1, 1)


def test_copies_of_one_document_are_cut(tmp_path):
    (tmp_path / 'one.txt').write_text('0123456789')
    (tmp_path / 'two.txt').write_text('0123456789')
    tokens, tokenizer = tokens_of(TokenCache(tmp_path, TextFiles(sorted(tmp_path.glob('*.txt'))), valid_fraction=0.25))
    assert documents_of(tokens.train, tokens.train_document_ends, tokenizer) == ['0123456789[SEP]', '01234']
    assert documents_of(tokens.valid, tokens.valid_document_ends, tokenizer) == ['56789[SEP]']


def test_it_is_used_again_and_said(cache, text_files, capsys, monkeypatch):
    first, _ = tokens_of(cache())
    assert 'Using' not in capsys.readouterr().out
    # Nothing is read for it
    monkeypatch.setattr(TextFiles, '__iter__', lambda self: pytest.fail('read'))
    second, _ = tokens_of(cache())
    assert capsys.readouterr().out.count(f'Using the tokens in {second.path}') == 1
    assert second.path == first.path and np.array_equal(first.train, second.train)


def test_another_text_or_share_is_another_file(cache, text_files, tmp_path):
    before, _ = tokens_of(cache())
    text_files[3].write_text('changed')
    changed, _ = tokens_of(cache())
    assert changed.path != before.path and not np.array_equal(changed.train, before.train)
    fewer, _ = tokens_of(cache(text_files[:-1]))
    assert fewer.path not in (before.path, changed.path)
    other = TokenCache(tmp_path / 'cache', TextFiles(text_files), valid_fraction=0.4)
    assert tokens_of(other)[0].path not in (before.path, changed.path, fewer.path)


def cut(path):
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


@pytest.mark.parametrize('damage', [cut, empty, foreign, altered_header, altered_tokens, other_version])
def test_what_is_damaged_is_written_anew(cache, capsys, damage):
    before, _ = tokens_of(cache())
    path, train = before.path, before.train.copy()
    damage(path)
    with pytest.raises(DamagedTokens):
        TokenFile(path)
    capsys.readouterr()
    after, _ = tokens_of(cache())
    assert np.array_equal(after.train, train)
    assert 'it is written anew' in capsys.readouterr().out
    assert [name for name in os.listdir(path.parent) if name.endswith('.new')] == []


@pytest.mark.parametrize('name', ['json', 'tokens'])
def test_a_cache_that_holds_nonsense(cache, name):
    before, _ = tokens_of(cache())
    train = before.train.copy()
    for path in before.path.parent.glob(f'*.{name}'):
        path.write_bytes(b'[1, 2')
    assert np.array_equal(tokens_of(cache())[0].train, train)


def build(cache, queue):
    written = []
    writer_finish = TokenFileWriter.finish
    TokenFileWriter.finish = lambda *arguments, **options: (written.append(1), writer_finish(*arguments, **options))
    tokens, _ = tokens_of(cache)
    queue.put((len(written), int(tokens.train.sum())))


def test_two_processes_write_it_once(cache):
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    processes = [context.Process(target=build, args=[cache(), queue]) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    assert sum(n for n, _ in results) == 1
    assert len({total for _, total in results}) == 1


def test_no_space(cache, monkeypatch):
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=100))
    with pytest.raises(OSError, match='the tokens take some 0 MB more while they are written, and 0 MB are free'):
        tokens_of(cache())


def test_a_disk_that_is_full_leaves_nothing_behind(text_files, small_disk):
    cache = TokenCache(small_disk, TextFiles(text_files), valid_fraction=0.1)
    known = cache.corpus()
    (small_disk / 'other').write_bytes(bytes(480 * 1024))
    with pytest.raises(OSError):
        cache.tokens(known, CharacterTokenizer(known.characters))
    assert not [path for path in small_disk.iterdir() if path.suffix in ('.new', '.tokens')]


@given(st.lists(st.tuples(st.lists(st.integers(0, 299), max_size=9), st.booleans()), min_size=1, max_size=9),
       st.sampled_from([200, 256, 257, 65536, 65537]), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, docs, n_tokens, is_split):
    folder = tmp_path_factory.mktemp('tokens')
    writer = TokenFileWriter(folder, n_tokens=n_tokens)
    assert np.iinfo(writer.dtype).max >= n_tokens - 1
    docs = [([token % n_tokens for token in doc], side) for doc, side in docs]
    for doc, side in docs:
        # In two pieces
        writer.add(np.array(doc[:3], np.int32), is_last=False, is_valid=side)
        writer.add(np.array(doc[3:], np.int32), is_last=True, is_valid=side)
    writer.finish(folder / 'x.tokens', about={'mine': 1}, valid_fraction=0.25 if is_split else None)
    read = TokenFile(folder / 'x.tokens')
    assert read.about == {'mine': 1} and read.train.dtype == writer.dtype
    train, valid = ([token for doc, side in docs if side == which for token in doc] for which in (False, True))
    if is_split and not any(side for _, side in docs):
        train, valid = train[:int(len(train) * 0.75)], train[int(len(train) * 0.75):]
    assert read.train.tolist() == train and read.valid.tolist() == valid
    if any(side for _, side in docs):
        for ends, which in ((read.train_document_ends, False), (read.valid_document_ends, True)):
            assert ends.tolist() == np.cumsum([len(doc) for doc, side in docs if side == which], dtype=int).tolist()
    else:
        assert read.train_document_ends[-1] == len(train) and (np.diff(read.train_document_ends) >= 0).all()
    assert os.listdir(folder) == ['x.tokens']


def test_a_text_that_is_altered_while_it_is_read(cache, text_files):
    for change in (lambda: text_files[3].write_text('changed, and of other characters, too'),
                   lambda: text_files[5].write_text('0123456789' * 50)):
        one = cache()
        known = one.corpus()
        change()
        with pytest.raises(UserError, match='the text was altered while it was read'):
            one.tokens(known, CharacterTokenizer(known.characters))
        assert not list(one.folder.glob('*.tokens'))


class Growing:
    """Documents that are more at each reading."""
    identity = None

    def __init__(self):
        self.n = 3

    def __iter__(self):
        self.n += 1
        return iter([(f'document {i}', True) for i in range(self.n)])


@pytest.mark.parametrize('step', [1, -2])
def test_documents_that_change_their_number(tmp_path, step):
    growing = Growing()
    one = TokenCache(tmp_path, growing, valid_fraction=0.1)
    known = one.corpus()
    growing.n += step - 1
    # One reading more finds out how many tokens there will be
    with pytest.raises(UserError, match='the text was altered while it was read'):
        one.tokens(known, CharacterTokenizer(known.characters))
