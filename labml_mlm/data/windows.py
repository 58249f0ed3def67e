"""A text cut into windows of `seq_len` tokens."""
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from labml_mlm.data.batch import Batch


class WindowSource(Protocol):
    """Windows by number."""
    seq_len: int
    # Number of offsets at which the first window may begin
    n_offsets: int

    def __len__(self) -> int:
        """Number of windows."""

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor | Batch:
        """Windows by their numbers, `[batch_size]`, as a batch, `[seq_len, batch_size]`."""

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Number of tokens of windows before their padding, `[batch_size]`."""


class Windows:
    """
    ## A text cut into windows

    * `tokens` is the text, `[n]`, of any integer type; it may be mapped from a file

    The text is taken as a ring, and may be cut from any offset. The `n % seq_len` tokens before that offset are in no
    window.
    """

    def __init__(self, tokens: Tensor | np.ndarray, *, seq_len: int):
        self.tokens = np.asarray(tokens)
        self.seq_len = seq_len
        self.n_offsets = len(tokens)
        # `[seq_len, 1]`
        self._positions = np.arange(seq_len)[:, None]

    def __len__(self) -> int:
        return len(self.tokens) // self.seq_len

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor:
        """Windows by their numbers, `[batch_size]`, where the first begins at `offset`; `[seq_len, batch_size]`."""
        starts = offset + numbers * self.seq_len
        starts[starts >= len(self.tokens)] -= len(self.tokens)
        # `[seq_len, batch_size]`
        index = starts + self._positions
        if index[-1].max(initial=0) >= len(self.tokens):
            index[index >= len(self.tokens)] -= len(self.tokens)
        return torch.from_numpy(self.tokens[index].astype(np.int64))

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Number of tokens of windows, `[batch_size]`."""
        return np.full(len(numbers), self.seq_len)
