import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from support.project import ROOT
from tokenizers import Tokenizer

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization import train_tokenizer
from labml_mlm.tokenization.patterns import grapheme, pattern, token_pattern
from labml_mlm.tokenization.train_tokenizer import TRAINERS, basic_english, bpe, unigram, wordpiece

SENTENCE = "The quick brown fox's jumps, over \"the\" lazy dog. Ünïcode 你好 it isn't [MASK]!\n"
VOCAB_SIZES = {'bpe': 330, 'wordpiece': 90, 'basic_english': 50, 'grapheme': 60, 'pattern': 80, 'unigram': 330}


def trained(kind):
    """A tokenizer of a kind; for `pattern`, of program code."""
    more = {'token_pattern': token_pattern('code')} if kind == 'pattern' else {}
    return TRAINERS[kind]([SENTENCE] * 50, vocab_size=VOCAB_SIZES[kind], **more)


TRAINED = {kind: trained(kind) for kind in TRAINERS}
texts = st.text(alphabet=st.characters(exclude_categories=['Cs']))
# Words and white space that the tokenizers know, and some that they do not know
sentences = st.lists(st.sampled_from(['The', 'quick', "fox's", "isn't", ' ', '  ', '\n', '\n\n', ' \n ', '\t', '你',
                                      '.', ',', 'zebra', '<br />', '\u3000', 'é'])).map(''.join)


@pytest.mark.parametrize('kind', TRAINERS)
def test_training_is_deterministic(kind):
    again = trained(kind)
    assert again.to_dict() == TRAINED[kind].to_dict() and again.files == TRAINED[kind].files
    assert again.n_tokens <= VOCAB_SIZES[kind]


def test_training_does_not_depend_on_process_or_threads():
    code = "from test_train_tokenizer import TRAINED\nfor it in TRAINED.values(): print(it.to_dict()['sha256'])"
    expected = [it.to_dict()['sha256'] for it in TRAINED.values()]
    for env in {'RAYON_NUM_THREADS': '1'}, {'RAYON_NUM_THREADS': '3', 'PYTHONHASHSEED': '7'}, \
            {'TOKENIZERS_PARALLELISM': 'false', 'OMP_NUM_THREADS': '1'}:
        paths = os.pathsep.join(map(str, [Path(__file__).parent, ROOT, ROOT / 'tests']))
        found = subprocess.run([sys.executable, '-c', code], env={**os.environ, **env, 'PYTHONPATH': paths},
                               capture_output=True, text=True)
        assert found.stdout.splitlines() == expected, found.stderr


@given(texts)
def test_bpe_decodes_to_the_same_text(text):
    tokenizer = TRAINED['bpe']
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(sentences)
@pytest.mark.parametrize('kind', ['grapheme', 'pattern', 'unigram'])
def test_others_decode_to_the_same_text(kind, text):
    tokenizer = TRAINED[kind]
    ids = tokenizer.encode(text)
    if tokenizer.special.unk not in ids:
        assert tokenizer.decode(ids) == text


@given(texts)
def test_unigram_falls_back_to_bytes(text):
    tokenizer = TRAINED['unigram']
    ids = tokenizer.encode(text)
    assert tokenizer.special.unk not in ids
    # A space is `▁` to it
    assert tokenizer.decode(ids) == text.replace('▁', ' ')


def tokens_of(tokenizer, text):
    return [tokenizer.tokens[i] for i in tokenizer.encode(text)]


def test_graphemes_are_those_of_uax_29_and_rare_ones_are_spelled():
    text = (ROOT / 'tests/fixtures/words/sinhala.txt').read_text(encoding='utf-8')
    text += 'e\u0301 e\u0301 👨\u200d👩 👍🏽 👍🏽 ' + 'क्षमा हिन्दी বাংলাক্ষ ക്ഷമ ગુજરાત્રી తెలుగుక్ష ଓଡ଼ିଆକ୍ଷ ' * 2
    tokenizer = grapheme([text], vocab_size=1000)
    counts = Counter(regex.findall(r'\X', text))
    expected = [part for cluster in regex.findall(r'\X', text)
                for part in ([cluster] if counts[cluster] > 1 else cluster)]
    assert tokens_of(tokenizer, text) == expected
    assert tokenizer.special.unk not in tokenizer.encode(text)
    # Not all that were frequent have room
    small = grapheme([text], vocab_size=len(set(text)) + 5 + 20)
    assert small.n_tokens == len(set(text)) + 25
    assert small.decode(small.encode(text)) == text


@pytest.mark.parametrize('name, text, expected', [
    ('smiles', 'ClC[C@@H](Br)[Na+]%12=O\n', ['Cl', 'C', '[C@@H]', '(', 'Br', ')', '[Na+]', '%12', '=', 'O', '\n']),
    ('kmer:3', 'ACGTACGA\nAC', ['ACG', 'TAC', 'GA', '\n', 'AC']),
    ('code', 'def getHTTPResponse(self, max_value=10):\n\n    x2 = ÄÖtest',
     ['def', ' ', 'get', 'HTTP', 'Response', '(', 'self', ',', ' ', 'max', '_', 'value', '=', '10', ')', ':', '\n\n',
      '    ', 'x', '2', ' ', '=', ' ', 'Ä', 'Ötest']),
    (r'\d+|[a-z]+', 'ab12 c;3', ['ab', '12', ' ', 'c', ';', '3'])])
def test_patterns(name, text, expected):
    tokenizer = pattern([text] * 2, vocab_size=300, token_pattern=token_pattern(name))
    assert tokens_of(tokenizer, text) == expected
    # The library alone reads it
    assert Tokenizer.from_str(tokenizer.files['tokenizer.json']).encode(text).tokens == expected


@pytest.mark.parametrize('train', [bpe, wordpiece])
def test_no_token_spans_two_matches_of_a_pattern(train):
    text = 'getHTTPResponse max_value maxValue '
    tokenizer = train([text * 50], vocab_size=330, token_pattern=token_pattern('code'))
    found = tokens_of(tokenizer, text)
    for part in ('get', 'HTTP', 'Response', 'max', '_', 'value', 'Value'):
        assert part in found
    without = train([text * 50], vocab_size=330)
    assert any('HTTPR' in token for token in tokens_of(without, text))


@pytest.mark.parametrize('name', ['(', 'kmer:0', 'kmer:x', 'smile['])
def test_invalid_patterns_are_refused(name):
    with pytest.raises(UserError, match=r'it must be smiles, code, kmer:K with a number K, or a regular expression'):
        token_pattern(name)


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


def test_characters_and_bytes_must_fit_the_vocabulary():
    with pytest.raises(UserError, match='there is a token for each of the 26 characters of this text'):
        grapheme(['abcdefghijklmnopqrstuvwxyz'], vocab_size=30)
    with pytest.raises(UserError, match='unigram has 256 tokens for single bytes'):
        unigram([SENTENCE], vocab_size=200)


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


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak memory is read from /proc')
def test_text_without_spaces_is_trained_on_in_bounded_memory():
    """A single line of 8 MB: byte-level BPE on all of it takes more than a gigabyte."""
    code = """
import random
from labml_mlm.tokenization.train_tokenizer import bpe
text = ''.join(random.Random(1).choices('ACGT', k=8_000_000))
pieces = [text[i:i + 16384] for i in range(0, len(text), 16384)]
tokenizer = bpe(pieces, vocab_size=500)
n = sum(len(ids) for ids, _ in tokenizer.encode_documents([(text, True)]))
# `ru_maxrss` would include that of the process that started this one
[peak] = [int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')]
print(tokenizer.n_tokens, n, peak // 1000)
"""
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert 'trained on 2,097,152 of the 8,000,000 characters in words of 16 characters or more' in found.stdout
    n_tokens, n, megabytes = map(int, found.stdout.splitlines()[-1].split())
    assert n_tokens == 500 and megabytes < 600
    # Four letters in about 4 ** 4 tokens
    assert 8_000_000 / 5 < n < 8_000_000 / 3


@pytest.mark.parametrize('train', [bpe, unigram])
def test_no_token_is_longer_than_allowed(train):
    text = ('=' * 300 + ' ' + 'wonderful' * 3 + '\n') * 20
    tokens = train([text], vocab_size=400, max_token_length=6).tokens[5:]
    assert max(map(len, tokens)) <= 6
    assert max(map(len, train([text], vocab_size=400).tokens[5:])) > 6


def test_long_words_are_taken_from_all_over_the_text(monkeypatch):
    monkeypatch.setitem(train_tokenizer._N_OF_LONG_WORDS, 'bpe', 20_000)
    texts = [f'short words {"AB" * 500}{letter * 500} more' for letter in 'abcdefghijklmnopqrst' for _ in range(10)]
    taken = ''.join(train_tokenizer._Bounded(texts, 'bpe'))
    n_long = sum(map(len, re.findall(r'\S{16,}', taken)))
    assert 18_000 < n_long <= 20_000
    # Short words are all there
    assert len(re.findall('short', taken)) == len(re.findall('words', taken)) == 200
    third = len(taken) // 3
    for part in taken[:third], taken[third:2 * third], taken[2 * third:]:
        assert re.search(r'\S{500}', part)


@given(st.lists(sentences), st.sampled_from(['bpe', 'unigram']))
def test_texts_with_few_long_words_are_trained_on_whole(some, kind):
    assert ''.join(train_tokenizer._Bounded(some, kind)) == ''.join(some)


def test_tokenizers_that_are_trained_keep_marks_and_joiners():
    words = ['می\u200cخواهم', 'ශ්\u200dරී', 'हिन्दी', 'e\u0301te\u0301', '👩\u200d💻']
    text = ' '.join(words) + '\n'
    for kind in TRAINERS:
        more = {'token_pattern': r'\w+'} if kind == 'pattern' else {}
        tokenizer = TRAINERS[kind]([text] * 20, vocab_size=400, **more)
        assert tokenizer.special.unk not in tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)).split() == words
    # Case alone
    assert basic_english([text + 'ÉÀ '], vocab_size=400).normalize('ÉÀE\u0301') == 'éàe\u0301'


@pytest.mark.parametrize('kind', TRAINERS)
@pytest.mark.parametrize('name', ['code', 'smiles', r'\S+', r'.*'])
def test_special_tokens_and_bytes_in_a_text_are_text(kind, name):
    text = '[MASK]<0x41>[PAD] [UNK]\n'
    more = {'token_pattern': token_pattern(name)} if kind in ('pattern', 'bpe', 'wordpiece') else {}
    tokenizer = TRAINERS[kind]([text] * 9, vocab_size=400, **more)
    ids = tokenizer.encode(text)
    assert not {*tokenizer.special.all} & {*ids.tolist()}
    if kind not in ('wordpiece', 'basic_english'):
        assert tokenizer.decode(ids) == text


def test_words_of_wordpiece_with_a_pattern_keep_their_number_signs():
    text = '## Title\n### Sub\n##a ##b #\n'
    tokenizer = wordpiece([text] * 30, vocab_size=400, token_pattern=r'\S+|\s+')
    assert ''.join(tokenizer.decode(tokenizer.encode(text)).split()) == ''.join(text.split())
    plain = Tokenizer.from_str(tokenizer.files['tokenizer.json'])
    assert plain.decode(plain.encode('## Title Sub').ids) == '## Title Sub'


def test_wordpiece_takes_chinese_without_punctuation():
    text = '天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏' * 20
    tokenizer = wordpiece([text], vocab_size=400)
    assert tokenizer.special.unk not in tokenizer.encode(text) and len(tokenizer.encode(text)) == len(text)


@pytest.mark.parametrize('text', ['', ' ', '\n\n', '\r\n\r\n'])
def test_a_text_without_words_is_refused(text):
    for kind in TRAINERS:
        more = {'token_pattern': r'\S+'} if kind == 'pattern' else {}
        if kind in ('bpe', 'grapheme', 'pattern') and len(set(text)) > 1:
            continue
        with contextlib.suppress(UserError):
            tokenizer = TRAINERS[kind]([text], vocab_size=300, **more)
            # Single bytes
            assert kind == 'bpe' and tokenizer.n_tokens >= 261


def test_unigram_takes_symbols_of_sentencepiece():
    text = 'load ▁▂▃▄▅▆ higher highway highlight high\0low\n'
    tokenizer = unigram([text] * 9, vocab_size=400)
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace('▁', ' ')
    # The line was not left out
    assert any('igh' in token for token in tokenizer.tokens)


@pytest.mark.filterwarnings('ignore')
def test_a_pattern_that_takes_too_long_is_refused():
    for train in (pattern, bpe, wordpiece):
        with pytest.raises(UserError, match='the tokenizer cannot split this text: .*retry-limit'):
            train(['a' * 60 + 'b'] * 3, vocab_size=400, token_pattern='(a+)+$')


def test_long_matches_of_a_pattern_are_bounded(monkeypatch):
    monkeypatch.setitem(train_tokenizer._N_OF_LONG_WORDS, 'bpe', 20_000)
    texts = ['some words that make a line\n' * 100] * 100
    taken = ''.join(train_tokenizer._Bounded(texts, 'bpe', r'[^\n]+|\n'))
    assert 18_000 < len(taken) <= 20_000
    # Whatever is between spaces
    texts = ['A' * 1000] * 100
    assert ''.join(train_tokenizer._Bounded(texts, 'bpe', token_pattern('kmer:6'))) == ''.join(texts)
