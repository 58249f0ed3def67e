"""Metrics on their way to the tracker: of a validation, of a step, and of how fast steps are."""

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
    Sums over a validation, for labml_helpers' `Trainer`. At the end it tracks `loss.valid`, in nats a masked token,
    and `accuracy.valid`, and keeps them in `loss` and `accuracy`.
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
        """One batch more."""
        self._outputs.append(output)

    def on_epoch_start(self):
        """A validation begins."""
        self._outputs = []

    def on_epoch_end(self):
        """A validation ends."""
        # Whole numbers are exact in these up to 2 ** 53
        loss_sum, n_masked, n_correct = (float(total) for total in ranks().sum(*(
            torch.tensor(sum(map(float, column)), dtype=torch.double)
            for column in ([output[i] for output in self._outputs] for i in (1, 2, 3))))())
        self.loss = loss_sum / max(1., n_masked)
        self.accuracy = n_correct / max(1., n_masked)
        tracker.add('loss.', self.loss)
        tracker.add('accuracy.', self.accuracy)

    @property
    def values(self) -> dict[str, float] | None:
        """Of the last validation, by name."""
        return None if self.loss is None else {'loss': self.loss, 'accuracy': self.accuracy}

    def create_state(self) -> None:
        """None: a validation always covers the whole validation set."""

    def set_state(self, data: None):
        """Nothing to set."""


class _Late(NamedTuple):
    """Values of a step that are being copied from a GPU."""
    step: int
    names: list[str]
    # `[n_names]`, valid once the event is over
    values: Tensor
    arrival: torch.cuda.Event


class StepMetrics:
    """
    ## Metrics of a training step, without waiting for the GPU

    A step on a GPU has only been asked for when Python is through with it, and to look at its loss would be to wait
    for it, with nothing to do for the GPU meanwhile. So values are copied while training goes on, and tracked when they
    have arrived, each with the number of its own step: `max_late` steps later at the most, as Python then waits, which
    keeps it from running ahead. Values on the CPU are tracked at once.
    """

    def __init__(self, max_late: int = 2):
        self.max_late = max_late
        self._late: collections.deque[_Late] = collections.deque()

    def add(self, values: dict[str, Tensor]):
        """Values of this step, tensors without dimensions, by name; all on one device."""
        if not any(value.is_cuda for value in values.values()):
            for name, value in values.items():
                tracker.add(name, value)
            return
        # By the names that they have here, as they may be tracked elsewhere
        spaces = [space.name for space in tracker_singleton().namespaces]
        names = ['.'.join([name[:-1], *spaces]) if name.endswith('.') else name for name in values]
        copied = torch.stack([value.detach().float() for value in values.values()])
        self._late.append(_Late(tracker.get_global_step(), names, *_copy(copied)))

    def save(self):
        """Saves what was added to the tracker in this step, and then what has arrived of the steps before."""
        tracker.save()
        while self._late and (len(self._late) > self.max_late or self._late[0].arrival.query()):
            self._track()

    def finish(self):
        """Returns when all values are tracked."""
        while self._late:
            self._track()

    def _track(self):
        late = self._late.popleft()
        late.arrival.synchronize()
        now = tracker.get_global_step()
        tracker.save(late.step, dict(zip(late.names, late.values.tolist(), strict=True)))
        tracker.set_global_step(now)


def _copy(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """A copy on the CPU that is made when the GPU comes to it, and when that is."""
    # Memory that the GPU can write to by itself
    copied = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record()
    return copied, arrival


class Throughput:
    """Tokens per second of training, loading included, without what comes between two rounds of training."""

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
        """What the mean is made of."""
        return {'n_tokens': self.n_tokens, 'seconds': self.seconds}

    def load_state_dict(self, state: dict[str, int | float]):
        """What `state_dict` gave."""
        self.n_tokens, self.seconds = state['n_tokens'], state['seconds']

    @property
    def mean(self) -> float:
        """Tokens per second of all steps."""
        return self.n_tokens / self.seconds if self.seconds else 0.

