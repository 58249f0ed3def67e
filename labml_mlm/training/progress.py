"""How far a run is."""
import time
from typing import Any

from labml import tracker


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

    def steps_left(self, loader: Any, *, epochs: int) -> int:
        """Optimizer steps until `epochs` of a training loader are done."""
        of_epoch = len(loader) - self.batches
        if hasattr(loader, 'batches_after'):
            # The batch size may have changed on resume
            of_epoch = loader.batches_after(self.windows)
        return of_epoch + (epochs - self.epoch - 1) * len(loader)

    def fraction_done(self, loader: Any, *, epochs: int) -> float:
        """The fraction of training, of so many `epochs` of a loader, that is done; from 0 to 1."""
        of_epoch = self.batches / max(1, len(loader))
        if hasattr(loader, 'batches_after'):
            of_epoch = self.windows / loader.n_windows
        return (self.epoch + of_epoch) / epochs

    def _tick(self):
        before, self._now = self._now, time.monotonic()
        self.seconds += self._now - before
