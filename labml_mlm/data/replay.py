r"""
# Old text among the new

A model that goes on with another text forgets the old one. A few windows of old text in each batch prevent most of that
(replay, or rehearsal: [Robins 1995](https://doi.org/10.1080/09540099550039318)).

`MixedWindows` makes one source of two. With $n$ windows of new text, $n f / (1 - f)$ windows of old text are a fraction
$f$ of all; they come after the new ones, and `TrainLoader` shuffles them together. The old text is mostly much longer,
so each epoch reads another part of it. Which one is part of the offset that `TrainLoader` draws: a function of seed and
epoch, so a resumed run goes on with the same windows, and all ranks have the same.
"""
import numpy as np
import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch
from labml_mlm.data.packing import WindowSource


class MixedWindows:
    """
    ## Windows of a text, and then some of another one

    * `main` and `replay` are windows of the same kind and length
    * `replay_fraction` is the fraction of all windows that are of `replay`, above 0 and below 1

    If `replay` has fewer windows than that takes, they repeat. Raises `UserError` if it has none.
    """

    def __init__(self, main: WindowSource, replay: WindowSource, *, replay_fraction: float):
        if not len(replay):
            raise UserError(f'the text of replay_path is too short: it has less than seq_len={replay.seq_len} tokens')
        self.main = main
        self.replay = replay
        self.seq_len = main.seq_len
        # Without a main text there is nothing to train on
        self.n_replay = max(1, round(len(main) * replay_fraction / (1 - replay_fraction))) if len(main) else 0
        self.n_offsets = main.n_offsets * len(replay)

    def __len__(self) -> int:
        return len(self.main) + self.n_replay

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor | Batch:
        """
        Windows by their numbers, `[batch_size]`, as a batch, `[seq_len, batch_size]`. The remainder of `offset` by
        `main.n_offsets` is the offset of the main text, and the quotient the first window of the other one.
        """
        is_replay, of_main, of_replay, offset = self._parts(numbers, offset)
        main, replay = self.main.batch(of_main, offset), self.replay.batch(of_replay)
        # Where the column of each number is in both, one after the other
        columns = torch.from_numpy(np.argsort(np.argsort(is_replay, kind='stable')))
        if isinstance(main, Tensor):
            return torch.cat([main, replay], dim=1)[:, columns]
        parts = zip(main._fields, main, replay, strict=True)
        return main._replace(n_special_tokens=main.n_special_tokens + replay.n_special_tokens, **{
            name: torch.cat([one, other], dim=1)[:, columns] for name, one, other in parts if isinstance(one, Tensor)})

    def lengths(self, numbers: np.ndarray, offset: int = 0) -> np.ndarray:
        """`WindowSource.lengths`; the arguments are those of `batch`."""
        is_replay, of_main, of_replay, offset = self._parts(numbers, offset)
        lengths = np.empty(len(numbers), np.int64)
        lengths[~is_replay] = self.main.lengths(of_main, offset)
        lengths[is_replay] = self.replay.lengths(of_replay)
        return lengths

    def n_special_tokens(self, numbers: np.ndarray, offset: int = 0) -> int:
        """`WindowSource.n_special_tokens`; the arguments are those of `batch`."""
        _, of_main, of_replay, offset = self._parts(numbers, offset)
        return self.main.n_special_tokens(of_main, offset) + self.replay.n_special_tokens(of_replay)

    def _parts(self, numbers: np.ndarray, offset: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Which windows are of the other text, `[batch_size]`, the numbers in both texts, and the main offset."""
        is_replay = numbers >= len(self.main)
        first, offset = divmod(offset, self.main.n_offsets)
        of_replay = (first + numbers[is_replay] - len(self.main)) % len(self.replay)
        return is_replay, numbers[~is_replay], of_replay, offset
