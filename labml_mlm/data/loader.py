"""
# From windows to batches

`TrainLoader` gives shuffled windows, and can start anywhere in any epoch; `ValidLoader` gives all windows in order.
"""
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch, Columns
from labml_mlm.data.packing import WindowSource
from labml_mlm.data.shuffle import Shuffle
from labml_mlm.distributed.process_group import SINGLE_PROCESS, Ranks

# Windows
_SHUFFLED_AT_ONCE = 4096


class TrainLoader:
    """
    ## Shuffled windows, with a new offset each epoch

    * `windows` are `Windows` or `PackedDocuments`
    * `seed` determines offset and order of each epoch
    * `batch_size` is that of all ranks together
    * `ranks` share each batch; this one gets its own columns
    * `seq_len_at` is the sequence length by the number of epochs done, such as 1.25, for a curriculum of shorter
      sequences; it divides that of the windows
    * `is_token_budget_constant`: does the batch size grow while sequences are shorter? Otherwise the rest of each
      window is left out. (DeepSpeed's curriculum learning calls the two reshape and truncate.)

    In an epoch the text is cut into windows from a random offset, so that over time every token comes at every
    position, and the windows are shuffled. Every token comes once, but for the `n % seq_len` tokens between the last
    window and the first; the last batch may have fewer windows. (`PackedDocuments` have no offset, and every token
    comes.) Offset and order are a function of seed and epoch alone, so iteration can start anywhere in any epoch.

    Each iteration over the loader is the next epoch. Raises `UserError` if the text is shorter than one batch, and if
    `batch_size` is not a multiple of the world size.
    """

    def __init__(self, windows: WindowSource, *, batch_size: int, seed: int, ranks: Ranks = SINGLE_PROCESS,
                 seq_len_at: Callable[[float], int] | None = None, is_token_budget_constant: bool = True):
        if batch_size % ranks.size:
            raise UserError(f'batch_size={batch_size} is that of all {ranks.size} ranks together: it must be a '
                            f'multiple of {ranks.size}')
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        self.ranks = ranks
        self.seq_len_at = seq_len_at
        self.is_token_budget_constant = is_token_budget_constant
        self._epochs = itertools.count()
        self._check_n_windows()

    def _check_n_windows(self):
        if self.n_windows < self.batch_size:
            raise UserError(f'the text is too short: it has {self.n_windows:,} windows of '
                            f'seq_len={self.windows.seq_len} to train on, and one batch is '
                            f'batch_size={self.batch_size}. Use a longer text, a smaller seq_len or a smaller '
                            'batch_size')

    @property
    def n_windows(self) -> int:
        """Windows in an epoch."""
        return len(self.windows)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.batches_after(0)

    def batches_after(self, n_windows: int) -> int:
        """Batches left in an epoch after so many windows."""
        return -(-(self.n_windows - n_windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | Batch]:
        return self.batches(next(self._epochs))

    def start_at(self, epoch: int):
        """The next iteration is that epoch, counted from 0."""
        self._epochs = itertools.count(epoch)

    def batches(self, epoch: int, n_windows: int = 0) -> Iterator[Tensor | Batch]:
        """The batches of an epoch, counted from 0, after so many windows; `[seq_len, batch_size]` each."""
        seed = _mixed(self.seed, epoch)
        offset = int(np.random.default_rng(seed).integers(self.windows.n_offsets))
        shuffle = Shuffle(len(self.windows), seed=seed)
        # Many at once, as a call has some overhead
        n_at_once = max(1, _SHUFFLED_AT_ONCE // self.batch_size) * self.batch_size
        for begin in range(n_windows, self.n_windows, n_at_once):
            numbers = shuffle(np.arange(begin, min(begin + n_at_once, self.n_windows)))
            for i in range(0, len(numbers), self.batch_size):
                yield self._batch(numbers[i:i + self.batch_size], offset, epoch + (begin + i) / self.n_windows)

    def batch_tokens(self, epoch: int, n_windows: int = 0, *,
                     seq_len_at: Callable[[float], int] | None = None) -> np.ndarray:
        """
        Tokens of the batches of an epoch after so many windows, of all ranks, `[n]`. With `seq_len_at`, of all that is
        longer only the first part is kept.
        """
        numbers, offset = self._numbers(epoch)
        lengths = self.windows.lengths(numbers[n_windows:], offset)
        begins = np.arange(0, len(lengths), self.batch_size)
        if seq_len_at is not None:
            seq_lens = [seq_len_at(epoch + (n_windows + begin) / self.n_windows) for begin in begins]
            lengths = np.minimum(lengths, np.repeat(seq_lens, self.batch_size)[:len(lengths)])
        return np.add.reduceat(lengths, begins)

    def _numbers(self, epoch: int) -> tuple[np.ndarray, int]:
        """The numbers of all windows in the order of an epoch, `[n_windows]`, and their offset."""
        seed = _mixed(self.seed, epoch)
        offset = int(np.random.default_rng(seed).integers(self.windows.n_offsets))
        return Shuffle(len(self.windows), seed=seed)(np.arange(self.n_windows)), offset

    def _batch(self, numbers: np.ndarray, offset: int, epochs_done: float) -> Tensor | Batch:
        """This rank's columns of the windows with these numbers, at the sequence length that is due."""
        mine = self.ranks.shard(len(numbers))
        batch = self.windows.batch(numbers[mine], offset)
        seq_len = self.seq_len_at(epochs_done) if self.seq_len_at else self.windows.seq_len
        # Sequences that a window is split into
        n = self.windows.seq_len // seq_len if self.is_token_budget_constant else 1
        if seq_len < self.windows.seq_len:
            split = (Batch(batch) if isinstance(batch, Tensor) else batch).split(
                seq_len, keep_all=self.is_token_budget_constant)
            batch = split.tokens if isinstance(batch, Tensor) else split
        if self.ranks.size == 1:
            return batch
        n_tokens = int(np.minimum(self.windows.lengths(numbers, offset), n * seq_len).sum())
        batch = Batch(batch) if isinstance(batch, Tensor) else batch
        return batch._replace(columns=Columns(mine.start * n, len(numbers) * n), n_global_tokens=n_tokens,
                              n_special_tokens=self.windows.n_special_tokens(numbers, offset))


class ValidLoader:
    """
    ## All windows in order

    * `windows` are `Windows`, whose rest of less than a window is left out, or `PackedDocuments`

    Raises `UserError` if there is no window.
    """

    def __init__(self, windows: WindowSource, *, batch_size: int):
        if not len(windows):
            raise UserError('the validation set is empty: use a longer text, a larger valid_fraction or a valid_path')
        self.windows = windows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor | Batch]:
        for begin in range(0, len(self.windows), self.batch_size):
            # `[seq_len, batch_size]`
            yield self.windows.batch(np.arange(begin, min(begin + self.batch_size, len(self.windows))))


def loader_length(loader: Any) -> int | None:
    """Batches in a pass over a loader; `None` if it does not say, as loaders of a stream do not."""
    try:
        return len(loader)
    except TypeError:
        return None


def _mixed(*numbers: int) -> int:
    """A seed from several numbers. Neighbours do not give similar streams, as their sum would."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
