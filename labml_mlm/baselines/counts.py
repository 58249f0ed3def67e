r"""
# What a text says of its tokens and their neighbours

With $c(w)$ how often a token occurs, $N$ the sum of that, $T$ how many different tokens occur, and $V$ how many there
could be, its frequency is

$$p(w) = \frac{c(w) + T / V}{N + T}$$

and beside a neighbour $h$ that has stood beside $N_h$ tokens, $T_h$ different ones, it is interpolated with that:

$$p(w \mid h) = \frac{c(h, w) + T_h \, p(w)}{N_h + T_h}$$

So a neighbour counts for more the more often it was met, and for less the more different tokens stand beside it
([Witten and Bell 1991](https://doi.org/10.1109/18.87000), method C). There is nothing to tune, and no probability is 0.
Tokens that are never masked have none, but are neighbours.
"""
from collections.abc import Iterable

import numpy as np
from torch import Tensor

# Tokens that are counted; of a longer text these are blocks from all over it
_MAX_TOKENS, _BLOCK = 1 << 21, 1 << 14


class Counts:
    """
    ## Counts of the tokens of a text

    * `parts` are token ids, `[n]` each: the text, or parts of it
    * `is_maskable` says which tokens may have to be guessed, `[n_tokens]`
    """

    def __init__(self, parts: Iterable[np.ndarray], *, is_maskable: np.ndarray):
        parts = [np.asarray(part, np.int64) for part in parts]
        # `[n_tokens]`
        self.p = frequencies(parts, is_maskable=is_maskable)
        self.most_frequent = int(self.p.argmax())
        pairs = [np.stack([part[:-1], part[1:]]) for part in parts]
        left, right = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
        # By the neighbour to the left, and to the right
        self.left = Neighbours(left, right, p=self.p)
        self.right = Neighbours(right, left, p=self.p)


class Neighbours:
    """
    ## The tokens that stand beside each token, on one side of it

    * `neighbours` and `tokens` are those of the pairs of a text, `[n]` each
    * `p` are the frequencies of tokens, `[n_tokens]`, 0 if one is never masked
    """

    def __init__(self, neighbours: np.ndarray, tokens: np.ndarray, *, p: np.ndarray):
        self._n_tokens, self._p = len(p), p
        is_guessed = p[tokens] > 0
        # A number for each pair that occurs, ascending, with its two tokens and how often it does; `[n_pairs]`
        self._keys, self.counts = np.unique(neighbours[is_guessed] * len(p) + tokens[is_guessed], return_counts=True)
        owners, self.tokens = np.divmod(self._keys, len(p))
        # Where the pairs of each neighbour begin, `[n_tokens + 1]`
        self.begins = np.searchsorted(owners, np.arange(len(p) + 1))
        self.n_types = np.diff(self.begins)
        self.totals = np.bincount(owners, self.counts, minlength=len(p)) + self.n_types
        # The part of a probability that is left for the frequency: all of it beside a token that was never met
        self.rest = np.where(self.totals > 0, self.n_types / np.maximum(1, self.totals), 1.)
        # The most probable token beside each, `[n_tokens]`
        self.best = np.full(len(p), int(p.argmax()))
        probabilities = self.counts / self.totals[owners] + self.rest[owners] * p[self.tokens]
        met, highest = highest_of(owners, probabilities)
        is_better = probabilities[highest] > self.of(met, self.best[met])
        self.best[met] = np.where(is_better, self.tokens[highest], self.best[met])

    def seen(self, neighbours: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """How often tokens have stood beside these neighbours, by the sum of all that did; `[n]` each."""
        keys = neighbours * self._n_tokens + tokens
        at = np.searchsorted(self._keys, keys).clip(max=max(0, len(self._keys) - 1))
        if not len(self._keys):
            return np.zeros(len(keys))
        return np.where(self._keys[at] == keys, self.counts[at], 0) / np.maximum(1, self.totals[neighbours])

    def beside(self, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All that was met beside neighbours: which of them it is, the token, and `seen` of both; `[n]` each."""
        sizes = self.n_types[neighbours]
        numbers = np.repeat(np.arange(len(neighbours)), sizes)
        at = np.arange(len(numbers)) + np.repeat(self.begins[neighbours] - (sizes.cumsum() - sizes), sizes)
        return numbers, self.tokens[at], self.counts[at] / self.totals[neighbours[numbers]]

    def of(self, neighbours: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The probabilities of tokens beside these neighbours, `[n]` each."""
        return self.seen(neighbours, tokens) + self.rest[neighbours] * self._p[tokens]


def highest_of(groups: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The groups that there are, and where the highest value of each is. Groups ascend; `[n]` each."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    if not len(begins):
        return begins, begins
    highest = np.repeat(np.maximum.reduceat(values, begins), np.diff(begins, append=len(groups)))
    at = np.flatnonzero(values == highest)
    # The first, if there are several
    at = at[np.diff(groups[at], prepend=-1) > 0]
    return groups[at], at


def frequencies(parts: Iterable[np.ndarray], *, is_maskable: np.ndarray) -> np.ndarray:
    """The frequencies of tokens, `[n_tokens]`, 0 for those that are never masked; the arguments are `Counts`'."""
    n = len(is_maskable)
    counts = sum((np.bincount(part, minlength=n) for part in parts), np.zeros(n, np.int64)) * is_maskable
    n_types, uniform = np.count_nonzero(counts), is_maskable / max(1, is_maskable.sum())
    return (counts + n_types * uniform) / (counts.sum() + n_types) if n_types else uniform


def sampled(tokens: Tensor | np.ndarray) -> list[np.ndarray]:
    """A text, `[n]`, as it is counted: as a whole, or blocks from all over a long one."""
    tokens = np.asarray(tokens)
    if len(tokens) <= _MAX_TOKENS:
        return [tokens]
    begins = np.linspace(0, len(tokens) - _BLOCK, _MAX_TOKENS // _BLOCK).astype(np.int64)
    return [tokens[begin:begin + _BLOCK] for begin in begins.tolist()]
