"""How far a run is."""
import math
import time
from typing import Any

from labml import tracker

from labml_mlm.data.loader import loader_length
from labml_mlm.screen.time_left import Work

# Places of the rest of the run at which the length of sequences is looked up
_N_PLACES = 50


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
        # What epochs lack that count as done, as the run had come to its end within them before it was made longer
        self.left_out = 0.
        # Training tokens: labml's global step
        self.tokens = 0
        # The best validation so far, as what is to be minimized, and how many came after it
        self.best: float | None = None
        self.validations_since_best = 0
        # In training, validation and samples
        self.seconds = 0.
        self._now = 0.

    def state_dict(self) -> dict[str, int | float]:
        """All of it."""
        return {name: value for name, value in vars(self).items() if not name.startswith('_')}

    def load_state_dict(self, state: dict[str, int | float]):
        """Restores what `state_dict` returned."""
        vars(self).update((name, state[name]) for name in self.state_dict() if name in state)

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

    def end_round(self, inner_iterations: int, *, left_out: float = 0.):
        """A round is done; the last one is the end of the epoch, a fraction of which may be left out."""
        self.round += 1
        if self.round >= inner_iterations:
            self.end_epoch(left_out=left_out)
        self._tick()

    def end_validation(self, to_minimize: float | None):
        """A validation is done, with a figure to be minimized; `None` or NaN if it had nothing to measure."""
        if to_minimize is not None and to_minimize < (math.inf if self.best is None else self.best):
            self.best, self.validations_since_best = to_minimize, 0
        else:
            self.validations_since_best += 1

    def end_epoch(self, *, left_out: float = 0.):
        """An epoch is done, but for a fraction of it."""
        self.epoch += 1
        self.left_out += left_out
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
            left.append(self.left_in_epoch(loader) + (epochs - self.epoch - 1) * len(loader))
        return min(left)

    def end(self, loader: Any, *, epochs: int | None, max_steps: int | None = None) -> int:
        """The number of epochs at the end of the run, the last of which may be a part; the arguments are the same."""
        if max_steps is None:
            return epochs
        beyond, length = max_steps - self.steps, loader_length(loader)
        if beyond > 0 and length:
            beyond -= self.left_in_epoch(loader)
            end = self.epoch + 1 + (-(-beyond // length) if beyond > 0 else 0)
        else:
            # A loader without a length has one epoch. One that was stopped before its validation is to be finished
            end = self.epoch + (beyond > 0 or self.batches > 0)
        return end if epochs is None else min(end, epochs)

    def steps_at(self, loader: Any, *, epochs: float) -> int:
        """The number of optimizer steps after so many epochs of a training loader, the last one in part; at least 1."""
        whole, part = divmod(epochs + self.left_out, 1)
        length = len(loader)
        done = length - self.left_in_epoch(loader)
        left = (int(whole) - self.epoch) * length + round(part * length) - done
        return max(1, self.steps + max(0, left))

    def left_in_epoch(self, loader: Any) -> int:
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


def work_left(c: Any) -> Work:
    """What is left of the run with configs `c`."""
    progress, loader = c.progress, c.train_loader
    n_steps = c._total_steps - progress.steps
    n_epochs = progress.end(loader, **c._run_length) - progress.epoch
    length, left = _by_length(c, n_steps)
    valid_loaders = [valid for valid in (c.valid_loader, c.old_loader) if valid is not None]
    scale = c.valid_batch_size / c.batch_size
    return Work(
        steps=progress.steps, seconds=progress.seconds, length=length, left=left,
        is_shorter_faster=not getattr(loader, 'is_token_budget_constant', True),
        validations=max(0, n_epochs * c.inner_iterations - progress.round),
        passes=scale * sum(loader_length(valid) or 0 for valid in valid_loaders),
        saves=n_steps / c.checkpoint_interval if c.checkpoint_interval else 0.,
        n_saved=c.checkpointer.n_saved, save_seconds=c.checkpointer.seconds)


def _by_length(c: Any, n_steps: int) -> tuple[int, dict[int, float]]:
    """The length of sequences now, and the steps that are left by it; 0 if it does not change."""
    loader, progress = c.train_loader, c.progress
    length_at = getattr(loader, 'seq_len_at', None)
    if length_at is None:
        return 0, {0: n_steps}
    length, left = len(loader), {}
    done = progress.epoch + 1 - progress.left_in_epoch(loader) / length
    for i in range(_N_PLACES):
        at = length_at(done + n_steps / length * (i + 0.5) / _N_PLACES)
        left[at] = left.get(at, 0.) + n_steps / _N_PLACES
    # That of the last batch
    return length_at(max(0., done - 0.5 / length)), left
