"""
# Batches

The tokens of a text stand in one long tensor. A *window* is `seq_len` tokens in a row; a batch is `batch_size`
windows, sequence first as everywhere in labml: `[seq_len, batch_size]`.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch, Columns
from labml_mlm.data.shuffle import Shuffle
from labml_mlm.data.windows import WindowSource
from labml_mlm.distributed.process_group import ALONE, Ranks

# Windows
_SHUFFLED_AT_ONCE = 4096


class TrainLoader:
    """
    ## Shuffled windows with a new offset each epoch

    * `windows` is what there is, as `Windows` or `Packs`
    * `seed` is what offset and order of each epoch come from
    * `batch_size` is that of all ranks together
    * `ranks` share each batch, window by window, and this one gets its own columns of it
    * `seq_len_at` tells the length of sequences from the number of epochs that are over, as 1.25, where windows are to
      be cut into shorter ones; it divides that of the windows
    * `is_tokens_constant`: is a batch then as many times larger, or else the rest of each window left out? (DeepSpeed's
      curriculum learning calls that reshape and truncate.)

    In an epoch the text is cut into windows from a random offset, so that every token comes at every position in time,
    and they are shuffled. Every token comes once, but for the `n % seq_len` tokens between the last window and the
    first; the last batch may have fewer windows. (In `Packs` windows begin where they begin, and every token comes.)
    Offset and order are a function of the seed and the epoch's number and of nothing else, so that any place in any
    epoch can be gone to at once.

    Each iteration over the loader is the next epoch. Raises `UserError` if the text is shorter than one batch, and if
    the ranks cannot share a batch equally.
    """

    def __init__(self, windows: WindowSource, *, batch_size: int, seed: int, ranks: Ranks = ALONE,
                 seq_len_at: Callable[[float], int] | None = None, is_tokens_constant: bool = True):
        if batch_size % ranks.size:
            raise UserError(f'batch_size={batch_size} is that of all {ranks.size} ranks together, and cannot be '
                            f'shared equally: it has to be a multiple of {ranks.size}')
        if len(windows) < batch_size:
            raise UserError(f'the text is too short: it has {len(windows):,} windows of seq_len={windows.seq_len} to '
                            f'train on, and one batch is batch_size={batch_size}. A longer text, a smaller '
                            'seq_len or a smaller batch_size would do')
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        self.ranks = ranks
        self.seq_len_at = seq_len_at
        self.is_tokens_constant = is_tokens_constant
        self._epochs = itertools.count()

    @property
    def n_windows(self) -> int:
        """Windows in an epoch."""
        return len(self.windows)

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.batches_after(0)

    def batches_after(self, n_windows: int) -> int:
        """Batches that are left of an epoch after so many windows."""
        return -(-(self.n_windows - n_windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | Batch]:
        return self.batches(next(self._epochs))

    def batches(self, epoch: int, n_windows: int = 0) -> Iterator[Tensor | Batch]:
        """The batches of an epoch, counted from 0, after so many windows; each `[seq_len, batch_size]`."""
        seed = _mixed(self.seed, epoch)
        offset = int(np.random.default_rng(seed).integers(self.windows.n_offsets))
        shuffle = Shuffle(len(self.windows), seed=seed)
        # Many at once, as one call takes its time
        n_at_once = max(1, _SHUFFLED_AT_ONCE // self.batch_size) * self.batch_size
        for begin in range(n_windows, self.n_windows, n_at_once):
            numbers = shuffle(np.arange(begin, min(begin + n_at_once, self.n_windows)))
            for i in range(0, len(numbers), self.batch_size):
                yield self._batch(numbers[i:i + self.batch_size], offset, epoch + (begin + i) / self.n_windows)

    def _batch(self, numbers: np.ndarray, offset: int, epochs: float) -> Tensor | Batch:
        """Of windows by their numbers what is this rank's, cut into what they have to be after so many epochs."""
        mine = self.ranks.share(len(numbers))
        batch = self.windows.batch(numbers[mine], offset)
        seq_len = self.seq_len_at(epochs) if self.seq_len_at else self.windows.seq_len
        # Sequences that a window is cut into, and how much of it they are
        n = self.windows.seq_len // seq_len if self.is_tokens_constant else 1
        if seq_len < self.windows.seq_len:
            cut = (Batch(batch) if isinstance(batch, Tensor) else batch).cut(seq_len, is_all=self.is_tokens_constant)
            batch = cut.tokens if isinstance(batch, Tensor) else cut
        if self.ranks.size == 1:
            return batch
        n_tokens = int(np.minimum(self.windows.lengths(numbers), n * seq_len).sum())
        batch = Batch(batch) if isinstance(batch, Tensor) else batch
        return batch._replace(columns=Columns(mine.start * n, len(numbers) * n), n_shared=n_tokens)


class ValidLoader:
    """
    ## All windows in order

    * `windows` is what there is; with `Windows`, less than one is left out at the end

    Raises `UserError` if there is no window at all.
    """

    def __init__(self, windows: WindowSource, *, batch_size: int):
        if not len(windows):
            raise UserError('there is nothing to validate on: a longer text, a larger valid_share or a valid_path '
                            'would do')
        self.windows = windows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | Batch]:
        for begin in range(0, len(self.windows), self.batch_size):
            # `[seq_len, batch_size]`
            yield self.windows.batch(np.arange(begin, min(begin + self.batch_size, len(self.windows))))


def _mixed(*numbers: int) -> int:
    """A seed from several numbers: neighbours do not give alike streams, as their sum would."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])

