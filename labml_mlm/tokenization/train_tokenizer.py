"""
# Tokenizers trained on a text

* `bpe`: byte-level byte pair encoding ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909)), as GPT-2 has it: it
  encodes any text, and decoding gives the text back
* `wordpiece`: BERT's, cased; a token that continues a word has `##` in front of it in the vocabulary
* `basic_english`: one token per word, in lower case, with the rules of labml_nn's experiments (torchtext's tokenizer of
  that name): most punctuation stands alone, and quotation marks, semicolons and colons are dropped
"""
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.subword import LONE_SURROGATE, SubwordTokenizer, cannot_encode

_LONG_WORD = re.compile(r'\S{1000}')
# torchtext's rules, in its order
_BASIC_ENGLISH = [("'", " '  "), ('"', ''), ('.', ' . '), ('<br />', ' '), (',', ' , '), ('(', ' ( '), (')', ' ) '),
                  ('!', ' ! '), ('?', ' ? '), (';', ' '), (':', ' ')]


def bpe(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """Byte-level BPE, trained on texts. Raises `UserError` if `vocab_size` has no room for all bytes."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise UserError(f'vocab_size={vocab_size}: byte-level BPE has {len(alphabet)} tokens for single bytes and '
                        f'{len(SPECIAL_TOKENS)} special ones before it learns any; it must be at least '
                        f'{len(alphabet) + len(SPECIAL_TOKENS)}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS,
                                                   initial_alphabet=alphabet, show_progress=False), texts)


def wordpiece(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """BERT's WordPiece, cased, trained on texts, which are read twice."""
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
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


TRAINERS = {'bpe': bpe, 'wordpiece': wordpiece, 'basic_english': basic_english}


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
