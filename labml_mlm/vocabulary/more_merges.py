"""
# More merges for BPE

Byte pair encoding ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909)) merges the most frequent pair of
neighbouring tokens into a new one, again and again. It can go on at any time: words are cut by the merges that there
are, and the most frequent pair of that is next.

A new merge comes after all others, and its token is not in the vocabulary yet. So no earlier merge takes it, and a word
without the pair is cut as before.

Counting all pairs for each merge would take long. A merge changes the pairs at its places and next to them only.
"""
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from labml_mlm.tokenization.train_tokenizer import MAX_TOKEN_LENGTH

# How often a pair must occur
MIN_COUNT = 2
_SECOND = (1 << 32) - 1


class NewTokens(NamedTuple):
    """New entries of a vocabulary, in order."""
    names: list[str]
    # Ids of the tokens that each was cut into before
    pieces: list[list[int]]
    # What each is merged from; none for WordPiece
    merges: list[tuple[str, str]]
    # The number of tokens of each word, with the new ones
    lengths: list[int]


def more_merges(words: Sequence[Sequence[int]], counts: Sequence[int], *, names: Sequence[str], prefix: str = '',
                n: int) -> NewTokens:
    """
    Up to `n` merges, the most frequent first; among equally frequent ones the pair with the smallest ids.

    * `words` are distinct words as ids of tokens, and `counts` how often they occur
    * `names` are those of all tokens, by id
    * `prefix` is in front of the names of tokens that continue a word
    """
    found = _Pairs(words, counts)
    taken, names = set(names), list(names)
    new = NewTokens([], [], [], [])
    pieces = {i: [i] for i in range(len(names))}
    while len(new.names) < n and (pair := found.most_frequent()) is not None:
        first, second = pair
        name = names[first] + names[second].removeprefix(prefix)
        if name in taken or len(name) > MAX_TOKEN_LENGTH:
            continue
        pieces[len(names)] = pieces[first] + pieces[second]
        new.names.append(name)
        new.pieces.append(pieces[len(names)])
        new.merges.append((names[first], names[second]))
        found.merge(first, second, len(names))
        taken.add(name)
        names.append(name)
    return new._replace(lengths=found.lengths())


class _Pairs:
    """
    Words as a list of tokens, of which each knows the place of the next and of the one before; and how often each pair
    of tokens occurs. A pair is a number with the first token in its upper half.
    """

    def __init__(self, words: Sequence[Sequence[int]], counts: Sequence[int]):
        lengths = np.array([len(word) for word in words], int)
        n, ends = lengths.sum(), lengths.cumsum()
        # The last place is no token, and before and after each word
        self._tokens = np.array([*(token for word in words for token in word), -1], np.int32)
        self._before, self._after = np.arange(-1, n), np.arange(1, n + 2)
        self._before[[*(ends - lengths), n]] = self._after[[*(ends - 1), n]] = n
        self._n_words = len(words)
        self._words = np.repeat(np.arange(len(words)), lengths)
        self._weights = np.repeat(np.array(counts, int), lengths)
        self._counts = self._count(np.arange(n))
        # With counts that were right once
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> tuple[int, int] | None:
        """The most frequent pair, each only once while its count stays the same; `None` if there is none."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if count != -self._counts[pair]:
                continue
            return (pair >> 32, pair & _SECOND) if -count >= MIN_COUNT else None
        return None

    def merge(self, first: int, second: int, token: int):
        """Puts `token` in all places of a pair."""
        at = np.flatnonzero(self._tokens == first)
        at = at[self._tokens[self._after[at]] == second]
        if first == second:
            at = self._without_overlaps(at)
        seconds = self._after[at]
        old = self._count(np.unique(np.concatenate([self._before[at], at, seconds])))
        rest = self._after[seconds]
        self._tokens[at], self._tokens[seconds] = token, -1
        self._after[at], self._before[rest] = rest, at
        self._before[-1] = len(self._tokens) - 1
        new = self._count(np.unique(np.concatenate([self._before[at], at])))
        for pair in old.keys() | new.keys():
            if change := new.get(pair, 0) - old.get(pair, 0):
                self._counts[pair] = self._counts.get(pair, 0) + change
                heapq.heappush(self._heap, (-self._counts[pair], pair))

    def lengths(self) -> list[int]:
        """The number of tokens of each word."""
        return np.bincount(self._words[self._tokens[:-1] >= 0], minlength=self._n_words).tolist()

    def _without_overlaps(self, at: np.ndarray) -> np.ndarray:
        """Of `aaa`, the first two are merged."""
        found: list[int] = []
        for i in at.tolist():
            if not found or self._after[found[-1]] != i:
                found.append(i)
        return np.array(found, int)

    def _count(self, places: np.ndarray) -> dict[int, int]:
        """How often pairs occur whose first tokens are in these places."""
        first, second = self._tokens[places], self._tokens[self._after[places]]
        is_pair = (first >= 0) & (second >= 0)
        pairs, inverse = np.unique(first[is_pair].astype(np.int64) << 32 | second[is_pair], return_inverse=True)
        counts = np.bincount(inverse, self._weights[places[is_pair]], len(pairs)).astype(int)
        return dict(zip(pairs.tolist(), counts.tolist(), strict=True))
