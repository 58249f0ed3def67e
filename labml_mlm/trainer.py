"""labml_helpers' `Trainer`, from wherever the run is."""
import itertools
from collections.abc import Callable
from typing import Any

from labml_helpers.train_valid import BatchIndex, Trainer
from torch import Tensor

from labml_mlm.state import Progress


class ResumableTrainer(Trainer):
    """
    ## A trainer that begins at `progress`

    * `progress` says which epoch it is, and how much of it is over
    * `after_step` is called after each step

    A `TrainLoader` goes to the place at once. A loader that has `load_state_dict`, as torch's stateful ones, was put
    there already; of any other, the batches that the epoch has had are left out.
    """

    def __init__(self, *, progress: Progress, after_step: Callable[[], None], step: Callable[[Any, BatchIndex], None],
                 **arguments: Any):
        def step_and_more(batch: Tensor, batch_index: BatchIndex):
            step(batch, batch_index)
            progress.end_step(batch)
            after_step()

        super().__init__(step=step_and_more, **arguments)
        self.progress = progress
        self._epoch: int | None = None

    def __call__(self):
        """A round of training."""
        if self._epoch != self.progress.epoch:
            self._epoch = self.progress.epoch
            self._begin()
        super().__call__()

    def _begin(self):
        """Makes labml's trainer believe that it is in the middle of the epoch."""
        loader, done = self.data_loader, self.progress.batches
        total = len(loader)
        if hasattr(loader, 'batches_after'):
            batches = loader.batches(self.progress.epoch, self.progress.windows)
            # Not `done`: the batch size may be another one now
            done = total - loader.batches_after(self.progress.windows)
        elif hasattr(loader, 'load_state_dict'):
            batches = iter(loader)
        else:
            batches = itertools.islice(loader, done, None)
        self._Trainer__iterable = batches
        self._batch_index.reset(total, self.inner_iterations)
        self._batch_index.idx, self._batch_index.iteration = done, self.progress.round
        for module in self.state_modules:
            module.on_epoch_start()
