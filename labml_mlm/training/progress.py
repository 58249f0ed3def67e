"""How far a run is."""
import time
from typing import Any

from labml import tracker

from labml_mlm.data.loader import loader_length


class Progress:
    """How far a run is. An epoch has `inner_iterations` rounds of training, each followed by a validation."""

    def __init__(self):
        # Epochs done
        self.epoch = 0
        # Rounds done in this epoch
        self.round = 0
        # Training batches in this epoch so far
        self.batches = 0
        # Windows in them, of a `TrainLoader`
        self.windows = 0
        # Optimizer steps
        self.steps = 0
        # Training tokens: labml's global step
        self.tokens = 0
        # In training, validation and samples
        self.seconds = 0.
        self._now = 0.

    def state_dict(self) -> dict[str, int | float]:
        """All of it."""
        return {name: value for name, value in vars(self).items() if not name.startswith('_')}

    def load_state_dict(self, state: dict[str, int | float]):
        """Restores what `state_dict` returned."""
        vars(self).update(state)

    def start(self):
        """Training begins, or is resumed."""
        self._now = time.monotonic()

    def end_step(self, loader: Any):
        """A training step, with a batch of the loader, is done."""
        self.batches += 1
        if hasattr(loader, 'batches_after'):
            # The last batch may have fewer
            self.windows = min(self.windows + loader.batch_size, loader.n_windows)
        self.steps += 1
        self.tokens = tracker.get_global_step()
        self._tick()

    def end_round(self, inner_iterations: int):
        """A round is done; the last one is the end of the epoch."""
        self.round += 1
        if self.round >= inner_iterations:
            self.end_epoch()
        self._tick()

    def end_epoch(self):
        """An epoch is done."""
        self.epoch += 1
        self.restart_epoch()

    def restart_epoch(self):
        """An epoch starts, or starts again."""
        self.round = self.batches = self.windows = 0

    def steps_left(self, loader: Any, *, epochs: int | None, max_steps: int | None = None) -> int:
        """
        Optimizer steps until the run ends: with so many `epochs` of a training loader, or at `max_steps`, whichever
        comes first. One of them may be `None`.
        """
        left = [] if max_steps is None else [max(0, max_steps - self.steps)]
        if epochs is not None:
            left.append(self._left_in_epoch(loader) + (epochs - self.epoch - 1) * len(loader))
        return min(left)

    def end(self, loader: Any, *, epochs: int | None, max_steps: int | None = None) -> int:
        """The number of epochs at the end of the run, the last of which may be a part; the arguments are the same."""
        if max_steps is None:
            return epochs
        beyond, length = max_steps - self.steps, loader_length(loader)
        if beyond > 0 and length:
            beyond -= self._left_in_epoch(loader)
            end = self.epoch + 1 + (-(-beyond // length) if beyond > 0 else 0)
        else:
            # A loader without a length has one epoch. One that was stopped before its validation is to be finished
            end = self.epoch + (beyond > 0 or self.batches > 0)
        return end if epochs is None else min(end, epochs)

    def _left_in_epoch(self, loader: Any) -> int:
        """Batches left in this epoch."""
        # The batch size may have changed on resume
        return loader.batches_after(self.windows) if hasattr(loader, 'batches_after') else len(loader) - self.batches

    def fraction_done(self, loader: Any, *, epochs: int | None, max_steps: int | None = None) -> float:
        """The fraction of training that is done, from 0 to 1; the arguments are those of `steps_left`."""
        if max_steps is not None:
            return self.steps / max(1, self.steps + self.steps_left(loader, epochs=epochs, max_steps=max_steps))
        of_epoch = self.batches / max(1, len(loader))
        if hasattr(loader, 'batches_after'):
            of_epoch = self.windows / loader.n_windows
        return (self.epoch + of_epoch) / epochs

    def _tick(self):
        before, self._now = self._now, time.monotonic()
        self.seconds += self._now - before
