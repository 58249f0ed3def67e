"""
# What a tokenizer makes of a text

Tokens of all of a text, or, if it is long, of chunks from all over it. *Fertility* is the number of tokens for each
word between white space; where there are no such words, as in Chinese, it says nothing and is left out.
"""
import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import regex

from labml_mlm.data.blocks import Piece
from labml_mlm.data.chunks import split_chunks
from labml_mlm.data.corpus import Corpus
from labml_mlm.data.documents import TextFiles
from labml_mlm.text_facts.facts import TextFacts
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.losses import Losses

# Characters that are tokenized, and of a sample to train on
_SAMPLE, _KEPT = 8_000_000, 400_000
# Distinct words that are counted, the most frequent ones that are looked at, and those that are named
_MOST, _LOOKED_AT, _NAMED = 1 << 17, 2000, 5
# Mean characters of a word, if words are between white space
_LONG = 20
_WORD = regex.compile(r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*")


class CutWord(NamedTuple):
    """A frequent word, and its tokens."""
    word: str
    n: int
    tokens: list[str]


class TokenFacts(NamedTuple):
    """What a tokenizer makes of a text."""
    vocabulary: int
    # Of the whole text, with a separator after each of several documents; estimated if it is long
    n_tokens: int
    is_estimate: bool
    # Characters that were tokenized
    n_sampled: int
    characters_per_token: float
    # Tokens of a word; `None` if words are not between white space
    fertility: float | None
    # Frequent words of most tokens
    worst: list[CutWord]
    unknown_share: float
    # Characters that normalisation alters, by what it alters, and those that it puts spaces around
    altered: dict[str, int]
    n_apart: int
    # For people: what is lost
    messages: list[str]
    # Documents from all over the text
    sample: tuple[str, ...]


def token_facts(files: TextFiles, facts: TextFacts, tokenizer: Tokenizer, *,
                progress: Callable[[int], None] = lambda n_characters: None) -> TokenFacts:
    """
    * `facts` are what a first pass found
    * `progress` is called with the number of characters that were tokenized
    """
    n_characters, alphabet = facts.n_characters, ''.join(facts.characters)
    losses = Losses(tokenizer, Corpus(facts.n_documents, n_characters, '', alphabet))
    words, sample = _Words(), _Kept()
    fraction = min(1., _SAMPLE / max(1, n_characters))
    pieces = losses.of_text(sample.of_text(words.of_text(_sampled(files, fraction), progress)))
    n = 0
    for tokens, _ in tokenizer.encode_documents(pieces):
        losses.add_tokens(tokens)
        n += len(tokens)
    figures, n_sampled = losses.figures(), words.n_characters
    separators = facts.n_documents * (facts.n_documents > 1)
    is_spaced = words.n_words and n_sampled / words.n_words <= _LONG
    fertility = n / words.n_words if is_spaced else None
    normalize = getattr(tokenizer, 'normalize', lambda text: text)
    return TokenFacts(tokenizer.n_tokens, round(n * n_characters / max(1, n_sampled)) + separators, fraction < 1,
                      n_sampled, n_sampled / max(1, n), fertility, _worst(words, tokenizer),
                      figures['unknown'] / max(1, n), figures['altered'],
                      sum(count for c, count in facts.characters.items() if normalize(c) == f' {c} '),
                      list(losses.messages()), tuple(sample.texts))


def _sampled(pieces: Iterable[Piece], fraction: float) -> Iterator[Piece]:
    """A fraction of a text, as documents of a chunk each; the text as it is, if that is all of it."""
    if fraction == 1:
        yield from pieces
        return
    seen = taken = 0
    for chunk, _ in split_chunks(pieces):
        seen += len(chunk)
        if taken + len(chunk) / 2 <= seen * fraction:
            taken += len(chunk)
            yield chunk, True


class _Words:
    """Counts the words of a text on its way."""

    def __init__(self):
        self.n_characters = self.n_words = 0
        # Words of letters, the rarest left out where they are too many
        self.counts: collections.Counter[str] = collections.Counter()
        self._least = 0

    def of_text(self, pieces: Iterable[Piece], progress: Callable[[int], None]) -> Iterator[Piece]:
        for piece, is_last in pieces:
            self.n_characters += len(piece)
            self.n_words += len(piece.split())
            self.counts.update(_WORD.findall(piece))
            while len(self.counts) > _MOST:
                self._least += 1
                self.counts = collections.Counter({word: n for word, n in self.counts.items() if n > self._least})
            progress(self.n_characters)
            yield piece, is_last


class _Kept:
    """Keeps the beginning of a text, or of its sample, on its way."""

    def __init__(self):
        self.texts: list[str] = []
        self._n = 0

    def of_text(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece, is_last in pieces:
            if self._n < _KEPT and piece:
                self.texts.append(piece[:_KEPT - self._n])
                self._n += len(self.texts[-1])
            yield piece, is_last


def _worst(words: _Words, tokenizer: Any) -> list[CutWord]:
    """Of the most frequent words, those of most tokens, each as in running text."""
    if not hasattr(tokenizer, 'adds_space'):
        # Tokens of characters cut all words alike
        return []
    space = ' ' if tokenizer.is_spaced and not tokenizer.adds_space else ''
    found = [CutWord(word, n, [tokenizer.tokens[i] for i in tokenizer.encode(space + word).tolist()])
             for word, n in itertools.islice(words.counts.most_common(), _LOOKED_AT)]
    cut = [word for word in found if len(word.tokens) > 1]
    return sorted(cut, key=lambda word: (-len(word.tokens), -word.n))[:_NAMED]
