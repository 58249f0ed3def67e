r"""
# Guesses that need no model

A loss says little by itself: it depends on the text, and most of all on the tokenizer. What it can be compared with is
what simple guesses would reach on the same masked tokens:

* `unigram` knows how frequent each token is, and sees nothing. It always says the most frequent one. A model that is
  there has learnt nothing of the context.
* `bigram` sees one neighbour, the one to the left, or if that is masked, too, the one to the right.
* `neighbours` sees both.

What is not seen is not used: with one neighbour `neighbours` is `bigram`, and without any both are `unigram`. The
probabilities are those of `Counts`. Two neighbours $l$ and $r$ are put together as if each had nothing to do with the
other where $w$ is known:

$$p(w \mid l, r) = \frac{1}{Z} \frac{p(w \mid l) \, p(w \mid r)}{p(w)}$$

**Work.** $Z$ is a sum over the vocabulary, but where $w$ was not seen beside both, its terms add up to something
simple. With $a_h(w)$ the part of $p(w \mid h)$ that was seen, and $\lambda_h = 1 - \sum_w a_h(w)$ the rest,

$$Z = \lambda_r + \lambda_l - \lambda_l \lambda_r + \sum_{w : \, a_l a_r > 0} \frac{a_l(w) \, a_r(w)}{p(w)}$$

which is a look-up for each token beside the neighbour that has fewer. And what is most probable is the best of those
tokens, of $l$ alone, or of $r$ alone.
"""
from typing import NamedTuple

import numpy as np

from labml_mlm.baselines.counts import Counts, highest_of
from labml_mlm.baselines.masked import Masked, every

# Masked tokens that `neighbours` is measured on, and the look-ups that are made at once
_MAX_PAIRS, _AT_ONCE = 1 << 15, 1 << 21


class Guess(NamedTuple):
    """What a guess reaches: nats per masked token, and the fraction of them that it gets right."""
    loss: float
    accuracy: float


def guess(counts: Counts, masked: Masked) -> dict[str, Guess]:
    """What each guess reaches on masked tokens; nothing, if there are none."""
    if not len(masked.tokens):
        return {}
    both = every(masked, _MAX_PAIRS)
    return {'unigram': _figures(*_unigram(counts, masked), masked.tokens),
            'bigram': _figures(*_bigram(counts, masked), masked.tokens),
            'neighbours': _figures(*_neighbours(counts, both), both.tokens)}


def _figures(log_p: np.ndarray, guesses: np.ndarray, tokens: np.ndarray) -> Guess:
    return Guess(float(-log_p.mean()), float((guesses == tokens).mean()))


def _unigram(counts: Counts, masked: Masked) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of the masked tokens, and what it says in their place; `[n]` each."""
    return _log(counts.p[masked.tokens]), np.full(len(masked.tokens), counts.most_frequent)


def _bigram(counts: Counts, masked: Masked) -> tuple[np.ndarray, np.ndarray]:
    """The same; the result is that of `_unigram` where no neighbour is seen."""
    log_p, guesses = _unigram(counts, masked)
    for side, neighbours, is_used in ((counts.left, masked.left, masked.left >= 0),
                                      (counts.right, masked.right, (masked.left < 0) & (masked.right >= 0))):
        log_p[is_used] = _log(side.of(neighbours[is_used], masked.tokens[is_used]))
        guesses[is_used] = side.best[neighbours[is_used]]
    return log_p, guesses


def _neighbours(counts: Counts, masked: Masked) -> tuple[np.ndarray, np.ndarray]:
    """The same; the result is that of `_bigram` where one neighbour is seen at most."""
    log_p, guesses = _bigram(counts, masked)
    is_used = (masked.left >= 0) & (masked.right >= 0)
    tokens, left, right = (part[is_used] for part in masked)
    pairs, of_pair = np.unique(left * len(counts.p) + right, return_inverse=True)
    sums, best = _of_pairs(counts, *np.divmod(pairs, len(counts.p)))
    log_p[is_used] = _log(_product(counts, left, right, tokens)) - _log(sums[of_pair])
    guesses[is_used] = best[of_pair]
    return log_p, guesses


def _product(counts: Counts, left: np.ndarray, right: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Probabilities between two neighbours before they are divided by their sum, `[n]`; 0 if one is never masked."""
    p = counts.p[tokens]
    return counts.left.of(left, tokens) * counts.right.of(right, tokens) / np.where(p > 0, p, np.inf)


def _of_pairs(counts: Counts, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the vocabulary of `_product`, and its most probable token, for pairs of neighbours; `[n]` each."""
    of_left, of_right = counts.left.rest[left], counts.right.rest[right]
    sums = of_left + of_right - of_left * of_right
    best, highest = counts.left.best[left], _product(counts, left, right, counts.left.best[left])
    other = counts.right.best[right]
    is_better = (found := _product(counts, left, right, other)) > highest
    best, highest = np.where(is_better, other, best), np.where(is_better, found, highest)
    is_left_shorter = counts.left.n_types[left] <= counts.right.n_types[right]
    for is_here, (one, of_one), (other, of_other) in (
            (is_left_shorter, (counts.left, left), (counts.right, right)),
            (~is_left_shorter, (counts.right, right), (counts.left, left))):
        for pairs in _some(is_here.nonzero()[0], one.n_types[of_one]):
            number, tokens, seen = one.beside(of_one[pairs])
            pair = pairs[number]
            seen_too = other.seen(of_other[pair], tokens)
            is_both = seen_too > 0
            pair, tokens, seen, seen_too = (part[is_both] for part in (pair, tokens, seen, seen_too))
            p = counts.p[tokens]
            sums += np.bincount(pair, seen * seen_too / p, minlength=len(sums))
            product = (seen / p + one.rest[of_one[pair]]) * (seen_too + other.rest[of_other[pair]] * p)
            found, at = highest_of(pair, product)
            is_better = product[at] > highest[found]
            best[found[is_better]] = tokens[at[is_better]]
    return sums, best


def _some(pairs: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """The numbers of pairs, `[n]`, in parts that have so many tokens beside them that they fit into memory."""
    return np.split(pairs, np.flatnonzero(np.diff(sizes[pairs].cumsum() // _AT_ONCE, prepend=0)))


def _log(p: np.ndarray) -> np.ndarray:
    """A token that is never masked has the probability 0, and is very improbable here."""
    return np.log(np.maximum(p, 1e-300))
