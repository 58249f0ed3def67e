"""
# How many steps some tokens take

Steps differ in tokens: the last batch of an epoch may have fewer windows, windows of packed documents have padding, and
a schedule of sequence lengths may leave out the rest of each window. The order of windows is a function of seed and
epoch, so the tokens of each step can be counted before training.

With a schedule of lengths the count depends on its own result, as the schedule ends with the run. The more steps the
run has, the more tokens it has, so the number of steps is found by bisection.
"""
import bisect
from collections.abc import Callable, Iterator

import numpy as np

from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import Windows
from labml_mlm.training.progress import Progress


def steps_for_tokens(loader: TrainLoader, max_tokens: int, *, progress: Progress,
                     length_at: Callable[[float], int] | None = None) -> int:
    """
    The number of steps of a run, from its beginning, after which it has trained on at least `max_tokens`.

    * `progress` is how far it is
    * `length_at` is the sequence length by the fraction of training that is done, if what is longer is left out
    """
    at_least = _steps(loader, max_tokens, progress)
    if length_at is None:
        return at_least

    def n_tokens(n_steps: int) -> int:
        """Tokens after so many steps, with a schedule that fits them."""
        n_epochs, left = n_steps / len(loader), n_steps - progress.steps
        total = progress.tokens
        epochs = _epochs(loader, progress, lambda epoch: length_at(min(1., (epoch - progress.left_out) / n_epochs)))
        while left > 0:
            tokens = next(epochs)
            total += int(tokens[:left].sum())
            left -= len(tokens)
        return total

    at_most = at_least
    while n_tokens(at_most) < max_tokens:
        at_most *= 2
    return at_least + bisect.bisect_left(range(at_least, at_most), max_tokens, key=n_tokens)


def _steps(loader: TrainLoader, max_tokens: int, progress: Progress) -> int:
    """The same for windows as they are."""
    left, steps = max_tokens - progress.tokens, progress.steps
    if left <= 0:
        return max(1, steps)
    windows = loader.windows
    # Any offset gives as many tokens, or there is only one
    is_same = isinstance(windows, Windows) or windows.n_offsets == 1
    epoch, n_windows = progress.epoch, progress.windows
    while True:
        total = np.cumsum(loader.batch_tokens(epoch, n_windows))
        if total[-1] >= left:
            return steps + int(np.searchsorted(total, left)) + 1
        # Whole epochs alike, or one
        n = (left - 1) // int(total[-1]) if is_same and not n_windows else 1
        left, steps = left - n * int(total[-1]), steps + n * len(total)
        epoch, n_windows = epoch + n, 0


def _epochs(loader: TrainLoader, progress: Progress, seq_len_at: Callable[[float], int]) -> Iterator[np.ndarray]:
    """Tokens of the batches that are left in this epoch, `[n]`, and of those of the next ones."""
    epoch, n_windows = progress.epoch, progress.windows
    while True:
        yield loader.batch_tokens(epoch, n_windows, seq_len_at=seq_len_at)
        epoch, n_windows = epoch + 1, 0
