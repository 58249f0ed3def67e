import re

import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.project import ROOT

from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.train_tokenizer import basic_english, bpe, wordpiece
from labml_mlm.tokenization.word_boundaries import WordBoundaries

SINHALA = ROOT / 'tests/fixtures/words/sinhala.txt'
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


@pytest.mark.parametrize('word', [
    'ශ්\u200dරී', 'ක්\u200dෂ', 'می\u200cخواهم', 'auf\u00adgabe', '👨\u200d👩\u200d👧', '👩🏽\u200d🔬', '👍🏽',
    '❤\ufe0f\u200d🔥', '🇩🇪', '1\ufe0f\u20e3', 'e\u0301\u0323te'])
def test_what_is_seen_as_one_character_or_word_is_one(word):
    """UAX #29, WB3c, WB4, WB15 and WB16; by characters, and for words, by pieces of them."""
    text = f'{word} {word}!🙂{word}🙂'
    assert words_of(CharacterTokenizer.from_characters(text), text) == [word, ' ', word, '!', '🙂', word, '🙂']
    if word[0].isalpha():
        for vocab_size in (270, 300):
            text = f'{word} a {word}'
            tokenizer = bpe([word] * 20 + ['\u200d \u200c'] * 20, vocab_size=vocab_size)
            assert ''.join(words_of(tokenizer, text)) == text
            assert [part.strip() for part in words_of(tokenizer, text) if part.strip()] == [word, 'a', word]


def test_neighbouring_flags_and_emoji_are_units_of_their_own():
    text = '🇩🇪🇫🇷🇯🇵🙂👍🏽👨\u200d👩x🇩🇪🇫'
    assert words_of(CharacterTokenizer.from_characters(text), text) == [
        '🇩🇪', '🇫🇷', '🇯🇵', '🙂', '👍🏽', '👨\u200d👩', 'x', '🇩🇪', '🇫']
    # Columns do not change each other
    tokenizer = CharacterTokenizer.from_characters(text)
    x = torch.from_numpy(tokenizer.encode(text).astype('int64'))
    both = torch.stack([x, x.roll(3)], dim=1)
    assert torch.equal(tokenizer.words.starts(both)[:, 0], tokenizer.words.starts(x))
    assert torch.equal(tokenizer.words.starts(both)[:, 1], tokenizer.words.starts(x.roll(3)))


@pytest.mark.parametrize('vocab_size', [400, 900])
def test_words_of_sinhala_are_whole(vocab_size):
    """Between spaces and punctuation, however they are split into bytes."""
    text = SINHALA.read_text(encoding='utf-8')
    words = [word for word in re.split(r'[\s,.;:]+', text) if word]
    assert len(words) > 220
    for tokenizer in (CharacterTokenizer.from_characters(text), bpe([text], vocab_size=vocab_size)):
        # BPE has tokens of a vowel sign and a full stop
        found = [part.strip().rstrip('.,;:') for part in words_of(tokenizer, text)]
        assert [part for part in found if re.search(r'\w', part)] == words


# One sentence or so of each script
SCRIPTS = {
    'Latin': 'Thé naïve co\u0301ope\u0301ration nie ge\u0301n a\u0323\u0302', 'Cyrillic': 'ёлка и мир во всём мире',
    'Greek': 'ἐν ἀρχῇ ἦν ὁ λόγος', 'Arabic': 'كِتَابٌ جديدٌ على الطاولة', 'Persian': 'می\u200cخواهم کتاب\u200cها را بخوانم',
    'Hebrew': 'שָׁלוֹם עֲלֵיכֶם חברים', 'Devanagari': 'हिन्दी में क्ष और त्र लिखते हैं', 'Sinhala': 'ශ්\u200dරී ලංකාව ක්\u200dෂ',
    'Thai': 'สวัสดีครับ', 'Chinese': '你好世界', 'Japanese': 'ひらがなと漢字', 'Korean': '안녕하세요 세계', 'emoji':
    '👨\u200d👩\u200d👧 👍🏽 🇩🇪🇫🇷 ❤\ufe0f\u200d🔥'}


@pytest.mark.parametrize('script', SCRIPTS)
def test_words_are_those_of_uax_29(script):
    text = SCRIPTS[script]
    expected = [part for part in regex.split(r'(?w)\b', text) if part]
    assert words_of(CharacterTokenizer.from_characters(text), text) == expected


def test_differences_from_uax_29():
    """BERT splits at punctuation; Katakana has no spaces between words."""
    text = "don't 3.14 カタカナ"
    assert [part for part in regex.split(r'(?w)\b', text) if part] == ["don't", ' ', '3.14', ' ', 'カタカナ']
    assert words_of(CharacterTokenizer.from_characters(text), text) == [
        'don', "'", 't', ' ', '3', '.', '14', ' ', 'カ', 'タ', 'カ', 'ナ']


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
