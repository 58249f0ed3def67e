"""
# Tokenizers trained on a text

* `grapheme`: a token for each extended grapheme cluster ([UAX #29](https://unicode.org/reports/tr29/)), what readers
  take for a letter: `ක්‍ෂ` and `é` are one, however they are encoded
* `pattern`: a token for each match of a regular expression, and for what is between two
* `bpe`: byte-level byte pair encoding ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909)), as GPT-2 has it: it
  encodes any text, and decoding gives the text back
* `wordpiece`: BERT's, cased; a token that continues a word has `##` in front of it in the vocabulary
* `unigram`: SentencePiece's ([Kudo 2018](https://arxiv.org/abs/1804.10959)), where the vocabulary is what is left of a
  larger one; what it does not know becomes bytes
* `basic_english`: one token per word, in lower case, with the rules of labml_nn's experiments (torchtext's tokenizer of
  that name): most punctuation stands alone, and quotation marks, semicolons and colons are dropped

The first two spell a rare cluster or match by its code points, so that nothing is unknown.
"""
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.subword import LONE_SURROGATE, SubwordTokenizer, cannot_encode

_LONG_WORD = re.compile(r'\S{1000}')
# torchtext's rules, in its order
_BASIC_ENGLISH = [("'", " '  "), ('"', ''), ('.', ' . '), ('<br />', ' '), (',', ' , '), ('(', ' ( '), (')', ' ) '),
                  ('!', ' ! '), ('?', ' ? '), (';', ' '), (':', ' ')]


# Regular expressions by name. Of molecules as SMILES: bracket atoms, atoms of two letters, ring bonds from 10 on,
# chirality. Of program code: parts of identifiers, by case and underscore
PATTERNS = {'smiles': r'\[[^\]]*\]|Br|Cl|%[0-9]{2}|@@|.',
            'code': r'\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{L}+|\p{N}+|_+|[^\S\n]+|\n+|.'}
_KMER = re.compile(r'kmer:([1-9]\d?)')


def token_pattern(pattern: str) -> str:
    """The regular expression that is meant: one by its name, or any. Raises `UserError` if it is not one."""
    if kmer := _KMER.fullmatch(pattern):
        # Not overlapping: the neighbours of a masked token would give it away
        return rf'\p{{L}}{{1,{kmer[1]}}}'
    try:
        if pattern.startswith('kmer:'):
            raise ValueError('K must be from 1 to 99')
        Regex(PATTERNS.get(pattern, pattern))
    except Exception as e:  # tokenizers raises nothing more special
        raise UserError(f'token_pattern={pattern}: it must be {", ".join(PATTERNS)}, kmer:K with a number K, or a '
                        f'regular expression: {e}') from None
    return PATTERNS.get(pattern, pattern)


def grapheme(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """Extended grapheme clusters; the rest is that of `pattern`."""
    return pattern(texts, vocab_size=vocab_size, token_pattern=r'\X')


def pattern(texts: Iterable[str], *, vocab_size: int, token_pattern: str) -> SubwordTokenizer:
    """
    The most frequent matches of `token_pattern` in texts, and all code points. Raises `UserError` if `vocab_size` has
    no room for the code points.
    """
    counted = Tokenizer(models.WordLevel())
    counted.pre_tokenizer = _split(token_pattern)
    code_points: set[str] = set()

    def noted() -> Iterator[str]:
        for text in texts:
            code_points.update(text)
            yield text

    _train(counted, trainers.WordLevelTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False), noted())
    if vocab_size < (n := len(code_points) + len(SPECIAL_TOKENS)):
        raise UserError(f'vocab_size={vocab_size}: there is a token for each of the {len(code_points):,} characters of '
                        f'this text, and {len(SPECIAL_TOKENS)} special ones; it must be at least {n:,}')
    matches = sorted(counted.get_vocab().items(), key=lambda token_and_rank: token_and_rank[1])
    # Most frequent first
    names = dict.fromkeys([*SPECIAL_TOKENS, *sorted(code_points), *(name for name, _ in matches)])
    vocabulary = {name: i for i, name in enumerate(list(names)[:vocab_size])}
    # Without merges, a word that is not in the vocabulary is spelled
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token='[UNK]', ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = _split(token_pattern), decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return SubwordTokenizer(tokenizer)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), 'isolated')


def unigram(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """SentencePiece's, trained on texts. Raises `UserError` if `vocab_size` has no room for all bytes."""
    names = [f'<0x{byte:02X}>' for byte in range(256)]
    if vocab_size < (n := len(names) + len(SPECIAL_TOKENS) + 2):
        raise UserError(f'vocab_size={vocab_size}: unigram has {len(names)} tokens for single bytes and '
                        f'{len(SPECIAL_TOKENS)} special ones before it learns any; it must be at least {n}')
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [_split(r'\n'), pre_tokenizers.Metaspace('▁', prepend_scheme='never')])
    tokenizer.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
    _train(tokenizer, trainers.UnigramTrainer(vocab_size=vocab_size - len(names), special_tokens=SPECIAL_TOKENS,
                                              unk_token='[UNK]', show_progress=False), texts)
    description = json.loads(tokenizer.to_str())
    model = description['model']
    # Less probable than anything that was learnt
    lowest = min(score for _, score in model['vocab']) - 10.
    model['vocab'] += [[name, lowest] for name in names]
    model['byte_fallback'] = True
    return SubwordTokenizer(Tokenizer.from_str(json.dumps(description)))


def bpe(texts: Iterable[str], *, vocab_size: int, token_pattern: str = '') -> SubwordTokenizer:
    """
    Byte-level BPE, trained on texts; no token spans two matches of `token_pattern`, which is by default GPT-2's. Raises
    `UserError` if `vocab_size` has no room for all bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise UserError(f'vocab_size={vocab_size}: byte-level BPE has {len(alphabet)} tokens for single bytes and '
                        f'{len(SPECIAL_TOKENS)} special ones before it learns any; it must be at least '
                        f'{len(alphabet) + len(SPECIAL_TOKENS)}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not token_pattern)
    if token_pattern:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_split(token_pattern), tokenizer.pre_tokenizer])
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS,
                                                   initial_alphabet=alphabet, show_progress=False), texts)


def wordpiece(texts: Iterable[str], *, vocab_size: int, token_pattern: str = '') -> SubwordTokenizer:
    """
    BERT's WordPiece, cased, trained on texts, which are read twice. Its words are by default BERT's, or matches of
    `token_pattern`.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = _split(token_pattern) if token_pattern else pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The trainer numbers continuing letters in the order in which it meets them, another one each time, and so breaks
    # ties between equally frequent pairs. Letters that are special tokens keep their numbers
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=1, show_progress=False), texts)
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


TRAINERS = {'grapheme': grapheme, 'pattern': pattern, 'bpe': bpe, 'wordpiece': wordpiece, 'unigram': unigram,
            'basic_english': basic_english}


def _trained(tokenizer: Tokenizer, trainer: Any, texts: Iterable[str]) -> SubwordTokenizer:
    _train(tokenizer, trainer, texts)
    description = json.loads(tokenizer.to_str())
    description['added_tokens'] = description['added_tokens'][:len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    if tokenizer.get_vocab_size() < len(SPECIAL_TOKENS) + 2:
        raise UserError(f'the text has {tokenizer.get_vocab_size() - len(SPECIAL_TOKENS)} distinct tokens: there must '
                        f'be at least 2 to predict, and a vocab_size of at least {len(SPECIAL_TOKENS) + 2}')
    return SubwordTokenizer(tokenizer)


def _train(tokenizer: Tokenizer, trainer: Any, texts: Iterable[str]):
    """Raises `UserError` for lone surrogates."""
    def pieces() -> Iterator[str]:
        for text in texts:
            if LONE_SURROGATE.search(text):
                raise cannot_encode([text], None)
            # The time for a word grows with the square of its length
            begin = 0
            for word in _LONG_WORD.finditer(text):
                yield text[begin:word.end()]
                begin = word.end()
            yield text[begin:]
    tokenizer.train_from_iterator(pieces(), trainer)
