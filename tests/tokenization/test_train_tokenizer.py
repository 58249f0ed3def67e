import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.train_tokenizer import TRAINERS, basic_english, bpe, wordpiece

SENTENCE = "The quick brown fox's jumps, over \"the\" lazy dog. Ünïcode 你好 it isn't [MASK]!\n"
VOCAB_SIZES = {'bpe': 330, 'wordpiece': 90, 'basic_english': 50}
TRAINED = {kind: TRAINERS[kind]([SENTENCE] * 50, vocab_size=size) for kind, size in VOCAB_SIZES.items()}
texts = st.text(alphabet=st.characters(exclude_categories=['Cs']))
# Words and white space that the tokenizers know, and some that they do not know
sentences = st.lists(st.sampled_from(['The', 'quick', "fox's", "isn't", ' ', '  ', '\n', '\n\n', ' \n ', '\t', '你',
                                      '.', ',', 'zebra', '<br />', '\u3000', 'é'])).map(''.join)


@pytest.mark.parametrize('kind', TRAINERS)
def test_training_is_deterministic(kind):
    again = TRAINERS[kind]([SENTENCE] * 50, vocab_size=VOCAB_SIZES[kind])
    assert again.to_dict() == TRAINED[kind].to_dict() and again.files == TRAINED[kind].files
    assert again.n_tokens <= VOCAB_SIZES[kind]


@given(texts)
def test_bpe_decodes_to_the_same_text(text):
    tokenizer = TRAINED['bpe']
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(sentences)
def test_wordpiece_decodes_to_the_same_text_but_for_white_space(text):
    tokenizer = TRAINED['wordpiece']
    ids = tokenizer.encode(text)
    if tokenizer.special.unk not in ids:
        assert ''.join(tokenizer.decode(ids).split()) == ''.join(text.split())


def basic_english_by_rules(text):
    """The rules one by one, and white space as in Python without the separators of files and records."""
    text = ''.join(c.lower() for c in text)
    for old, new in [("'", " '  "), ('"', ''), ('.', ' . '), ('<br />', ' '), (',', ' , '), ('(', ' ( '), (')', ' ) '),
                     ('!', ' ! '), ('?', ' ? '), (';', ' '), (':', ' ')]:
        text = text.replace(old, new)
    return re.findall(r'(?:\S|[\x1c-\x1f])+', text)


@given(st.one_of(texts, sentences))
def test_basic_english_follows_its_rules(text):
    tokenizer = TRAINED['basic_english']
    expected = [tokenizer.tokens.index(f' {word}') if f' {word}' in tokenizer.tokens else tokenizer.special.unk
                for word in basic_english_by_rules(text)]
    assert tokenizer.encode(text).tolist() == expected


def test_wordpiece_has_only_five_special_tokens():
    tokenizer = TRAINED['wordpiece']
    assert tokenizer.special.all == [0, 1, 2, 3, 4]
    added = json.loads(tokenizer.files['tokenizer.json'])['added_tokens']
    assert [token['content'] for token in added] == tokenizer.tokens[:5]


def test_vocabulary_that_is_too_small_is_refused():
    with pytest.raises(UserError, match='vocab_size=260: byte-level BPE has 256 tokens for single bytes.*at least 261'):
        bpe([SENTENCE], vocab_size=260)
    with pytest.raises(UserError, match='the text has 1 distinct tokens: there must be at least 2 to predict'):
        basic_english(['one one one'], vocab_size=100)


def test_wordpiece_needs_room_for_all_letters():
    with pytest.raises(UserError, match=r'vocab_size=60: WordPiece has a token for each letter.* at least \d\d\.'):
        wordpiece([SENTENCE], vocab_size=60)


def test_very_long_word_is_trained_on_in_time():
    letters = ''.join(chr(97 + i * i % 23 % 19) for i in range(400_000))
    assert bpe([f'the quick {letters} fox'], vocab_size=300).n_tokens == 300
