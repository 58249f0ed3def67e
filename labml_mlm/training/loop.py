"""
# The training loop

`MLMConfigs.run` goes through epochs, and `run_step` through the rounds of one: training, then a validation. Here are
the loops over batches within a round, which call `MLMConfigs.step`.
"""
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from labml_helpers.metrics import StateModule
from labml_helpers.train_valid import BatchIndex

from labml_mlm.common.errors import UserError
from labml_mlm.data.loader import loader_length
from labml_mlm.screen.progress_view import ProgressView
from labml_mlm.training.progress import Progress
from labml_mlm.training.serialization import pack
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import has_state, rng_state, set_rng_state

# `MLMConfigs.step`
Step = Callable[[Any, BatchIndex], None]

_END = object()


class TrainingLoop:
    """
    ## Trains a round: an epoch, or one of its `inner_iterations` parts

    * `loader` gives the batches of an epoch
    * `step` is called with each of them and its index, and `after_step` after it
    * `progress` says where to start: which epoch it is, and how much of it is done
    * `end_step` gives the step at which the run ends, if that may be within an epoch
    * `state_modules` are labml_helpers', notified at the beginning and end of each epoch
    * `view` shows how far it is

    A `TrainLoader` starts anywhere at once, and so does a loader with a state of its own, such as torch's stateful
    ones. Any other loader starts with the random numbers that the epoch started with, and its first batches are
    skipped. A loader without a length is passed over until `end_step`, all in one epoch.

    Its state is that of its `state_modules`, and those random numbers.
    """

    def __init__(self, *, loader: Any, step: Step, after_step: Callable[[], None], progress: Progress,
                 inner_iterations: int, state_modules: list[StateModule], view: ProgressView, is_track_time: bool,
                 end_step: Callable[[], int | None] = lambda: None):
        self.loader = loader
        self.step = step
        self.end_step = end_step
        self.after_step = after_step
        self.progress = progress
        self.inner_iterations = inner_iterations
        self.view = view
        self.is_track_time = is_track_time
        self._modules = _StateModules(state_modules)
        self._index = BatchIndex(0, inner_iterations)
        # The number of the epoch, the rest of its batches, and the random numbers that it started with
        self._epoch: int | None = None
        self._batches: Iterator = iter(())
        self._epoch_rng: dict | None = None
        self._saved_modules: list | None = None

    def __call__(self):
        """The next round."""
        if self._epoch != self.progress.epoch:
            self._start_epoch()
        elif self._index.completed:
            # A custom `run_step` trains for more rounds than an epoch has
            self._start_pass(self._all_batches())
        self._modules.set_states()
        with torch.enable_grad(), self.view.phase('Train', is_track_time=self.is_track_time):
            self.view.update(_fraction(self._index))
            while not self._index.iteration_completed:
                if (batch := next(self._batches, _END)) is _END:
                    raise UserError(f'the training loader ended after {self._index.idx} batches, and its length is '
                                    f'{self._index.total}')
                self.step(batch, self._index)
                self._index.step()
                self.progress.end_step(self.loader)
                self.view.update(_fraction(self._index))
                self.after_step()
        self._index.step_inner()
        if self._index.completed:
            self._modules.end_epoch()

    def _start_epoch(self):
        """Starts an epoch, or resumes it."""
        if loader_length(self.loader) == 0:
            raise UserError('the training loader has no batches')
        self._epoch, done = self.progress.epoch, self.progress.batches
        if hasattr(self.loader, 'batches_after'):
            batches = self.loader.batches(self.progress.epoch, self.progress.windows)
            # Not `progress.batches`: the batch size may have changed on resume
            done = len(self.loader) - self.loader.batches_after(self.progress.windows)
        elif has_state(self.loader):
            batches = self._all_batches()
        else:
            batches = self._skip(done)
        self._start_pass(batches, done=done, rounds=self.progress.round)
        if done:
            self._modules.restore(self._saved_modules or [])
        self._saved_modules = None

    def _start_pass(self, batches: Iterator, *, done: int = 0, rounds: int = 0):
        """Starts a pass over the loader; `batches` are those after the first ones, which are done."""
        self._batches = batches
        end = self.end_step()
        lengths = [loader_length(self.loader), None if end is None else done + max(0, end - self.progress.steps)]
        self._index.reset(min(length for length in lengths if length is not None), self.inner_iterations)
        self._index.idx, self._index.iteration = done, rounds
        self._modules.start_epoch()

    def _all_batches(self) -> Iterator:
        """The batches of an epoch: of one pass over the loader, or without a length, of as many as it takes."""
        batches = iter(self.loader)
        if loader_length(self.loader) is not None:
            return batches
        return itertools.chain(batches, self._further_passes(batches))

    def _further_passes(self, first_pass: Iterator) -> Iterator:
        while True:
            batches = iter(self.loader)
            if batches is first_pass or (first := next(batches, _END)) is _END:
                raise UserError('the training loader has no further batches: one that can be iterated over only once '
                                'must have enough for max_steps')
            yield first
            yield from batches

    def _skip(self, done: int) -> Iterator:
        """The batches of an epoch without the first ones."""
        now = rng_state()
        if done and self._epoch_rng:
            set_rng_state(self._epoch_rng)
        else:
            self._epoch_rng = now
        batches = self._all_batches()
        for _ in itertools.islice(batches, done):
            pass
        if done:
            set_rng_state(now)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """The state of each of `state_modules`, and the random numbers that the epoch started with."""
        epoch_rng = self._epoch_rng if self.progress.batches else None
        return {'modules': self._modules.plain_states(), 'epoch_rng': epoch_rng}

    def load_state_dict(self, state: dict[str, Any]):
        """Restores what `state_dict` returned."""
        self._saved_modules, self._epoch_rng = state['modules'], state['epoch_rng']


class ValidationLoop:
    """
    ## Runs a validation

    * `start` is called at its beginning, and `before_step` before each step; the others are those of `TrainingLoop`
    * `keeps_rng` puts the random numbers back at its end, so that training does not depend on it
    """

    def __init__(self, *, loader: Any, step: Step, start: Callable[[], None], before_step: Callable[[], None],
                 state_modules: list[StateModule], view: ProgressView, is_track_time: bool, keeps_rng: bool = False):
        self.keeps_rng = keeps_rng
        self.loader = loader
        self.step = step
        self.start = start
        self.before_step = before_step
        self.view = view
        self.is_track_time = is_track_time
        self._modules = _StateModules(state_modules)
        self._index = BatchIndex(0, 1)

    def __call__(self):
        """A validation. If it is stopped, the random numbers are put back, so that it can be repeated."""
        before = rng_state()
        try:
            self._run()
        except Stopped:
            set_rng_state(before)
            raise
        if self.keeps_rng:
            set_rng_state(before)

    def _run(self):
        self.start()
        length = loader_length(self.loader)
        self._index.reset(length or 0, 1)
        self._modules.start_epoch()
        with torch.no_grad(), self.view.phase('Valid', is_track_time=self.is_track_time):
            self.view.update(0)
            # Not more than its length, in case it is endless
            for batch in itertools.islice(self.loader, length):
                self.before_step()
                self.step(batch, self._index)
                self._index.step()
                self.view.update(_fraction(self._index))
        self._modules.end_epoch()


class _StateModules:
    """labml_helpers' state modules, and their states in one of the two loops."""

    def __init__(self, modules: list[StateModule]):
        self.modules = modules
        self.states = [module.create_state() for module in modules]

    def set_states(self):
        for module, state in zip(self.modules, self.states, strict=True):
            module.set_state(state)

    def start_epoch(self):
        self.set_states()
        for module in self.modules:
            module.on_epoch_start()

    def end_epoch(self):
        for module in self.modules:
            module.on_epoch_end()

    def plain_states(self) -> list[dict[str, Any] | None]:
        """The attributes of each state, if a checkpoint can hold them."""
        return [_plain(state) for state in self.states]

    def restore(self, saved: list[dict[str, Any] | None]):
        """Puts back `plain_states`."""
        for state, attributes in zip(self.states, saved, strict=False):
            if attributes:
                vars(state).update(attributes)


def _fraction(index: BatchIndex) -> float:
    """The fraction of a pass that is done; 0 if its length is not known."""
    return index.idx / index.total if index.total else 0.


def _plain(state: Any) -> dict[str, Any] | None:
    try:
        pack(vars(state), {})
        return dict(vars(state))
    except TypeError:
        return None
