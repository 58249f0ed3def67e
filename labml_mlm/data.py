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

    Each iteration over the loader is an epoch: the text is cut into windows from a random offset below `seq_len`, so
    the model sees every token at every position, and they come in random order. Less than one window is left out on
    either side; the last batch may have fewer windows.

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
        """Batches an epoch, at the most: an offset can cost one window, and so the last batch."""
        return -(-(len(self.tokens) // self.seq_len) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        offset = int(torch.randint(self.seq_len, (1,), generator=self.generator))
        # `[n_windows, seq_len]`
        windows = _windows(self.tokens[offset:], self.seq_len)
        order = torch.randperm(len(windows), generator=self.generator)
        for chosen in order.split(self.batch_size):
            yield _batch(windows[chosen])


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
        self.windows = _windows(tokens, seq_len)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return map(_batch, self.windows.split(self.batch_size))


def _windows(tokens: Tensor, seq_len: int) -> Tensor:
    """A view of `[n]` tokens as `[n // seq_len, seq_len]`."""
    return tokens[:len(tokens) // seq_len * seq_len].view(-1, seq_len)


def _batch(windows: Tensor) -> Tensor:
    """`[batch_size, seq_len]` to the model's `[seq_len, batch_size]`."""
    return windows.T.long()
