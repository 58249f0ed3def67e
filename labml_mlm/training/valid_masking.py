"""The masks of a validation, the same each time."""
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from labml import logger
from labml.logger import Text
from torch import Tensor

from labml_mlm.data.batch import Columns
from labml_mlm.training.state import rng_state, set_rng_state


class RepeatedMasking:
    """
    ## Calls an `mlm` so that masks repeat

    * `mlm` is `MLM`, or anything that is called like it

    It is seeded by `restart`. One without a `torch.Generator` of its own draws from the global ones, torch's, NumPy's
    and Python's; those it gets seeded, too, and everything else finds them as they were.
    """

    def __init__(self, mlm: Callable[..., tuple[Tensor, Tensor]]):
        self.mlm = mlm
        generator = getattr(mlm, 'generator', None)
        self._generator = generator if isinstance(generator, torch.Generator) else None
        # The global generators as the last call left them
        self._state: dict[str, Any] | None = None
        # Tokens and labels of the first batch of a validation
        self._first: tuple[Tensor, Tensor] | None = None
        self._is_checked = False

    def restart(self):
        """The next masks are those of the first batch of a validation."""
        self._state = None
        self._is_checked = False
        if self._generator is not None:
            self._generator.manual_seed(0)

    def check(self, tokens: Tensor, labels: Tensor):
        """
        Logs a warning if the first batch of a validation has the same tokens as that of the one before, and other
        labels. `tokens` are those before masking; `[seq_len, batch_size]` each.
        """
        if self._is_checked:
            return
        before, self._first, self._is_checked = self._first, (tokens, labels), True
        if before is not None and torch.equal(before[0], tokens) and not torch.equal(before[1], labels):
            logger.log('The masks of this validation are not those of the last one, so their losses differ by chance: '
                       '`valid_mlm` must draw from a torch.Generator at `.generator`, or from global generators; a '
                       'loader that masks must give the same each time', Text.warning)

    def __call__(self, x: Tensor, *columns: Columns) -> tuple[Tensor, Tensor]:
        """Masked tokens and labels, `[seq_len, batch_size]` each; the arguments are those of `MLM`."""
        with contextlib.nullcontext() if self._generator is not None else self._own_rng():
            return self.mlm(x, *columns)

    @contextlib.contextmanager
    def _own_rng(self) -> Iterator[None]:
        before = rng_state()
        try:
            if self._state is None:
                random.seed(0)
                np.random.seed(0)
                torch.manual_seed(0)
            else:
                set_rng_state(self._state)
            yield
            self._state = rng_state()
        finally:
            set_rng_state(before)
