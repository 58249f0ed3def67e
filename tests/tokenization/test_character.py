import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.character import CharacterTokenizer

UNK = CharacterTokenizer.special.unk


def slow_encode(tokenizer, text):
    return [tokenizer.tokens.index(c) if c in tokenizer.tokens else UNK for c in text]


@given(st.text(min_size=2).filter(lambda s: len(set(s)) > 1), st.text())
def test_encode_looks_up_every_character(text, other):
    tokenizer = CharacterTokenizer.from_characters(text)
    assert tokenizer.encode(text).tolist() == slow_encode(tokenizer, text)
    assert tokenizer.encode(other).tolist() == slow_encode(tokenizer, other)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_come_first_and_characters_are_sorted():
    tokenizer = CharacterTokenizer.from_characters('hello 🙂\n')
    assert tokenizer.tokens == [*SPECIAL_TOKENS, '\n', ' ', 'e', 'h', 'l', 'o', '🙂']
    assert tokenizer.n_tokens == 12
    assert tokenizer.encode('z').tolist() == [UNK]
    assert tokenizer.encode('').shape == (0,)
    assert tokenizer.encode('hell').dtype == np.uint8


@pytest.mark.parametrize('text', ['', 'aaaa'])
def test_text_with_too_few_characters_is_refused(text):
    with pytest.raises(UserError, match=f'{len(set(text))} distinct characters'):
        CharacterTokenizer.from_characters(text)
