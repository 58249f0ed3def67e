"""
# A model may be no larger than its weights

The sizes of a model come from a file beside its weights, which may be damaged, or somebody else's: a number in it may
ask for terabytes. The weights are on the disk, so they tell what is plausible, before any memory is taken.
"""
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from labml_mlm.common.errors import UserError

# Beside its weights, a model has constants, such as positions, and what is needed to initialize them
_TIMES, _MORE = 8, 2 ** 26
# What a small tensor counts as: it takes time and memory itself, and there may be billions of them
_LEAST = 2048


@contextlib.contextmanager
def bounded_by(n_weights: int | None) -> Iterator[None]:
    """
    Inside, a model is built that is to take as many weights as that; without a number, nothing is bounded.

    Raises `UserError` before a tensor is allocated with which it had far more.
    """
    if n_weights is None:
        yield
        return
    with _Bounded(n_weights):
        yield


class _Bounded(TorchDispatchMode):
    def __init__(self, n_weights: int):
        super().__init__()
        self._n_weights = n_weights
        self._n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        first = args[0] if args else None
        # Operations that take no tensors make new ones: of a shape, or of as many numbers as `arange` has
        if isinstance(first, list | tuple) and all(isinstance(size, int) for size in first):
            self._count(math.prod(first))
        elif func.overloadpacket is torch.ops.aten.arange and all(isinstance(number, int | float) for number in args):
            self._count(max(map(abs, args)))
        elif func.overloadpacket is torch.ops.aten.clone:
            # Layers may be copies of one
            self._count(first.numel())
        return func(*args, **(kwargs or {}))

    def _count(self, n: float):
        self._n += max(n, _LEAST)
        if self._n > _TIMES * self._n_weights + _MORE:
            raise UserError(f'the configs ask for a model of {self._n:,.0f} numbers or more, and there are weights of '
                            f'{self._n_weights:,}: the configs are damaged, or not those of the weights')
