import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.data import blocks
from labml_mlm.data.blocks import Block
from labml_mlm.data.documents import TextIterable
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.encoded import Encoded, encode_blocks
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.tokenization.train_tokenizer import bpe

TOKENIZERS = {'character': CharacterTokenizer('abc xyz'), 'bpe': bpe(['abc xyz abc'] * 9, vocab_size=300)}
documents = st.lists(st.text('abc xyz?', max_size=20), max_size=8)


class OneByOne:
    """A tokenizer of one's own, which knows nothing of blocks."""

    def __init__(self, tokenizer):
        self.encode_documents = tokenizer.encode_documents


def tokens_of(encoded):
    """The tokens of each document."""
    found, tokens = [], []
    for part in encoded:
        for more, is_last in part.documents():
            tokens += more.tolist()
            if is_last:
                found, tokens = [*found, tokens], []
    assert not tokens
    return found


@pytest.mark.parametrize('kind', TOKENIZERS)
@given(st.lists(documents.filter(bool), max_size=4), st.booleans())
def test_blocks_have_the_tokens_of_documents(kind, texts, is_begun):
    tokenizer = TOKENIZERS[kind]
    given = [Block(['abc'], False)] * (is_begun and bool(texts)) + [Block(part) for part in texts]
    whole = [text for part in texts for text in part]
    if is_begun and whole:
        whole[0] = f'abc{whole[0]}'
    expected = [tokenizer.encode(text).tolist() for text in whole]
    assert tokens_of(encode_blocks(tokenizer, given)) == expected
    assert tokens_of(encode_blocks(OneByOne(tokenizer), given)) == expected


@given(st.lists(st.lists(st.integers(1, 9), max_size=4)), st.lists(st.integers(1, 9), max_size=2))
def test_separators_end_documents(given, rest):
    tokens = np.array([token for document in given for token in document] + rest, np.int32)
    ends = np.cumsum([len(document) for document in given], dtype=np.int64)
    found = Encoded(tokens, ends).with_separators(0)
    assert found.tokens.dtype == np.int32
    expected = [[*document, 0] for document in given] + [rest] * bool(rest)
    assert [part.tolist() for part, _ in found.documents()] == expected


@pytest.mark.parametrize('kind', TOKENIZERS)
@given(documents.filter(lambda texts: sum(map(len, texts)) > 8))
def test_token_file_is_the_same_in_blocks(kind, tmp_path_factory, texts):
    files = []
    for size in (1, 30, 1 << 18):
        folder = tmp_path_factory.mktemp('tokens')
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, '_GATHERED', size)
            cache = TokenCache(folder, TextIterable([text.replace('?', 'a') for text in texts]), valid_fraction=0.3)
            cache.tokens(cache.corpus(), TOKENIZERS[kind])
        files.append([path.read_bytes() for path in folder.glob('*.tokens')])
    assert len(files[0]) == 1 and files[1:] == files[:1] * 2


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_documents_are_encoded_as_a_class_of_ones_own_does(kind):
    """It knows of no blocks, and what it inherits would leave its own method out."""
    class Mine(type(TOKENIZERS[kind])):
        def encode_documents(self, pieces):
            for tokens, is_last in super().encode_documents(pieces):
                yield tokens[::-1], is_last

    mine = Mine('abc xyz') if kind == 'character' else Mine(TOKENIZERS[kind].tokenizer)
    expected = [TOKENIZERS[kind].encode(text)[::-1].tolist() for text in ('abc', 'xyz a')]
    assert tokens_of(encode_blocks(mine, [Block(['abc', 'xyz a'])])) == expected
