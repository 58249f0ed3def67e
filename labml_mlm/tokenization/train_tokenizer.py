"""TODO."""
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.subword import _HALF, SubwordTokenizer, _cannot_encode

_LONG_WORD = re.compile(r'\S{1000}')
# torchtext's rules, in its order
_BASIC_ENGLISH = [("'", " '  "), ('"', ''), ('.', ' . '), ('<br />', ' '), (',', ' , '), ('(', ' ( '), (')', ' ) '),
                  ('!', ' ! '), ('?', ' ? '), (';', ' '), (':', ' ')]


def bpe(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """Byte-level BPE, trained on texts. Raises `UserError` if `vocab_size` has no room for all bytes."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise UserError(f'vocab_size={vocab_size}: byte-level BPE has {len(alphabet)} tokens for single bytes and '
                        f'{len(SPECIAL_TOKENS)} special ones, and learns more; it has to be at least '
                        f'{len(alphabet) + len(SPECIAL_TOKENS)}')
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS,
                                                   initial_alphabet=alphabet, show_progress=False), texts)


def wordpiece(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """BERT's WordPiece with upper and lower case, trained on texts, which are read twice."""
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The trainer numbers letters that go on a word as it comes upon them, in another order each time, and so decides
    # between equally frequent pairs. Those that it has got already keep their numbers
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=1, show_progress=False), texts)
    if vocab_size < (n := tokenizer.get_vocab_size() + len(SPECIAL_TOKENS)):
        raise UserError(f'vocab_size={vocab_size}: WordPiece has a token for each letter that begins a word, for each '
                        f'that goes on one, and {len(SPECIAL_TOKENS)} special ones; for this text it has to be at '
                        f'least {n:,}. tokenizer=bpe does with any number from 261 on')
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


def _trained(tokenizer: Tokenizer, trainer: Any, texts: Iterable[str]) -> SubwordTokenizer:
    _train(tokenizer, trainer, texts)
    about = json.loads(tokenizer.to_str())
    about['added_tokens'] = about['added_tokens'][:len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer.from_str(json.dumps(about))
    if tokenizer.get_vocab_size() < len(SPECIAL_TOKENS) + 2:
        raise UserError(f'the text has {tokenizer.get_vocab_size() - len(SPECIAL_TOKENS)} distinct tokens: there is '
                        f'nothing to predict; it takes 2 at least, and a vocab_size of {len(SPECIAL_TOKENS) + 2}')
    return SubwordTokenizer(tokenizer)


def _train(tokenizer: Tokenizer, trainer: Any, texts: Iterable[str]):
    """Raises `UserError` for what is no Unicode text."""
    def pieces() -> Iterator[str]:
        for text in texts:
            if half := _HALF.search(text):
                raise _cannot_encode([text], half)
            # Time goes with the square of the length of a word
            begin = 0
            for word in _LONG_WORD.finditer(text):
                yield text[begin:word.end()]
                begin = word.end()
            yield text[begin:]
    tokenizer.train_from_iterator(pieces(), trainer)

