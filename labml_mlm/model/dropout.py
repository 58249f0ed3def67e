"""
# Dropout, faster on CPUs

torch draws a random number for each element on one core. Here one of 64 bits serves four elements, each dropped where
its 16 bits are below a threshold; what is kept is kept as bytes, not as floats. So a probability is rounded to a
multiple of 2⁻¹⁶, and what remains is scaled by the rounded one ([Srivastava et al.
2014](https://jmlr.org/papers/v15/srivastava14a.html), section 4, scaled as in section 10). On other devices, and where
a compiler fuses it, dropout is torch's.
"""
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Possible values of the bits of an element
_VALUES = 2 ** 16


class Dropout(nn.Dropout):
    """
    ## Dropout

    Called as torch's: `p` is the probability that an element becomes 0. Never in place.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x` has any shape; so has what it returns."""
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """`x` with each element 0 with probability `p`, and divided by 1 − `p` otherwise; for training."""
    n_dropped = round(p * _VALUES)
    if x.device.type != 'cpu' or torch.compiler.is_compiling() or n_dropped in (0, _VALUES):
        return functional.dropout(x, p)
    return _Dropout.apply(x, _is_kept(x.shape, n_dropped), _VALUES / (_VALUES - n_dropped))


def _is_kept(shape: torch.Size, n_dropped: int) -> Tensor:
    """Which elements are kept: all but those whose bits are one of the first `n_dropped` values."""
    n = math.prod(shape)
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-2 ** 63, None)
    return (bits.view(torch.int16)[:n] >= n_dropped - _VALUES // 2).view(shape)


class _Dropout(torch.autograd.Function):
    """Multiplies by 0 or a scale, and gradients by the same."""

    @staticmethod
    def forward(x: Tensor, is_kept: Tensor, scale: float) -> Tensor:
        return torch.mul(x, is_kept).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor):
        _, is_kept, ctx.scale = inputs
        ctx.save_for_backward(is_kept)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [is_kept] = ctx.saved_tensors
        return torch.mul(gradient, is_kept).mul_(ctx.scale), None, None
