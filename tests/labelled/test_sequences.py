import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import NO_TEMPLATE, PairTemplate, Template
from labml_mlm.labelled.rows import Row
from labml_mlm.labelled.sequences import PairEncoder, TextEncoder, WordEncoder, cut_pair
from labml_mlm.labelled.tagged import TaggedRow
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.patterns import pattern, token_pattern
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english, bpe, unigram, wordpiece

SENTENCE = "The quick brown fox's jumps, over \"the\" lazy dog. Ünïcode 你好 it isn't [MASK]!\n"
TOKENIZERS = {'bpe': bpe([SENTENCE] * 50, vocab_size=330), 'wordpiece': wordpiece([SENTENCE] * 50, vocab_size=90),
              'basic_english': basic_english([SENTENCE] * 50, vocab_size=50),
              'unigram': unigram([SENTENCE] * 50, vocab_size=330),
              'code': pattern([SENTENCE] * 50, vocab_size=80, token_pattern=token_pattern('code')),
              'character': CharacterTokenizer.from_characters(SENTENCE)}
TEMPLATE = Template((2,), (3,))
words = st.lists(st.sampled_from(['The', 'quick', 'fox', "'s", "isn't", '你', '.', ',', 'zebra', '[MASK]', 'dog.', 'é',
                                  '"', "'", '🦊']), min_size=1, max_size=12)


def sentence_piece(**how):
    """A vocabulary of SentencePiece's where a space may be a token of its own."""
    pieces = [('<unk>', 0.), ('<pad>', -9.), ('<sep>', -9.), ('<mask>', -9.), ('▁', -3.), ('▁a', -2.)]
    built = Tokenizer(models.Unigram([*pieces, *((c, -4.) for c in 'abc')], unk_id=0))
    built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(**how), decoders.Metaspace(**how)
    built.add_special_tokens(['<unk>', '<pad>', '<sep>', '<mask>'])
    return SubwordTokenizer(built)


@pytest.mark.parametrize('kind', TOKENIZERS)
@given(words)
def test_words_have_the_tokens_of_running_text(kind, words):
    tokenizer = TOKENIZERS[kind]
    found = WordEncoder(tokenizer, max_len=500, template=TEMPLATE)(TaggedRow(words, [], 1))
    assert found.tokens.tolist() == [2, *tokenizer.encode(' '.join(words)).tolist(), 3]
    assert not found.is_cut and found.is_empty == (not (found.words >= 0).any())


@pytest.mark.parametrize('kind', TOKENIZERS)
@given(words)
def test_each_word_begins_at_its_first_token(kind, words):
    tokenizer = TOKENIZERS[kind]
    found = WordEncoder(tokenizer, max_len=500, template=TEMPLATE)(TaggedRow(words, [], 1))
    at = np.flatnonzero(found.words >= 0)
    numbers = found.words[at].tolist()
    assert numbers == sorted(set(numbers))
    # Those that the tokenizer drops have none
    assert numbers == [i for i, word in enumerate(words) if len(tokenizer.encode(word))]
    for number, begin, end in zip(numbers, at, [*at, len(found.tokens) - 1][1:], strict=True):
        ids = found.tokens[begin:end]
        if tokenizer.special.unk not in ids and kind != 'basic_english':
            assert tokenizer.decode(ids.tolist()).replace(' ', '') == words[number]


@pytest.mark.parametrize('how', [{}, {'prepend_scheme': 'first'}, {'prepend_scheme': 'never'}])
def test_a_space_that_is_a_token_is_not_the_first_of_its_word(how):
    tokenizer = sentence_piece(**how)
    found = WordEncoder(tokenizer, max_len=50, template=NO_TEMPLATE)(TaggedRow(['b', 'a', 'bc'], [], 1))
    assert found.tokens.tolist() == tokenizer.encode('b a bc').tolist()
    firsts = [tokenizer.tokens[i] for i in found.tokens[found.words >= 0]]
    assert firsts == ['b', ' a', 'b'] and found.words[found.words >= 0].tolist() == [0, 1, 2]


def test_another_separator():
    tokenizer = TOKENIZERS['character']
    row = TaggedRow(['The', ' fox', '.'], [], 1)
    found = WordEncoder(tokenizer, max_len=50, template=NO_TEMPLATE, separator='')(row)
    assert tokenizer.decode(found.tokens.tolist()) == 'The fox.'
    assert found.words.tolist() == [0, -1, -1, -1, 1, -1, -1, 2]


def test_words_are_cut_at_the_end():
    found = WordEncoder(TOKENIZERS['character'], max_len=8, template=TEMPLATE)(TaggedRow(['The', 'fox', 'is'], [], 1))
    assert found.is_cut and len(found.tokens) == 8 and found.tokens[-1] == 3
    assert found.words.tolist() == [-1, 0, -1, -1, -1, 1, -1, -1]


@pytest.mark.parametrize(['max_len', 'is_cut'], [(5, False), (4, True)])
def test_texts_are_cut_at_the_end(max_len, is_cut):
    tokenizer = TOKENIZERS['character']
    found = TextEncoder(tokenizer, max_len=max_len, template=TEMPLATE)(Row('The', 0))
    assert found.tokens.tolist() == [2, *tokenizer.encode('The')[:max_len - 2].tolist(), 3] and found.is_cut == is_cut


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_of_a_pair_the_longer_is_cut_token_by_token(n_first, n_second, room):
    sizes = [n_first, n_second]
    while sum(sizes) > room:
        sizes[sizes[0] <= sizes[1]] -= 1
    assert cut_pair(n_first, n_second, room) == tuple(sizes)


@pytest.mark.parametrize('segment', [0, 1])
def test_pairs(segment):
    tokenizer = TOKENIZERS['character']
    encoder = PairEncoder(tokenizer, max_len=8, template=PairTemplate((2,), (3, 3), (3,), segment))
    T, h, e = tokenizer.encode('The').tolist()
    found = encoder(Row('The', 0, 'T'))
    assert found.tokens.tolist() == [2, T, h, e, 3, 3, T, 3] and not found.is_cut and not found.is_empty
    assert found.segments.tolist() == [0] * 6 + [segment] * 2
    found = encoder(Row('The', 0, 'The'))
    assert found.tokens.tolist() == [2, T, h, 3, 3, T, h, 3] and found.is_cut
    assert TOKENIZERS['basic_english'].encode(';').tolist() == []
    assert PairEncoder(TOKENIZERS['basic_english'], max_len=8, template=encoder.template)(Row('The', 0, ';')).is_empty


def test_no_room():
    with pytest.raises(UserError, match='no room for text'):
        TextEncoder(TOKENIZERS['bpe'], max_len=2, template=TEMPLATE)
    with pytest.raises(UserError, match='a length of 4 leaves no room for pairs.* take 3'):
        PairEncoder(TOKENIZERS['bpe'], max_len=4, template=PairTemplate((2,), (3,), (3,)))
    with pytest.raises(UserError, match='no special tokens to put between'):
        PairEncoder(TOKENIZERS['bpe'], max_len=4, template=None)
