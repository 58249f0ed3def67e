"""
# Tokenizers trained on a text

Beside those of `patterns`:

* `bpe`: byte-level byte pair encoding ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909)), as GPT-2 has it: it
  encodes any text, and decoding gives the text back
* `wordpiece`: BERT's, cased; a token that continues a word has `##` in front of it in the vocabulary
* `unigram`: SentencePiece's ([Kudo 2018](https://arxiv.org/abs/1804.10959)), where the vocabulary is what is left of a
  larger one; what it does not know becomes bytes
* `basic_english`: one token per word, in lower case, with the rules of labml_nn's experiments (torchtext's tokenizer of
  that name): most punctuation stands alone, and quotation marks, semicolons and colons are dropped

The time and the memory that training takes grow with the number of distinct words. In a text without spaces every line
is another word; so of words of 16 characters and more, at most a million or two characters are taken, from all over the
text. The same text gives the same `tokenizer.json`, byte for byte.
"""
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import regex
from labml import logger
from labml.logger import Text
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.hf_tokenizers import NEVER, refuse_surrogates, rust_errors
from labml_mlm.tokenization.patterns import grapheme, matches_of, pattern, split, with_enough_tokens
from labml_mlm.tokenization.subword import SubwordTokenizer

# Characters of a token, and of what is trained on as one word
MAX_TOKEN_LENGTH = 32
_LONGEST = 1000
_LONG = 16
# Long words: runs of text, and the words in one. The first are found fast
_RUN, _PIECE = re.compile(rf'\S{{{_LONG},}}'), re.compile(rf'(?s).{{1,{_LONGEST}}}')
# Characters of long words, by the time and the memory that training takes
_N_OF_LONG_WORDS = {'bpe': 1 << 21, 'wordpiece': 1 << 21, 'unigram': 1 << 20}
# WordPiece takes each Chinese character for a word, and knows none of more than 100 characters
_PIECE_OF_WORDPIECE = regex.compile(rf'\P{{Han}}{{{_LONG},{_LONGEST}}}')
_RUN_OF_100, _UNKNOWN_TO_WORDPIECE = re.compile(r'\S{101,}'), regex.compile(r'[^\W_\p{Han}]{101,}')
# SentencePiece ends a sentence at a NUL, and leaves out one with its own symbol for what is unknown
_SENTENCE_END = re.compile('[\n\0\u2585]')
# torchtext's rules, in its order
_BASIC_ENGLISH = [("'", " '  "), ('"', ''), ('.', ' . '), ('<br />', ' '), (',', ' , '), ('(', ' ( '), (')', ' ) '),
                  ('!', ' ! '), ('?', ' ? '), (';', ' '), (':', ' ')]


def unigram(texts: Iterable[str], *, vocab_size: int, max_token_length: int = MAX_TOKEN_LENGTH) -> SubwordTokenizer:
    """
    SentencePiece's, trained on texts, which are read more than once. Raises `UserError` if `vocab_size` has no room for
    all bytes and characters, or the text has no words. `max_token_length` is at most 512.
    """
    import sentencepiece

    of_bytes = [f'<0x{byte:02X}>' for byte in range(256)]
    reserved = [*SPECIAL_TOKENS, '\n', *of_bytes]
    texts = _Bounded(texts, 'unigram')
    letters = set().union(*reserved)
    found = set(letters)
    for text in texts:
        found.update(text)
    if vocab_size < (n := len(reserved) + len(found) + 2):
        raise UserError(f'vocab_size={vocab_size}: unigram has 256 tokens for single bytes, {len(SPECIAL_TOKENS)} '
                        f'special ones and {len(found):,} for single characters before it learns any; it must be at '
                        f'least {n:,}')
    model = io.BytesIO()
    lines = (line for text in texts for line in _SENTENCE_END.split(text) if line.strip())
    first = list(itertools.islice(lines, 1))
    if not first:
        raise UserError('the text has no words')
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain(first, lines), model_writer=model, model_type='unigram',
        vocab_size=vocab_size - len(reserved) + 1, hard_vocab_limit=False,
        character_coverage=1., required_chars=''.join(sorted(letters - {'\n'})),
        max_sentencepiece_length=max_token_length, max_sentence_length=1 << 30,
        # As it is
        normalization_rule_name='identity', add_dummy_prefix=False, remove_extra_whitespaces=False,
        # Sums depend on the number of threads
        num_threads=16, bos_id=-1, eos_id=-1, minloglevel=2)
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    learned = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.vocab_size())
               if not trained.is_unknown(i)]
    vocabulary = [(name, NEVER) for name in SPECIAL_TOKENS] + [('\n', 0.)] + learned \
        + [(name, NEVER) for name in of_bytes]
    tokenizer = Tokenizer(models.Unigram(vocabulary, SPECIAL_TOKENS.index('[UNK]'), byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split(r'\n'), pre_tokenizers.Metaspace('▁', prepend_scheme='never')])
    tokenizer.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return SubwordTokenizer(tokenizer)


def bpe(texts: Iterable[str], *, vocab_size: int, token_pattern: str = '',
        max_token_length: int = MAX_TOKEN_LENGTH) -> SubwordTokenizer:
    """
    Byte-level BPE, trained on texts, which are read more than once. No token spans two matches of `token_pattern`, by
    default GPT-2's, or has more than `max_token_length` bytes. Raises `UserError` if `vocab_size` has no room for all
    bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise UserError(f'vocab_size={vocab_size}: byte-level BPE has {len(alphabet)} tokens for single bytes and '
                        f'{len(SPECIAL_TOKENS)} special ones before it learns any; it must be at least '
                        f'{len(alphabet) + len(SPECIAL_TOKENS)}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not token_pattern)
    if token_pattern:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*matches_of(token_pattern), tokenizer.pre_tokenizer])
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS,
                                                   initial_alphabet=alphabet, max_token_length=max_token_length,
                                                   show_progress=False), _Bounded(texts, 'bpe', token_pattern))


def wordpiece(texts: Iterable[str], *, vocab_size: int, token_pattern: str = '') -> SubwordTokenizer:
    """
    BERT's WordPiece, cased, trained on texts, which are read more than once. Its words are BERT's, or matches of
    `token_pattern`. Raises `UserError` if `vocab_size` has no room for all letters, or the text has no words.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    # Of BERT's only the spaces around Chinese characters: its cleaning drops joiners, which other scripts need
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=False, lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    if token_pattern:
        # A word that begins with ## would be taken for the rest of one
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split('#'), *matches_of(token_pattern)])
        tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex('^##'), ''), decoders.Fuse()])
    texts = _Bounded(texts, 'wordpiece', token_pattern)
    # The trainer numbers continuing letters in the order in which it meets them, another one each time, and so breaks
    # ties between equally frequent pairs. Letters that are special tokens keep their numbers
    with rust_errors():
        tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=1, show_progress=False))
    if not tokenizer.get_vocab_size():
        raise UserError('WordPiece knows no word of more than 100 characters, and there is no other one in this text. '
                        'tokenizer=bpe, unigram, grapheme and character know every text'
                        if any(text.strip() for text in texts.all) else 'the text has no words')
    if vocab_size < (n := tokenizer.get_vocab_size() + len(SPECIAL_TOKENS)):
        raise UserError(f'vocab_size={vocab_size}: WordPiece has a token for each letter that begins a word, for each '
                        f'that continues one, and {len(SPECIAL_TOKENS)} special ones; for this text it must be at '
                        f'least {n:,}. tokenizer=bpe works with any number from 261 on')
    letters = sorted(token for token in tokenizer.get_vocab() if len(token) == 3 and token.startswith('##'))
    return _trained(tokenizer, trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *letters], show_progress=False), texts)


def basic_english(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """The most frequent words of texts."""
    tokenizer = Tokenizer(models.WordLevel(unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *(normalizers.Replace(*rule) for rule in _BASIC_ENGLISH)])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _trained(tokenizer, trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS,
                                                         show_progress=False), texts)


# Of what they make of a text
TRAINERS_VERSION = 2
TRAINERS = {'grapheme': grapheme, 'pattern': pattern, 'bpe': bpe, 'wordpiece': wordpiece, 'unigram': unigram,
            'basic_english': basic_english}


def _trained(tokenizer: Tokenizer, trainer: Any, texts: Iterable[str]) -> SubwordTokenizer:
    with rust_errors():
        tokenizer.train_from_iterator(refuse_surrogates(texts), trainer)
    description = json.loads(tokenizer.to_str())
    description['added_tokens'] = description['added_tokens'][:len(SPECIAL_TOKENS)]
    return with_enough_tokens(Tokenizer.from_str(json.dumps(description)))


class _Bounded:
    """
    Texts with a bounded number of characters of long words, evenly from all over them; logs how many that are. Can be
    iterated more than once.

    * `kind` is the tokenizer that is trained
    * `token_pattern` are its words, if it has a pattern of its own; where they are long, all of the text counts
    """

    def __init__(self, texts: Iterable[str], kind: str, token_pattern: str = ''):
        self.all = texts
        self._has_unknown = kind == 'wordpiece' and not token_pattern
        self._run, self._piece = _RUN, _PIECE_OF_WORDPIECE if kind == 'wordpiece' else _PIECE
        if token_pattern:
            self._run = re.compile('(?s).+' if _has_long_matches(texts, token_pattern) else '(?!)')
            self._piece = _PIECE
        limit = _N_OF_LONG_WORDS[kind]
        found = sum(end - begin for text in self._known() for begin, end in self._long_words(text))
        self._fraction = min(1., limit / max(1, found))
        if self._fraction < 1:
            logger.log(f'The tokenizer is trained on {limit:,} of the {found:,} characters in words of {_LONG} '
                       f'characters or more', Text.meta)

    def __iter__(self) -> Iterator[str]:
        """Pieces, each to the end of a word of 1,000 characters, to one that is left out, or to the end of a text."""
        seen = taken = 0
        for text in self._known():
            begin = 0
            for first, end in self._long_words(text):
                seen += end - first
                is_taken = taken + end - first <= seen * self._fraction
                taken += (end - first) * is_taken
                if not is_taken or end - first == _LONGEST:
                    yield text[begin:end if is_taken else first]
                    begin = end
            yield text[begin:]

    def _long_words(self, text: str) -> Iterator[tuple[int, int]]:
        for run in self._run.finditer(text):
            for word in self._piece.finditer(text, *run.span()):
                yield word.span()

    def _known(self) -> Iterator[str]:
        for text in refuse_surrogates(self.all):
            yield _RUN_OF_100.sub(_without_unknown, text) if self._has_unknown else text


def _without_unknown(run: re.Match) -> str:
    """A run of text without the words that WordPiece does not know."""
    return _UNKNOWN_TO_WORDPIECE.sub(' ', run[0])


def _has_long_matches(texts: Iterable[str], token_pattern: str) -> bool:
    """Are more than a tenth of the first characters in matches, or between two, of 16 characters or more?"""
    beginning = ''.join(text[:10_000] for text in itertools.islice(texts, 10))
    with rust_errors():
        words = [word for word, _ in split(token_pattern).pre_tokenize_str(beginning)]
    return 10 * sum(len(word) for word in words if len(word) >= _LONG) > len(beginning)
