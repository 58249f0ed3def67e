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
from labml_mlm.shuffle import Shuffle

# Windows
_SHUFFLED_AT_ONCE = 4096


class TrainLoader:
    """
    ## Shuffled windows with a new offset each epoch

    * `tokens` is the text, `[n]`, of any type of whole numbers; it may be mapped from a file
    * `seed` is what offset and order of each epoch come from
    * `rank` of `world_size` is whose share of the windows it is: every `world_size`-th one

    In an epoch the text, taken as a ring, is cut into windows from a random offset, so that every token comes at every
    position in time, and they are shuffled. Every token comes once, but for the `n % seq_len` tokens between the last
    window and the first, and for fewer than `world_size` windows, which are left out, other ones each time; the last
    batch may have fewer windows. Offset and order are a function of the seed and the epoch's number and of nothing
    else, so that any place in any epoch can be gone to at once.

    Each iteration over the loader is the next epoch. Raises `UserError` if the text is shorter than one batch of all
    ranks.
    """

    def __init__(self, tokens: Tensor | np.ndarray, *, seq_len: int, batch_size: int, seed: int, rank: int = 0,
                 world_size: int = 1):
        if len(tokens) < seq_len * batch_size * world_size:
            of_all = f' × {world_size} ranks' if world_size > 1 else ''
            raise UserError(
                f'the text is too short: {len(tokens):,} tokens to train on, and one batch is seq_len={seq_len} × '
                f'batch_size={batch_size}{of_all} = {seq_len * batch_size * world_size:,} tokens. A longer text, a '
                'smaller seq_len or a smaller batch_size would do')
        self.tokens = np.asarray(tokens)
        self.seq_len = seq_len
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        # `[seq_len, 1]`
        self._places = np.arange(seq_len)[:, None]
        self._epochs = itertools.count()

    @property
    def n_windows(self) -> int:
        """Windows of this rank in an epoch."""
        return len(self.tokens) // self.seq_len // self.world_size

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.batches_after(0)

    def batches_after(self, n_windows: int) -> int:
        """Batches that are left of an epoch after so many windows."""
        return -(-(self.n_windows - n_windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches(next(self._epochs))

    def batches(self, epoch: int, n_windows: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch, counted from 0, after so many windows; each `[seq_len, batch_size]`."""
        n, seed = len(self.tokens), _mixed(self.seed, epoch)
        offset = np.random.default_rng(seed).integers(n)
        shuffle = Shuffle(n // self.seq_len, seed=seed)
        # Many at once, as one call takes its time
        n_at_once = max(1, _SHUFFLED_AT_ONCE // self.batch_size) * self.batch_size
        for begin in range(n_windows, self.n_windows, n_at_once):
            mine = np.arange(begin, min(begin + n_at_once, self.n_windows))
            starts = offset + shuffle(mine * self.world_size + self.rank) * self.seq_len
            starts[starts >= n] -= n
            for i in range(0, len(starts), self.batch_size):
                yield self._batch(starts[i:i + self.batch_size])

    def _batch(self, starts: np.ndarray) -> Tensor:
        # `[seq_len, batch_size]`
        index = starts + self._places
        if index[-1].max() >= len(self.tokens):
            index[index >= len(self.tokens)] -= len(self.tokens)
        return torch.from_numpy(self.tokens[index].astype(np.int64))


class ValidLoader:
    """
    ## All windows in order

    * `tokens` is the text, `[n]`

    Less than one window is left out at the end. Raises `UserError` if there is no window at all.
    """

    def __init__(self, tokens: Tensor | np.ndarray, *, seq_len: int, batch_size: int):
        if len(tokens) < seq_len:
            raise UserError(f'the text is too short: {len(tokens):,} tokens are for validation, '
                            f'fewer than seq_len={seq_len}. A longer text or a smaller seq_len would do')
        # `[n_windows, seq_len]`
        self.windows = np.asarray(tokens)[:len(tokens) // seq_len * seq_len].reshape(-1, seq_len)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for begin in range(0, len(self.windows), self.batch_size):
            # `[seq_len, batch_size]`
            yield torch.from_numpy(self.windows[begin:begin + self.batch_size].T.astype(np.int64))


def _mixed(*numbers: int) -> int:
    """A seed from several numbers: neighbours do not give alike streams, as their sum would."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
