"""What a tokenizer does not keep of a text is counted and said."""
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from labml_mlm.common.errors import UserError
from labml_mlm.data.corpus import scan
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.losses import Losses
from labml_mlm.tokenization.patterns import grapheme
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english, bpe, wordpiece


def with_normalizer(normalizer, words=()):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL_TOKENS, *words])}, '[UNK]'))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return SubwordTokenizer(tokenizer)


def messages(tokenizer, *documents):
    pieces = [(text, True) for text in documents]
    losses = Losses(tokenizer, scan(pieces, valid_fraction=None)[0])
    assert list(losses.of_text(iter(pieces))) == pieces
    for text in documents:
        losses.add_tokens(tokenizer.encode(text))
    losses.check()
    return list(losses.messages())


@pytest.mark.parametrize('normalizer, text, expected', [
    (normalizers.Lowercase(), 'Ab BÉD c', 'case of 4 characters (A → a, B → b, D → d, …)'),
    (normalizers.BertNormalizer(lowercase=True), 'é हि़ñ', 'marks of 3 characters (é → e, ñ → n, U+093C is dropped)'),
    (normalizers.BertNormalizer(lowercase=False), 'می\u200cخ 👩\u200d💻', 'invisible characters of 2 characters '
                                                                         '(U+200C is dropped, U+200D is dropped)'),
    (normalizers.NFKC(), 'Ａ½ é', 'width or form of 2 characters (½ → 1⁄2, Ａ → A)'),
    (normalizers.Replace('"', ''), 'a "b" c', 'others of 2 characters (" is dropped)')])
def test_what_is_lost_is_counted_with_examples(normalizer, text, expected):
    tokenizer = with_normalizer(normalizer, normalizer.normalize_str(text).split())
    assert messages(tokenizer, text) == [f'The tokenizer does not keep {expected}']


@pytest.mark.parametrize('normalizer', [None, normalizers.NFC(), normalizers.NFD(), normalizers.Prepend('▁'),
                                        normalizers.BertNormalizer(lowercase=False)])
def test_nothing_is_said_where_nothing_is_lost(normalizer):
    text = 'Éte e\u0301 你好 हिन्दी'
    words = (normalizer.normalize_str(text) if normalizer else text).split()
    assert messages(with_normalizer(normalizer, words), text) == []


@pytest.mark.parametrize('train', [bpe, wordpiece])
def test_subwords_that_are_trained_lose_nothing(train):
    text = 'Éte e\u0301 می\u200cخواهم \u200b 你好 👩\u200d💻 Ａ½'
    assert messages(train([text] * 9, vocab_size=400), text) == []


def test_unknown_tokens_are_counted():
    tokenizer = basic_english(['one two three'], vocab_size=100)
    assert messages(tokenizer, 'one two six', 'three seven') == ['2 of 5 tokens (40.00%) are [UNK], such as six']


def test_mostly_unknown_text_is_refused():
    tokenizer = with_normalizer(None, ['some', 'words'])
    with pytest.raises(UserError, match=r'^75% of the text is \[UNK\] to this tokenizer, such as abcdefghijkl\.'):
        messages(tokenizer, 'some abcdefghijkl')
    # By characters, not by tokens
    with pytest.raises(UserError, match=r'99% of the text .*, such as xxxxxxxxxxxxxxxxxxxx… of 1,000 characters'):
        messages(tokenizer, 'some words ' + 'x' * 1000)
    # White space is not unknown
    assert messages(tokenizer, 'some' + ' ' * 1000 + 'xxx')[0].startswith('1 of 2 tokens (50.00%)')


def test_counts_are_those_of_the_characters():
    rng = np.random.default_rng(1)
    text = ''.join(rng.choice(list('aAbBcC é'), 10_000).tolist())
    tokenizer = with_normalizer(normalizers.BertNormalizer(lowercase=True), ['a'])
    losses = Losses(tokenizer, scan([(text, True)], valid_fraction=None)[0])
    list(losses.of_text(iter([(text[:5000], False), (text[5000:], True)])))
    n_case, n_marks = sum(c in 'ABC' for c in text), text.count('é')
    assert list(losses.messages()) == [f'The tokenizer does not keep case of {n_case:,} characters (A → a, B → b, '
                                       f'C → c), marks of {n_marks:,} characters (é → e)']


def test_names_of_special_tokens_in_a_text_are_counted_where_they_are_read_as_such():
    assert messages(with_normalizer(None, ['a', 'word']), 'word word [MASK] a [SEP]')[0] == \
        '2 of 5 tokens are special ones, because the text has their names in it'
    assert messages(bpe(['a b'] * 3, vocab_size=300), 'a [MASK] a [SEP]') == []


def test_what_a_tokenizer_drops_without_a_word_is_counted():
    plain = Tokenizer(models.BPE({name: i for i, name in enumerate([*SPECIAL_TOKENS, 'a', 'b'])}, []))
    plain.add_special_tokens(SPECIAL_TOKENS)
    # It has no [UNK]
    assert messages(SubwordTokenizer(plain), 'ab' * 10 + 'X' * 5) == ['5 of 25 visible characters are in no token']
    with pytest.raises(UserError, match='67% of the text is dropped by this tokenizer'):
        messages(SubwordTokenizer(plain), 'abXXXX')
    plain.pre_tokenizer = pre_tokenizers.Split(',', 'removed')
    assert messages(SubwordTokenizer(plain), 'a,b,a') == ['2 of 5 visible characters are in no token']


@pytest.mark.parametrize('train', [bpe, grapheme])
def test_the_sign_that_stands_for_a_space_elsewhere_is_kept(train):
    tokenizer = train(['▁ a▁b'] * 9, vocab_size=300)
    assert messages(tokenizer, '▁ a▁b') == [] and tokenizer.decode(tokenizer.encode('▁ a▁b')) == '▁ a▁b'


def test_characters_are_counted():
    tokenizer = CharacterTokenizer.from_characters('ab ')
    assert messages(tokenizer, 'ab a', 'bxa') == ['1 of 7 tokens (14.29%) are [UNK]']
    with pytest.raises(UserError, match='75% of the text is .UNK. to this tokenizer, such as x, y, z'):
        messages(tokenizer, 'axyz')
