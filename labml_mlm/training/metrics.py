"""Metrics of a validation, of a training step, and of speed."""
import collections
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton
from labml_helpers.metrics import StateModule
from torch import Tensor

from labml_mlm.baselines.characters import bits_per_character
from labml_mlm.distributed.process_group import ranks
from labml_mlm.model.transformer import MLMOutput


class ValidMetrics(StateModule):
    """
    Sums over a validation, a state module of labml_helpers. At the end it tracks `loss.valid`, in nats per masked
    token, and `accuracy.valid`, and keeps them in `loss` and `accuracy`; unless no token was masked. Those of pairs are
    `loss.pairs.valid` and `accuracy.pairs.valid`, over all pairs. `bits_per_char.valid` compares tokenizers; see
    `baselines/characters.py`.
    """

    def __init__(self):
        super().__init__()
        self.clear()
        self._outputs: list[MLMOutput] = []
        # Characters of the masked tokens of each batch
        self._n_characters: list[Tensor] = []

    def clear(self):
        """There was no validation."""
        self.loss: float | None = None
        self.accuracy: float | None = None
        self.bits_per_character: float | None = None
        # Loss and accuracy of pairs, if there are any
        self.pairs: tuple[float, float] | None = None

    def add(self, output: MLMOutput, *, n_characters: Tensor | None = None):
        """Adds a batch, with the number of characters of its masked tokens, if that is known."""
        self._outputs.append(output)
        if n_characters is not None:
            self._n_characters.append(n_characters)

    def on_epoch_start(self):
        """A validation begins."""
        self._outputs, self._n_characters = [], []

    def on_epoch_end(self):
        """A validation ends."""
        self._reduce()
        self.track()

    def track(self):
        """Tracks the last validation, if there was one, in the present namespace of the tracker."""
        if self.loss is not None:
            tracker.add('loss.', self.loss)
            tracker.add('accuracy.', self.accuracy)
        if self.bits_per_character is not None:
            tracker.set_scalar('bits_per_char.*', is_print=False)
            tracker.add('bits_per_char.', self.bits_per_character)
        if self.loss is not None and self.pairs is not None:
            tracker.add('loss.pairs.', self.pairs[0])
            tracker.add('accuracy.pairs.', self.pairs[1])

    def _reduce(self):
        rows = [[*output[1:4], *(output.pairs or ())[1:]] for output in self._outputs] or [[0, 0, 0]]
        # Doubles hold integers exactly up to 2 ** 53
        columns = [*zip(*rows, strict=True), self._n_characters]
        loss_sum, n_masked, n_correct, *of_pairs, n_characters = (float(total) for total in ranks().all_reduce_sum(*(
            torch.tensor(sum(_numbers(column)), dtype=torch.double) for column in columns))())
        if not n_masked:
            self.clear()
            return
        self.loss, self.accuracy = loss_sum / n_masked, n_correct / n_masked
        self.bits_per_character = bits_per_character(loss_sum, n_characters)
        if of_pairs:
            loss_sum, n_pairs, n_correct = of_pairs
            self.pairs = loss_sum / n_pairs, n_correct / n_pairs

    @property
    def values(self) -> dict[str, Any] | None:
        """Those of the last validation, by name, for a checkpoint."""
        return None if self.loss is None else {'loss': self.loss, 'accuracy': self.accuracy}

    @property
    def to_minimize(self) -> float | None:
        """By what the best checkpoint is chosen; NaN is never the best."""
        return self.loss

    @property
    def summary(self) -> dict[str, float]:
        """What to say of the last validation, in words."""
        found = {} if self.loss is None else {'Validation loss': self.loss, 'masked accuracy': self.accuracy}
        return found | dict(zip(('loss of pairs', 'accuracy'), self.pairs or (), strict=False))

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


class _Weighted(NamedTuple):
    """Values of a step."""
    values: dict[str, Tensor]
    # Masked tokens
    weight: Tensor
    n_sequences: int


class StepMetrics:
    """
    ## Metrics of a training step, without waiting for the GPU

    When Python is done with a step on a GPU, the step has only been queued. To read its loss would be to wait for it,
    and leave the GPU idle meanwhile. So values are copied while training continues, and tracked when they have arrived,
    each with the number of its own step: at most `max_late` steps late, as Python then waits, which keeps it from
    running ahead. Values on the CPU are tracked at once.

    An epoch may end with a short batch, whose loss varies so much that the curve would end in a spike. What is tracked
    of it is the mean of this step and the one before, weighted by masked tokens.
    """

    # labml would give the configs to an argument of `__init__`
    max_late = 2

    def __init__(self):
        self._in_flight: collections.deque[_InFlight] = collections.deque()
        # Those of the step before, if it has a weight
        self._before: _Weighted | None = None

    def add(self, values: dict[str, Tensor], *, weight: Tensor | None = None, n_sequences: int = 0,
            is_last: bool = False):
        """
        Adds values of this step, 0-dimensional tensors, by name; all on one device.

        * `weight` is the number of masked tokens; without it, values are tracked as they are
        * `n_sequences` is the number of sequences, by which a short batch is told
        * `is_last`: is it the last step of an epoch?
        """
        before, self._before = self._before, None
        if weight is not None:
            self._before = _Weighted({name: value.detach() for name, value in values.items()}, weight, n_sequences)
            if is_last and before is not None and n_sequences < before.n_sequences:
                values = _mean(self._before, before)
        if not any(value.is_cuda for value in values.values()):
            for name, value in values.items():
                tracker.add(name, value)
            return
        # Full names, as they may be tracked outside of the present namespace
        spaces = [space.name for space in tracker_singleton().namespaces]
        names = ['.'.join([name[:-1], *spaces]) if name.endswith('.') else name for name in values]
        copied = torch.stack([value.detach().float() for value in values.values()])
        self._in_flight.append(_InFlight(tracker.get_global_step(), names, *late_copy(copied)))

    def state_dict(self) -> dict[str, Any] | None:
        """The values of the last step, for JSON."""
        if self._before is None:
            return None
        values, weight, n_sequences = self._before
        return {'values': {name: value.item() for name, value in values.items()}, 'weight': weight.item(),
                'n_sequences': n_sequences}

    def load_state_dict(self, state: dict[str, Any] | None, *, device: torch.device):
        """Restores what `state_dict` returned."""
        self._before = None
        if state is not None:
            values = {name: torch.tensor(value, device=device) for name, value in state['values'].items()}
            self._before = _Weighted(values, torch.tensor(state['weight'], device=device), state['n_sequences'])

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


def _numbers(column: Sequence[Tensor | int]) -> list[float]:
    """The values of 0-dimensional tensors of one type, in a single copy from a GPU."""
    return torch.stack(column).tolist() if column and isinstance(column[0], Tensor) else list(column)


def _mean(step: _Weighted, before: _Weighted) -> dict[str, Tensor]:
    """The mean values of two steps; one that the step before lacks is left as it is."""
    total = step.weight + before.weight
    return {name: (value * step.weight + before.values[name] * before.weight) / total if name in before.values
            else value for name, value in step.values.items()}


def late_copy(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy on the CPU, which is complete after the event; what is there already, without one."""
    if not values.is_cuda:
        return values, None
    # Pinned memory, to be asynchronous
    copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrival = torch.cuda.Event()
    # The device of the values need not be the present one
    arrival.record(torch.cuda.current_stream(values.device))
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
