"""
# Batches

The tokens of a text stand in one long tensor. A *window* is `seq_len` tokens in a row; a batch is `batch_size`
windows, sequence first as everywhere in labml: `[seq_len, batch_size]`.
"""
import itertools
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
    * `seed` is what offset and order of each epoch come from

    In an epoch the text, taken as a ring, is cut into windows from a random offset, so that every token comes at every
    position in time, and they are shuffled. `n % seq_len` tokens are left out, other ones each time; the last batch may
    have fewer windows. Offset and order are a function of the seed and the epoch's number and of nothing else, so that
    any place in any epoch can be gone to at once.

    Each iteration over the loader is the next epoch. Raises `UserError` if the text is shorter than one batch.
    """

    def __init__(self, tokens: Tensor, *, seq_len: int, batch_size: int, seed: int):
        if len(tokens) < seq_len * batch_size:
            raise UserError(
                f'the text is too short: {len(tokens):,} tokens to train on, and one batch is seq_len={seq_len} × '
                f'batch_size={batch_size} = {seq_len * batch_size:,} tokens. A longer text, a smaller seq_len or a '
                f'smaller batch_size would do')
        self.tokens = tokens
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.seed = seed
        self._epochs = itertools.count()

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.batches_after(0)

    def batches_after(self, n_windows: int) -> int:
        """Batches that are left of an epoch after so many windows."""
        return -(-(len(self.tokens) // self.seq_len - n_windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches(next(self._epochs))

    def batches(self, epoch: int, n_windows: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, counted from 0, after so many windows; each `[seq_len, batch_size]`."""
        n = len(self.tokens)
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        offset = torch.randint(n, (1,), generator=generator)
        order = torch.randperm(n // self.seq_len, generator=generator)
        # `[seq_len, 1]`
        places = torch.arange(self.seq_len)[:, None]
        for begin in range(n_windows, len(order), self.batch_size):
            windows = order[begin:begin + self.batch_size]
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


def _mixed(*numbers: int) -> int:
    """A seed from several numbers: neighbours do not give alike streams, as their sum would."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
