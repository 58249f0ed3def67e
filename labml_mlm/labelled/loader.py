"""
# Batches of similar lengths

Texts differ in length, and a batch is as long as its longest one: shuffled at random, half of it may be padding. So
`LabelledLoader` sorts by length, but only within large chunks of the shuffled examples, and shuffles the batches that
it cuts from them. Each batch is still a random one of its length, and its neighbours have any other.
"""
from collections.abc import Iterator

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch, Columns
from labml_mlm.data.loader import TrainLoader
from labml_mlm.distributed.process_group import SINGLE_PROCESS, Ranks
from labml_mlm.labelled.examples import Examples

# Batches of a chunk, and the fewest chunks: if all examples were one, batches would be the same in each epoch
_SORTED_AT_ONCE, _N_CHUNKS = 50, 2


class LabelledLoader(TrainLoader):
    """
    ## Shuffled examples, with those of similar lengths together

    * `examples` are `Examples`
    * `seed`, `batch_size` and `ranks` are what they are in `TrainLoader`

    In an epoch every example comes once. If they do not fill the last batch, it is a random one of mixed lengths; if
    there are fewer than one batch, all of them are one. The order is a function of seed, epoch and batch size alone, so
    iteration can start anywhere in any epoch: after another batch size, at the same place of another order. A batch
    has the same length on all ranks.

    Raises `UserError` if there are fewer examples than ranks, and if `batch_size` is not a multiple of their number.
    """

    def __init__(self, examples: Examples, *, batch_size: int, seed: int, ranks: Ranks = SINGLE_PROCESS):
        super().__init__(examples, batch_size=batch_size, seed=seed, ranks=ranks)

    def _check_n_windows(self):
        if self.n_windows < self.ranks.size:
            raise UserError(f'there are {self.n_windows:,} examples to train on, fewer than the {self.ranks.size} '
                            'ranks that share them')

    def batches(self, epoch: int, n_windows: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, after so many examples; `[seq_len, batch_size]` each."""
        order = self._order(epoch)
        for begin in range(n_windows, len(order), self.batch_size):
            yield self._batch(order[begin:begin + self.batch_size], 0, epoch + begin / len(order))

    def _numbers(self, epoch: int) -> tuple[np.ndarray, int]:
        """The numbers of all examples in the order of an epoch, `[n]`; they have no offset."""
        return self._order(epoch), 0

    def _order(self, epoch: int) -> np.ndarray:
        """The numbers of all examples in the order of an epoch, `[n]`."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.n_windows)
        n_whole = self.n_windows // self.batch_size * self.batch_size
        whole, last = order[:n_whole], order[n_whole:]
        n_at_once = min(max(n_whole // self.batch_size // _N_CHUNKS, 1), _SORTED_AT_ONCE) * self.batch_size
        for begin in range(0, n_whole, n_at_once):
            chunk = whole[begin:begin + n_at_once]
            whole[begin:begin + n_at_once] = chunk[np.argsort(self.windows.lengths(chunk), kind='stable')]
        # `[n_batches, batch_size]`
        return np.concatenate([rng.permutation(whole.reshape(-1, self.batch_size)).ravel(), last])

    def _batch(self, numbers: np.ndarray, offset: int, epochs_done: float) -> Batch:
        """This rank's columns of the examples with these numbers."""
        mine = self.ranks.shard(len(numbers))
        batch = self.windows.batch(numbers[mine], length=self.windows.longest(numbers))
        if self.ranks.size == 1:
            return batch
        return batch._replace(columns=Columns(mine.start, len(numbers)),
                              n_global_tokens=int(self.windows.lengths(numbers).sum()),
                              n_special_tokens=self.windows.n_special_tokens(numbers))
