r"""
# Figures of many texts, with their standard errors

**A corpus.** Its figures are ratios of sums over its $k$ texts, $R = \sum_i y_i / \sum_i x_i$, with $y$ what a text
costs in nats or bits and $x$ its tokens, words or characters (or 1, for the mean over texts): a long text counts for
more than a short one, and a mean of means would not. The texts are taken for a sample. By the delta method, the
standard error of a ratio estimator (Cochran, *Sampling Techniques*, section 6.4) is

$$\mathrm{SE}(R) = \frac{1}{\sum_i x_i} \sqrt{\frac{k}{k - 1} \sum_i (y_i - R x_i)^2}$$

and that of the pseudo-perplexity $e^R$ is $e^R \, \mathrm{SE}(R)$. From one text there is none.

**Minimal pairs.** A model is right if the pseudo-log-likelihood of the good sentence is higher; a tie is wrong, as in
BLiMP ([Warstadt et al. 2020](https://arxiv.org/abs/1912.00582)). Two are tied if they differ by less than rounding
does, as a tokenizer that ignores case makes them. Of an accuracy $a$ of $n$ pairs it is
$\sqrt{a (1 - a) / n}$.
"""
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.evaluation.score import TextScore, perplexity, score_texts
from labml_mlm.inference.pretrained import Pretrained

# Of a pair
GOOD, BAD = 'sentence_good', 'sentence_bad'
# Fields that name what a pair is about, from the finest on
GROUPS = 'UID', 'linguistics_term', 'field'
# The relative difference of two sums that is rounding: the same text may be in batches of other sizes
_TIE = 1e-6


class Figure(NamedTuple):
    """A value and its standard error; `None` where it is unknown."""
    value: float | None
    error: float | None


class Corpus:
    """
    ## The figures of all texts that were added

    It takes the same memory for any number of texts.
    """

    def __init__(self):
        # Of texts, tokens, words, characters, nats: sums, and sums of products of two
        self._sums = np.zeros(5)
        self._products = np.zeros((5, 5))
        self.n_empty = self.n_cut = 0

    def add(self, scored: TextScore):
        """Adds a text; one without tokens counts as empty, and for nothing else."""
        if not scored.n_tokens:
            self.n_empty += 1
            return
        self.n_cut += scored.n_windows > 1
        row = np.array([1, scored.n_tokens, scored.n_words, scored.n_characters, -scored.pll])
        self._sums += row
        self._products += np.outer(row, row)

    @property
    def n_texts(self) -> int:
        """Texts with tokens."""
        return int(self._sums[0])

    @property
    def totals(self) -> dict[str, int | float]:
        """Sums over all texts."""
        tokens, words, characters = map(int, self._sums[1:4])
        return {'texts': self.n_texts, 'empty': self.n_empty, 'cut': self.n_cut, 'tokens': tokens, 'words': words,
                'characters': characters, 'pll': -float(self._sums[4])}

    @property
    def figures(self) -> dict[str, Figure]:
        """Figures by name, each with its standard error."""
        per_token, bits = self._ratio(1), self._ratio(3)
        pppl = Figure(None, None)
        if per_token.value is not None:
            value = perplexity(per_token.value)
            pppl = Figure(value, None if per_token.error is None else value * per_token.error)
        return {'bits_per_character': Figure(*(x if x is None else x / math.log(2) for x in bits)),
                'nats_per_token': per_token, 'pseudo_perplexity': pppl, 'nats_per_word': self._ratio(2),
                'nats_per_text': self._ratio(0)}

    def _ratio(self, of: int) -> Figure:
        """Nats by another of the sums."""
        k, x, y = self._sums[0], self._sums[of], self._sums[4]
        if not x:
            return Figure(None, None)
        ratio = y / x
        if k < 2:
            return Figure(float(ratio), None)
        squares = self._products[4, 4] - 2 * ratio * self._products[of, 4] + ratio ** 2 * self._products[of, of]
        return Figure(float(ratio), math.sqrt(k / (k - 1) * max(0., squares)) / float(x))


class PairScore(NamedTuple):
    """A minimal pair; `pair` are its fields."""
    pair: Mapping[str, Any]
    good: TextScore
    bad: TextScore

    @property
    def is_right(self) -> bool:
        """Is the good sentence the more probable one?"""
        return self.good.pll > self.bad.pll and not self.is_tie

    @property
    def is_tie(self) -> bool:
        """Are both equally probable? They are if their tokens are the same."""
        return math.isclose(self.good.pll, self.bad.pll, rel_tol=_TIE)


class Accuracy(NamedTuple):
    """How often a model is right."""
    n: int = 0
    n_right: int = 0
    # Wrong, too
    n_ties: int = 0

    def plus(self, scored: PairScore) -> 'Accuracy':
        """With another pair."""
        return Accuracy(self.n + 1, self.n_right + scored.is_right, self.n_ties + scored.is_tie)

    @property
    def figure(self) -> Figure:
        """With its standard error."""
        if not self.n:
            return Figure(None, None)
        accuracy = self.n_right / self.n
        return Figure(accuracy, math.sqrt(accuracy * (1 - accuracy) / self.n))


class Phenomena:
    """
    ## Accuracy by phenomenon

    `by` has the accuracy of each value of the fields that name phenomena, and `total` that of all pairs.
    """

    def __init__(self):
        self.by: dict[str, dict[str, Accuracy]] = {group: {} for group in GROUPS}
        self.total = Accuracy()

    def add(self, scored: PairScore):
        """Adds a pair."""
        self.total = self.total.plus(scored)
        for group, found in self.by.items():
            if (name := scored.pair.get(group)) is not None:
                found[str(name)] = found.get(str(name), Accuracy()).plus(scored)


def score_pairs(pretrained: Pretrained, pairs: Iterable[Mapping[str, Any]], *, within_word: bool = False,
                window: int | None = None) -> Iterator[PairScore]:
    """
    The scores of minimal pairs, in their order.

    * `pairs` have the fields `sentence_good` and `sentence_bad`, and any others; they may be a stream
    * the other arguments are those of `score_texts`

    Raises what `score_texts` does, and `UserError` for a pair whose sentences are missing, empty or the same.
    """
    read, again = itertools.tee(pairs)
    scores = score_texts(pretrained, (sentence for pair in read for sentence in _sentences(pair)),
                         within_word=within_word, window=window)
    # The pairs last: a text that cannot be scored ends the scores with its error
    return (PairScore(pair, good, bad) for good, bad, pair in zip(scores, scores, again, strict=False))


def _sentences(pair: Mapping[str, Any]) -> Sequence[str]:
    if not isinstance(pair, Mapping):
        raise UserError('a pair must be an object with the fields `sentence_good` and `sentence_bad`')
    for name in GOOD, BAD:
        sentence = pair.get(name)
        if not isinstance(sentence, str) or not sentence.strip():
            raise UserError(f'the field `{name}` has no text: the fields are {", ".join(map(repr, pair)) or "none"}')
    if pair[GOOD] == pair[BAD]:
        raise UserError(f'both sentences are the same: {pair[GOOD]!r}')
    return pair[GOOD], pair[BAD]
