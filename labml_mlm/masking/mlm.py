r"""
# Masking

A masked language model sees a text in which some tokens were replaced, and predicts the original ones. BERT ([Devlin et
al. 2019](https://arxiv.org/abs/1810.04805), section 3.1) *selects* 15% of the tokens and computes the loss on those
only. Of the selected tokens

* 80% become `[MASK]`,
* 10% become a random token, so that the model cannot trust any input token blindly,
* 10% stay as they are, so that the model has to represent real tokens, too: `[MASK]` is never seen in later use.

Two independent draws, then: *which* tokens are selected, and *what* replaces each.

**Which.** Drawing each token on its own would leave some short sequences without any prediction, and give each step
another number of predictions. We draw the number first: a sequence of $n$ maskable tokens gets

$$k = \max(1, \lfloor p n \rfloor + [u < p n - \lfloor p n \rfloor]), \qquad u \sim \mathcal{U}[0, 1)$$

predictions. That is the *stochastic rounding* of $p n$, up or down, with expectation exactly $p n$, so the masking rate
is $p$ whatever the length (as long as $p n \geq 1$; below that the "at least one" wins). The $k$ positions are those of
the $k$ smallest among $n$ random scores: a uniform draw without replacement, for the whole batch with one sort.

**Whole units.** A token inside a word is easily told from the rest of it, so one may rather mask whole words, or spans
of several. A unit is then selected as a whole or not at all, and still each with probability $p$, whatever its size:
lay the units of a sequence out on a circle of length $n$, in random order, and select those that begin in an arc of
length $p n$ with a random beginning. Each unit begins at a uniform place on the circle, so it is in the arc with
probability $p n / n$. The next unit begins where one ends; so if none is longer than $p n$, at least one begins in the
arc, and otherwise the first one after the beginning of the arc is taken.

**What.** One uniform number per position falls into one of three disjoint intervals, so the split is exactly 80/10/10
in expectation, and the three cannot overlap.

Special tokens (`[PAD]`, `[MASK]`, and all of `no_mask_tokens`) are never selected, and never drawn as a random token.
"""
import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Columns

# Uniform numbers from [0, 1) of a shape, on a device
Rand = Callable[[torch.Size, torch.device], Tensor]
# From token ids, and where to draw from, which tokens begin a unit; both `[seq_len, batch_size]`. With a method
# `longest`, as that of `WholeWords`, a step on a GPU does not wait for the number of masked tokens
Units = Callable[[Tensor, Rand], Tensor]
# Tokens of a unit up to which a bound on the selected tokens follows from it
_LONG = 32


class MLM:
    """
    ## Masks a batch for BERT's objective

    A drop-in for `labml_nn.transformers.mlm.MLM`, with the same arguments:

        masked, labels = mlm(x)

    * `padding_token` is the id of `[PAD]`; `labels` hold it wherever nothing is to be predicted
    * `mask_token` is the id of `[MASK]`
    * `no_mask_tokens` are the ids of further tokens that are never selected or drawn (`[CLS]`, …)
    * `n_tokens` is the size of the vocabulary, special tokens included
    * `random_tokens` are the ids that a random token is drawn from, if the vocabulary has ids that no text has; by
      default all of it. Special tokens are never drawn
    * `masking_prob` is the masking rate: the fraction of maskable tokens to predict; it may change between two calls
    * `randomize_prob` and `no_change_prob` are fractions of the selected tokens; the rest becomes `[MASK]`
    * `units` tells which tokens of a batch begin a unit, which is selected as a whole or not at all; by default each
      token is a unit. `labml_mlm.masking.whole_words` has whole words and spans
    * `generator` is where all random numbers come from, on its own device; by default, torch's global one for the
      device of `x`

    Raises `UserError` (a `ValueError`) if a probability is outside [0, 1], if `randomize_prob + no_change_prob > 1`, if
    a token id is not in `range(n_tokens)`, or if `[MASK]` and `[PAD]` are the same.
    """

    def __init__(self, *,
                 padding_token: int, mask_token: int, no_mask_tokens: Sequence[int], n_tokens: int,
                 masking_prob: float = 0.15, randomize_prob: float = 0.1, no_change_prob: float = 0.1,
                 random_tokens: Sequence[int] | None = None, units: Units | None = None,
                 generator: torch.Generator | None = None):
        for name, prob in (('masking_prob', masking_prob), ('randomize_prob', randomize_prob),
                           ('no_change_prob', no_change_prob)):
            if not 0 <= prob <= 1:
                raise UserError(f'{name}={prob}: a probability must be from 0 to 1')
        # The tolerance is for sums like 0.1 + 0.7 + 0.2, which floating point numbers miss
        if randomize_prob + no_change_prob > 1 + 1e-9:
            raise UserError(f'randomize_prob={randomize_prob} and no_change_prob={no_change_prob} '
                            f'are fractions of the selected tokens: their sum must be at most 1')
        special_tokens = sorted({padding_token, mask_token, *no_mask_tokens})
        outside = [token for token in special_tokens if not 0 <= token < n_tokens]
        if outside:
            raise UserError(f'special tokens {outside} are not in the vocabulary of n_tokens={n_tokens}')

        if random_tokens is not None and not all(0 <= token < n_tokens for token in random_tokens):
            raise UserError(f'random_tokens are not all in the vocabulary of n_tokens={n_tokens}')
        if mask_token == padding_token:
            raise UserError(f'mask_token and padding_token are both {mask_token}: they must differ')

        self.padding_token = padding_token
        self.mask_token = mask_token
        self.no_mask_tokens = list(no_mask_tokens)
        self.n_tokens = n_tokens
        self.masking_prob = masking_prob
        self.randomize_prob = randomize_prob
        self.no_change_prob = no_change_prob
        self.units = units
        self.generator = generator
        self._columns: Columns | None = None

        # `[n_tokens]`: may a token be selected?
        self.is_maskable = torch.ones(n_tokens, dtype=torch.bool)
        self.is_maskable[special_tokens] = False
        is_drawn = self.is_maskable.clone()
        if random_tokens is not None:
            is_drawn[:] = False
            is_drawn[list(random_tokens)] = True
            is_drawn &= self.is_maskable
        # If all tokens are special, none is ever selected
        self.random_tokens = is_drawn.nonzero()[:, 0] if is_drawn.any() else torch.tensor([mask_token])

    def __call__(self, x: Tensor, columns: Columns | None = None) -> tuple[Tensor, Tensor]:
        """
        * `x` is the batch of token ids, of shape `[seq_len, batch_size]`; it is not modified
        * `columns` tells which columns of a larger batch these are: they are masked as they would be in the whole
          batch, and the generator ends in the same state

        Returns the masked batch and the labels, both of the shape of `x`. `labels` is the original token where it is to
        be predicted, and `padding_token` elsewhere.
        """
        self.is_maskable = self.is_maskable.to(x.device)
        self.random_tokens = self.random_tokens.to(x.device)
        self._columns = columns

        maskable = self.is_maskable[x]
        selected = self._select(maskable) if self.units is None else self._select_units(self.units(x, self._rand),
                                                                                        maskable)
        masked = torch.where(selected, self._replacements(x), x)
        labels = torch.where(selected, x, self.padding_token)
        return masked, labels

    def max_selected(self, seq_len: int, masking_prob: float | None = None, *,
                     longest_unit: int | None = None) -> int | None:
        """
        An upper bound on the selected tokens of a sequence of `seq_len`: of any sequence without units, of those whose
        units have up to `longest_unit` tokens with them; `None` if that is not known, or so much that to count them is
        better: all sequences would be predicted at as many positions. `masking_prob` may be another rate than the
        present one.
        """
        p = self.masking_prob if masking_prob is None else masking_prob
        if self.units is None:
            return min(seq_len, max(1 if p > 0 else 0, math.ceil(p * seq_len)))
        n = math.ceil(p * seq_len)
        if longest_unit is None or longest_unit > max(n, _LONG):
            return None
        # Those that begin in the arc, and what the last of them has beyond it
        return min(seq_len, n + longest_unit)

    def longest_unit(self, x: Tensor) -> int | None:
        """
        A bound on the tokens of a unit of a batch, `[seq_len, batch_size]`, which is on the CPU; `None` without units,
        and of those that do not say it.
        """
        longest = getattr(self.units, 'longest', None)
        return None if longest is None else longest(x)

    def _select(self, maskable: Tensor) -> Tensor:
        """Which of the maskable tokens to predict; both `[seq_len, batch_size]`."""
        # Maskable tokens of each sequence, and how many of them to select, `[batch_size]`
        n = maskable.sum(dim=0)
        pn = self.masking_prob * n
        k = pn.floor() + (self._rand(n.shape, maskable.device) < pn.frac())
        # In 32 bits, p n may be a little above a whole number that it is
        k = k.clamp(min=1 if self.masking_prob > 0 else 0, max=math.ceil(self.masking_prob * len(maskable)))
        k = torch.minimum(k, n)

        # Random scores from [0, 1); what cannot be selected comes after all of them
        scores = self._rand(maskable.shape, maskable.device).masked_fill(~maskable, 2.)
        order = scores.argsort(dim=0)
        is_first_k = torch.arange(len(maskable), device=maskable.device)[:, None] < k
        return torch.zeros_like(maskable).scatter(0, order, is_first_k)

    def _select_units(self, starts: Tensor, maskable: Tensor) -> Tensor:
        """The same by units, where `starts` tells which tokens begin one; all `[seq_len, batch_size]`."""
        if self.masking_prob == 0:
            return torch.zeros_like(maskable)
        # The number of the unit of each token, and the number of maskable tokens of each unit
        unit = starts.cumsum(dim=0) - 1
        sizes = torch.zeros_like(unit).scatter_add(0, unit, maskable.long())
        n = sizes.sum(dim=0)
        # In random order
        order = self._rand(sizes.shape, sizes.device).argsort(dim=0)
        sizes = sizes.gather(0, order)
        begins = sizes.cumsum(dim=0) - sizes
        # From the beginning of the arc to that of the unit, around the circle
        distance = begins - self._rand(n.shape, n.device) * n
        distance = torch.where(distance < 0, distance + n, distance).masked_fill(sizes == 0, math.inf)
        is_first = (distance == distance.min(dim=0).values) & distance.isfinite()
        is_selected = torch.zeros_like(maskable).scatter(0, order, (distance < self.masking_prob * n) | is_first)
        return is_selected.gather(0, unit) & maskable

    def _replacements(self, x: Tensor) -> Tensor:
        """The replacement of each token, in case it is selected; `[seq_len, batch_size]`."""
        u = self._rand(x.shape, x.device)
        randomize = u < self.randomize_prob
        no_change = ~randomize & (u < self.randomize_prob + self.no_change_prob)

        drawn = self._draw(functools.partial(torch.randint, len(self.random_tokens)), x.shape, x.device)
        return torch.where(randomize, self.random_tokens[drawn], torch.where(no_change, x, self.mask_token))

    def _rand(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Uniform numbers from [0, 1)."""
        return self._draw(torch.rand, shape, device)

    def _draw(self, draw: Callable[..., Tensor], shape: torch.Size, device: torch.device) -> Tensor:
        """Random numbers of a shape, whose last dimension is the columns. Draws those of all ranks, keeps its own."""
        # A generator draws on its own device only
        draw_device = device if self.generator is None else self.generator.device
        if self._columns is None:
            return draw(shape, generator=self.generator, device=draw_device).to(device)
        first, total = self._columns
        drawn = draw((*shape[:-1], total), generator=self.generator, device=draw_device)
        return drawn[..., first:first + shape[-1]].to(device)
