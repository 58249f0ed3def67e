"""
# Batches

The tokens of a text stand in one long tensor. A *window* is `seq_len` tokens in a row; a batch is `batch_size`
windows, sequence first as everywhere in labml: `[seq_len, batch_size]`.
"""
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from labml_mlm.errors import UserError

TRAIN_SHARE = 0.9


def split(tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    """The first 90% of the tokens for training and the rest for validation, as labml_nn has it; `int32` both."""
    cut = int(len(tokens) * TRAIN_SHARE)
    return torch.from_numpy(tokens[:cut]), torch.from_numpy(tokens[cut:])


class TrainLoader:
    """
    ## Shuffled windows with a new offset each epoch

    * `tokens` is the text, `[n]`
    * `generator` is where offset and order come from

    Each iteration over the loader is an epoch: the text, taken as a ring, is cut into windows from a random offset, so
    that every token comes at every position in time, and they are shuffled. `n % seq_len` tokens are left out, other
    ones each time; the last batch may have fewer windows.

    Raises `UserError` if the text is shorter than one batch.
    """

    def __init__(self, tokens: Tensor, *, seq_len: int, batch_size: int, generator: torch.Generator):
        if len(tokens) < seq_len * batch_size:
            raise UserError(
                f'the text is too short: {len(tokens):,} tokens to train on, and one batch is seq_len={seq_len} × '
                f'batch_size={batch_size} = {seq_len * batch_size:,} tokens. A longer text, a smaller seq_len or a '
                f'smaller batch_size would do')
        self.tokens = tokens
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-(len(self.tokens) // self.seq_len) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        n = len(self.tokens)
        offset = torch.randint(n, (1,), generator=self.generator)
        order = torch.randperm(n // self.seq_len, generator=self.generator)
        # `[seq_len, 1]`
        places = torch.arange(self.seq_len)[:, None]
        for windows in order.split(self.batch_size):
            # `[seq_len, batch_size]`
            yield self.tokens[(offset + windows * self.seq_len + places) % n].long()


class ValidLoader:
    """
    ## All windows in order

    * `tokens` is the text, `[n]`

    Less than one window is left out at the end. Raises `UserError` if there is no window at all.
    """

    def __init__(self, tokens: Tensor, *, seq_len: int, batch_size: int):
        if len(tokens) < seq_len:
            raise UserError(f'the text is too short: {len(tokens):,} tokens are for validation, '
                            f'fewer than seq_len={seq_len}. A longer text or a smaller seq_len would do')
        # `[n_windows, seq_len]`
        self.windows = tokens[:len(tokens) // seq_len * seq_len].view(-1, seq_len)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for windows in self.windows.split(self.batch_size):
            # `[seq_len, batch_size]`
            yield windows.T.long()
