"""
# Batches

The tokens of a text stand in one long tensor. A *window* is `seq_len` tokens in a row; a batch is `batch_size`
windows, sequence first as everywhere in labml: `[seq_len, batch_size]`.
"""
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from labml_mlm.distributed import ALONE, Ranks
from labml_mlm.errors import UserError
from labml_mlm.masking import Columns
from labml_mlm.shuffle import Shuffle

# Windows
_SHUFFLED_AT_ONCE = 4096


class Batch(NamedTuple):
    """
    A batch that is more than tokens; all of shape `[seq_len, batch_size]`. A loader of your own may also give a tensor
    of tokens, or a tuple `(tokens, key_padding)`.
    """
    # Token ids
    tokens: Tensor
    # True where that is padding, which is never attended to
    key_padding: Tensor | None = None
    # Which document of its window a token is of; it attends to those of the same number
    document: Tensor | None = None
    # Which columns of a batch these are, and how many tokens that has without padding, if several ranks share it
    columns: Columns | None = None
    n_shared: int | None = None

    @classmethod
    def of(cls, batch: Any, *, padding_token: int, is_padded: bool = False) -> 'Batch':
        """
        What a loader gives, with `padding_token` wherever there is padding. If it does not tell that, and `is_padded`,
        that is where `padding_token` is.
        """
        batch = cls(batch) if isinstance(batch, Tensor) else cls(*batch)
        if batch.key_padding is not None:
            return batch._replace(tokens=batch.tokens.masked_fill(batch.key_padding, padding_token))
        return batch._replace(key_padding=batch.tokens == padding_token) if is_padded else batch

    def to(self, device: torch.device) -> 'Batch':
        """The same on a device; a GPU copies it by itself, and is not waited for."""
        if device.type != 'cuda':
            return self._each(lambda part: part.to(device))
        return self._each(lambda part: part.pin_memory().to(device, non_blocking=True))

    def of_rank(self, ranks: Ranks) -> 'Batch':
        """A rank's columns of a batch that all of them have; of one that is shared already, all that it has."""
        if ranks.size == 1 or self.columns is not None:
            return self
        n, mine = self.tokens.shape[1], ranks.share(self.tokens.shape[1])
        return self._each(lambda part: part[:, mine])._replace(columns=Columns(mine.start, n), n_shared=self.n_tokens)

    def cut(self, seq_len: int, *, is_all: bool) -> 'Batch':
        """
        The same as sequences of `seq_len`, which divides what they have: all of what they are cut into, side by side,
        with as many times the batch size, or else the first of each.
        """
        n = len(self.tokens) // seq_len if is_all else 1
        return self._each(lambda part: part[:n * seq_len].unflatten(0, (n, seq_len)).permute(1, 2, 0).flatten(1))

    def _each(self, function: Callable[[Tensor], Tensor]) -> 'Batch':
        return self._replace(**{name: function(part) for name, part in zip(self._fields, self, strict=True)
                                if isinstance(part, Tensor)})

    @property
    def n_tokens(self) -> int:
        """Tokens without padding, those of other ranks included."""
        if self.n_shared is not None:
            return self.n_shared
        return self.tokens.numel() if self.key_padding is None else int((~self.key_padding).sum())

    @property
    def n_places(self) -> int:
        """The same with padding."""
        return len(self.tokens) * (self.columns.total if self.columns else self.tokens.shape[1])


class WindowSource(Protocol):
    """Windows by number."""
    seq_len: int
    # At how many places the first window may begin
    n_offsets: int

    def __len__(self) -> int:
        """Number of windows."""

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor | Batch:
        """Windows by their numbers, `[batch_size]`; each `[seq_len, batch_size]`."""

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """How many tokens windows have, from their beginning, before there is padding; `[batch_size]`."""


class Windows:
    """
    ## A text cut into windows

    * `tokens` is the text, `[n]`, of any type of whole numbers; it may be mapped from a file

    The text is taken as a ring, and may be cut from any offset. The `n % seq_len` tokens before that are in no window.
    """

    def __init__(self, tokens: Tensor | np.ndarray, *, seq_len: int):
        self.tokens = np.asarray(tokens)
        self.seq_len = seq_len
        self.n_offsets = len(tokens)
        # `[seq_len, 1]`
        self._places = np.arange(seq_len)[:, None]

    def __len__(self) -> int:
        return len(self.tokens) // self.seq_len

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor:
        """Windows by their numbers, `[batch_size]`, where the first begins at `offset`; `[seq_len, batch_size]`."""
        starts = offset + numbers * self.seq_len
        starts[starts >= len(self.tokens)] -= len(self.tokens)
        # `[seq_len, batch_size]`
        index = starts + self._places
        if index[-1].max(initial=0) >= len(self.tokens):
            index[index >= len(self.tokens)] -= len(self.tokens)
        return torch.from_numpy(self.tokens[index].astype(np.int64))

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """How many tokens windows have; `[batch_size]`."""
        return np.full(len(numbers), self.seq_len)


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
