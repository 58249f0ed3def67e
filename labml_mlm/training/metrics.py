"""Metrics of a validation, of a training step, and of speed."""
import collections
import time
from typing import NamedTuple

import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton
from labml_helpers.metrics import StateModule
from torch import Tensor

from labml_mlm.distributed.process_group import ranks
from labml_mlm.model.transformer import MLMOutput


class ValidMetrics(StateModule):
    """
    Sums over a validation, a state module of labml_helpers. At the end it tracks `loss.valid`, in nats per masked
    token, and `accuracy.valid`, and keeps them in `loss` and `accuracy`; unless no token was masked.
    """

    def __init__(self):
        super().__init__()
        self.clear()
        self._outputs: list[MLMOutput] = []

    def clear(self):
        """There was no validation."""
        self.loss: float | None = None
        self.accuracy: float | None = None

    def add(self, output: MLMOutput):
        """Adds a batch."""
        self._outputs.append(output)

    def on_epoch_start(self):
        """A validation begins."""
        self._outputs = []

    def on_epoch_end(self):
        """A validation ends."""
        self._reduce()
        self.track()

    def track(self):
        """Tracks the last validation, if there was one, in the present namespace of the tracker."""
        if self.loss is not None:
            tracker.add('loss.', self.loss)
            tracker.add('accuracy.', self.accuracy)

    def _reduce(self):
        # Doubles hold integers exactly up to 2 ** 53
        loss_sum, n_masked, n_correct = (float(total) for total in ranks().all_reduce_sum(*(
            torch.tensor(sum(map(float, column)), dtype=torch.double)
            for column in ([output[i] for output in self._outputs] for i in (1, 2, 3))))())
        if not n_masked:
            self.clear()
            return
        self.loss, self.accuracy = loss_sum / n_masked, n_correct / n_masked

    @property
    def values(self) -> dict[str, float] | None:
        """Those of the last validation, by name."""
        return None if self.loss is None else {'loss': self.loss, 'accuracy': self.accuracy}

    def create_state(self) -> None:
        """None: a validation always covers the whole validation set."""

    def set_state(self, data: None):
        """Nothing to set."""


class OldMetrics(ValidMetrics):
    """
    The same for old text. They are tracked after the validation that follows, with `track`: if that is stopped, a
    resumed run repeats both.
    """

    def on_epoch_end(self):
        """A validation ends."""
        self._reduce()


class _InFlight(NamedTuple):
    """Values of a step that are being copied from a GPU."""
    step: int
    names: list[str]
    # `[n_names]`, valid after the event
    values: Tensor
    arrival: torch.cuda.Event


class StepMetrics:
    """
    ## Metrics of a training step, without waiting for the GPU

    When Python is done with a step on a GPU, the step has only been queued. To read its loss would be to wait for it,
    and leave the GPU idle meanwhile. So values are copied while training continues, and tracked when they have arrived,
    each with the number of its own step: at most `max_late` steps late, as Python then waits, which keeps it from
    running ahead. Values on the CPU are tracked at once.
    """

    def __init__(self, max_late: int = 2):
        self.max_late = max_late
        self._in_flight: collections.deque[_InFlight] = collections.deque()

    def add(self, values: dict[str, Tensor]):
        """Adds values of this step, 0-dimensional tensors, by name; all on one device."""
        if not any(value.is_cuda for value in values.values()):
            for name, value in values.items():
                tracker.add(name, value)
            return
        # Full names, as they may be tracked outside of the present namespace
        spaces = [space.name for space in tracker_singleton().namespaces]
        names = ['.'.join([name[:-1], *spaces]) if name.endswith('.') else name for name in values]
        copied = torch.stack([value.detach().float() for value in values.values()])
        self._in_flight.append(_InFlight(tracker.get_global_step(), names, *_copy(copied)))

    def save(self):
        """Saves what was added to the tracker in this step, and then what has arrived of earlier steps."""
        tracker.save()
        while self._in_flight and (len(self._in_flight) > self.max_late or self._in_flight[0].arrival.query()):
            self._track()

    def finish(self):
        """Returns when all values are tracked."""
        while self._in_flight:
            self._track()

    def _track(self):
        late = self._in_flight.popleft()
        late.arrival.synchronize()
        now = tracker.get_global_step()
        tracker.save(late.step, dict(zip(late.names, late.values.tolist(), strict=True)))
        tracker.set_global_step(now)


def _copy(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """A copy on the CPU, which is complete after the event."""
    # Pinned memory, to be asynchronous
    copied = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record()
    return copied, arrival


class Throughput:
    """Tokens per second of training, data loading included, without the time between two rounds."""

    def __init__(self):
        self.n_tokens = 0
        self.seconds = 0.
        self._began = time.perf_counter()

    def restart(self):
        """A round of training begins."""
        self._began = time.perf_counter()

    def step(self, n_tokens: int) -> float:
        """A step of `n_tokens` ends. Returns its tokens per second."""
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        self.n_tokens += n_tokens
        self.seconds += seconds
        return n_tokens / seconds

    def state_dict(self) -> dict[str, int | float]:
        """The sums that the mean is computed from."""
        return {'n_tokens': self.n_tokens, 'seconds': self.seconds}

    def load_state_dict(self, state: dict[str, int | float]):
        """Restores what `state_dict` returned."""
        self.n_tokens, self.seconds = state['n_tokens'], state['seconds']

    @property
    def mean(self) -> float:
        """Tokens per second over all steps."""
        return self.n_tokens / self.seconds if self.seconds else 0.
