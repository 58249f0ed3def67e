import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english, bpe, wordpiece
from labml_mlm.tokenization.word_boundaries import WordBoundaries

TEXT = "The quick brown fox's jumps_2 don't stop; naïve café, ёлка и мир! 你好世界 ありがとう สวัสดี हिन्दी\n\tx "


def words_of(tokenizer, text):
    """The text split where words begin."""
    ids = torch.from_numpy(tokenizer.encode(text).astype('int64'))
    begins = tokenizer.words.starts(ids).nonzero()[:, 0].tolist()
    return [tokenizer.decode(ids[begin:end].tolist())
            for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True)]


def test_words_of_characters():
    assert words_of(CharacterTokenizer.from_characters(TEXT), "fox's naïve,  мир 你好\nx_2") == [
        'fox', "'", 's', ' ', 'naïve', ',', ' ', ' ', 'мир', ' ', '你', '好', '\n', 'x_2']


def test_combining_characters_continue_what_is_before_them():
    text = 'ว้า हिन्दी e\u0301te\u0301'
    assert words_of(CharacterTokenizer.from_characters(text), text) == ['ว้', 'า', ' ', 'हिन्दी', ' ', 'e\u0301te\u0301']


@pytest.mark.parametrize('train, vocab_size', [(bpe, 261), (bpe, 300), (bpe, 400), (wordpiece, 120),
                                               (basic_english, 200)])
def test_words_are_whole_in_every_tokenizer(train, vocab_size):
    """However a word is split into tokens, even into single bytes."""
    tokenizer = train([TEXT] * 20, vocab_size=vocab_size)
    found = [word.strip() for word in words_of(tokenizer, TEXT)]
    for word in re.findall(r'[\w]+', 'The quick brown fox jumps_2 stop naïve café ёлка и мир'):
        expected = word.lower() if train is basic_english else word
        if train is wordpiece and '_' in word:
            continue  # BERT splits there
        assert expected in found, (word, found)


@pytest.mark.parametrize('vocab_size', [261, 300, 400])
def test_chinese_character_is_a_word_though_its_bytes_are_tokens(vocab_size):
    tokenizer = bpe(['nothing of it here'] * 20, vocab_size=vocab_size)
    assert words_of(tokenizer, '你好世') == ['你', '好', '世']


BPE = bpe(['abc abcd abcde gh cde hgf fgh ab'] * 5, vocab_size=275)


@given(st.text(alphabet='abcdefgh ', max_size=60))
def test_words_of_bpe_are_those_of_str_split(text):
    found = [word.strip() for word in words_of(BPE, text)] if text else []
    assert [word for word in found if word] == text.split()


def test_special_tokens_stand_alone_and_columns_are_independent():
    words = WordBoundaries(['[MASK]', 'a', ' b', ','], special_tokens=[0])
    x = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 2], [3, 1], [1, 3]])
    assert words.starts(x).int().tolist() == [[1, 1], [0, 1], [1, 0], [1, 1], [1, 0], [1, 1]]


def test_ids_beyond_the_vocabulary_stand_alone():
    words = WordBoundaries(['a', 'b'], special_tokens=[])
    assert words.starts(torch.tensor([0, 1, 9, 0, 1, 2])).tolist() == [True, False, True, True, False, True]
