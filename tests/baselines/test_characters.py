import pytest
from support.untrained import KINDS, tokenizer_of

from labml_mlm.baselines.characters import bits_per_character, characters
from labml_mlm.tokenization.train_tokenizer import bpe

SENTENCE = 'the quick brown fox jumps over the lazy dog'


@pytest.mark.parametrize('kind', KINDS)
def test_characters_of_the_tokens_of_a_text_are_those_of_the_text(kind):
    tokenizer = tokenizer_of(kind)
    found = characters(tokenizer, n_tokens=tokenizer.n_tokens + 3)
    assert len(found) == tokenizer.n_tokens + 3 and not found[tokenizer.special.all].any() and not found[-3:].any()
    n = found[tokenizer.encode(SENTENCE)].sum()
    # WordPiece takes all words for such with a space before them
    assert n - len(SENTENCE) == (kind == 'wordpiece')


def test_characters_that_are_cut_into_bytes_count_once():
    tokenizer = bpe([SENTENCE] * 20, vocab_size=280)
    text = 'äö 日本語 🙂!'
    ids = tokenizer.encode(text)
    assert len(ids) > 2 * len(text)
    assert characters(tokenizer, n_tokens=tokenizer.n_tokens)[ids].sum() == len(text)


def test_a_bit_is_half_the_choices():
    assert bits_per_character(3 * 0.6931471805599453, 6) == pytest.approx(0.5)
    assert bits_per_character(1., 0) is None
