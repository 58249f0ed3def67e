"""
# labml_helpers' `Trainer`, from wherever the run is

`ResumableTrainer` begins in the middle of an epoch, and `InterruptibleTrainer` leaves no trace of a validation that was
not brought to its end.
"""

import itertools
from collections.abc import Callable
from typing import Any

from labml_helpers.train_valid import BatchIndex, Trainer
from torch import Tensor

from labml_mlm.training.progress import Progress
from labml_mlm.training.serialization import pack
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import has_state, rng_state, set_rng_state


class ResumableTrainer(Trainer):
    """
    ## A trainer that begins at `progress`

    * `progress` says which epoch it is, and how much of it is over
    * `after_step` is called after each step

    A `TrainLoader` goes to the place at once, and so does a loader with a state of its own, as torch's stateful ones.
    Any other loader is begun with the random numbers that the epoch was begun with, and the batches that it has had are
    left out.

    Its state is that of its `state_modules`, and those random numbers.
    """

    def __init__(self, *, progress: Progress, after_step: Callable[[], None], step: Callable[[Any, BatchIndex], None],
                 **arguments: Any):
        def step_and_more(batch: Tensor, batch_index: BatchIndex):
            step(batch, batch_index)
            progress.end_step(self.data_loader)
            after_step()

        super().__init__(step=step_and_more, **arguments)
        self.progress = progress
        self._epoch: int | None = None
        self._epoch_rng: dict | None = None
        self._saved_modules: list | None = None

    def __call__(self):
        """A round of training."""
        if self._epoch != self.progress.epoch:
            self._epoch = self.progress.epoch
            self._begin()
        super().__call__()

    def state_dict(self) -> dict[str, Any]:
        """The state of each of `state_modules`, and the random numbers that the epoch was begun with."""
        modules = [_plain(state) for state in self._Trainer__states]
        return {'modules': modules, 'epoch_rng': self._epoch_rng if self.progress.batches else None}

    def load_state_dict(self, state: dict[str, Any]):
        """What `state_dict` gave."""
        self._saved_modules, self._epoch_rng = state['modules'], state['epoch_rng']

    def _begin(self):
        """Makes labml's trainer believe that it is where `progress` says."""
        loader, done = self.data_loader, self.progress.batches
        total = len(loader)
        if hasattr(loader, 'batches_after'):
            batches = loader.batches(self.progress.epoch, self.progress.windows)
            # Not `done`: the batch size may be another one now
            done = total - loader.batches_after(self.progress.windows)
        elif has_state(loader):
            batches = iter(loader)
        else:
            batches = self._batches_after(done)
        self._Trainer__iterable = batches
        self._batch_index.reset(total, self.inner_iterations)
        self._batch_index.idx, self._batch_index.iteration = done, self.progress.round
        for module, state in zip(self.state_modules, self._Trainer__states, strict=True):
            module.set_state(state)
            module.on_epoch_start()
        for state, saved in zip(self._Trainer__states, self._saved_modules or [], strict=False):
            if saved and done:
                vars(state).update(saved)
        self._saved_modules = None

    def _batches_after(self, done: int) -> Any:
        now = rng_state()
        if done and self._epoch_rng:
            set_rng_state(self._epoch_rng)
        else:
            self._epoch_rng = now
        batches = iter(self.data_loader)
        for _ in itertools.islice(batches, done):
            pass
        if done:
            set_rng_state(now)
        return batches


def _plain(state: Any) -> dict[str, Any] | None:
    """What the state of a module consists of, if a checkpoint can hold that."""
    try:
        pack(vars(state), {})
        return dict(vars(state))
    except TypeError:
        return None


class InterruptibleTrainer(Trainer):
    """A trainer that, if it is stopped, leaves the random numbers as they were, so that it can be begun anew."""

    def __call__(self):
        """A round."""
        before = rng_state()
        try:
            super().__call__()
        except Stopped:
            set_rng_state(before)
            raise

