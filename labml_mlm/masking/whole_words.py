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
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from labml_mlm.masking.mlm import Rand, Units
from labml_mlm.tokenization.word_boundaries import WordBoundaries

_Q = 0.2
_LONGEST = 10


def whole_words(words: WordBoundaries) -> Units:
    """Words, by the boundaries of a vocabulary. Outside words, as in spaces and punctuation, each token is a unit."""
    return lambda x, rand: words.starts(x)


def spans(words: WordBoundaries, *, apart: Sequence[int] = ()) -> Units:
    """
    Spans of whole words. Spaces and punctuation that are tokens of their own count as words. No span goes on after a
    token of `apart`, or has one within it.
    """
    def starts(x: Tensor, rand: Rand) -> Tensor:
        word_starts = words.starts(x)
        # Lengths of spans, in words; more of them than there are words
        u = rand(x.shape, x.device)
        lengths = 1 + (torch.log1p(-u * (1 - (1 - _Q) ** _LONGEST)) / math.log(1 - _Q)).floor().clamp(max=_LONGEST - 1)
        # Which words of a sequence begin a span: the first, and each after the end of one; `[seq_len + 1, batch_size]`
        ends = lengths.long().cumsum(dim=0).clamp(max=len(x))
        begins = torch.zeros(len(x) + 1, x.shape[1], dtype=torch.bool, device=x.device)
        begins[0] = True
        begins.scatter_(0, ends, True)
        is_start = word_starts & begins.gather(0, word_starts.cumsum(dim=0) - 1)
        if apart:
            is_apart = torch.isin(x, x.new_tensor(apart))
            is_start |= is_apart
            is_start[1:] |= is_apart[:-1]
        return is_start
    return starts
