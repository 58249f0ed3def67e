r"""
# Whole word and span masking

`MLM` selects units of a text as a whole or not at all. Here a text is split into such units.

**Whole words** (by BERT's authors, since May 2019, in their repository). A token inside a word is often told by the
rest of the word alone; a whole word is not.

**Spans** ([Joshi et al. 2020](https://arxiv.org/abs/1907.10529), section 3.1) of $\ell$ whole words, where $\ell$ is
drawn from a geometric distribution, truncated at 10:

$$P(\ell) = \frac{q (1 - q)^{\ell - 1}}{1 - (1 - q)^{10}}, \qquad q = 0.2, \qquad \ell = 1 \dots 10$$

with mean 3.8. They draw spans until 15% of a sequence are masked. Here a sequence is tiled with spans, each of which is
selected with the same probability: the selected spans have the same lengths, and the masking rate is exact.
"""
import functools
import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from labml_mlm.masking.mlm import Rand, Units
from labml_mlm.tokenization.word_boundaries import WordBoundaries

_Q = 0.2
_LONGEST = 10


class WholeWords:
    """
    ## Units that are words, by the boundaries of a vocabulary

    Outside words, as in spaces and punctuation, each token is a unit.
    """
    # Words of the longest unit
    _n_words = 1

    def __init__(self, words: WordBoundaries):
        self.words = words

    def __call__(self, x: Tensor, rand: Rand) -> Tensor:
        """Which tokens of a batch begin a unit; both `[seq_len, batch_size]`."""
        return self.words.starts(x)

    def longest(self, x: Tensor) -> int:
        """A bound on the tokens of a unit of a batch, `[seq_len, batch_size]`, which is on the CPU."""
        starts = self.words.starts(x)
        # Sequence after sequence, each of which begins a word
        begins = np.flatnonzero(starts.T.numpy())
        ends = np.append(begins, [starts.numel()] * self._n_words)[self._n_words:]
        return min(len(x), int((ends - begins).max(initial=0)))


class Spans(WholeWords):
    """
    ## Units that are spans of whole words

    Spaces and punctuation that are tokens of their own count as words. No span goes on after a token of `apart`, or has
    one within it.
    """
    _n_words = _LONGEST

    def __init__(self, words: WordBoundaries, *, apart: Sequence[int]):
        super().__init__(words)
        self.apart = apart

    def __call__(self, x: Tensor, rand: Rand) -> Tensor:
        """Which tokens of a batch begin a unit; both `[seq_len, batch_size]`."""
        word_starts = self.words.starts(x)
        # Lengths of spans, in words; more of them than there are words
        u = rand(x.shape, x.device)
        lengths = 1 + (torch.log1p(-u * (1 - (1 - _Q) ** _LONGEST)) / math.log(1 - _Q)).floor().clamp(max=_LONGEST - 1)
        # Which words of a sequence begin a span: the first, and each after the end of one; `[seq_len + 1, batch_size]`
        ends = lengths.long().cumsum(dim=0).clamp(max=len(x))
        begins = torch.zeros(len(x) + 1, x.shape[1], dtype=torch.bool, device=x.device)
        begins[0].fill_(True)
        begins.scatter_(0, ends, True)
        is_start = word_starts & begins.gather(0, word_starts.cumsum(dim=0) - 1)
        if self.apart:
            # Not `torch.isin`: a tensor of these would be copied to a GPU each time
            is_apart = functools.reduce(operator.or_, (x == token for token in self.apart))
            is_start |= is_apart
            is_start[1:] |= is_apart[:-1]
        return is_start


def whole_words(words: WordBoundaries) -> Units:
    """Units that are words."""
    return WholeWords(words)


def spans(words: WordBoundaries, *, apart: Sequence[int] = ()) -> Units:
    """Units that are spans of whole words, none of which goes on after a token of `apart`, or has one within it."""
    return Spans(words, apart=apart)
