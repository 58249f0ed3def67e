"""
# How long a run still takes

The time of a run is that of its training steps, of the validations between them, with the samples and checkpoints that
belong to them, and of the checkpoints within an epoch. Each is measured on its own, so the sum is right whether there
are three validations left or one, and whether or not the present epoch is a whole one.

* The time of a step is a mean over the last 200: batches whose texts have different lengths take different times, and
  the machine may become busy.
* With a curriculum of sequence lengths each length has a time of its own. Until a length was seen, the time is that of
  the nearest one, in proportion to the tokens.
* The first step of each length is left out, as it may compile the model or fill caches.
* Until a validation was seen, it is taken for its forward passes: a third of a step each.
"""
from collections.abc import Mapping
from typing import NamedTuple

# Steps, of the mean time of a step
_WINDOW = 200
# There is no estimate before so many steps
_MIN_STEPS = 3
# Time of a forward pass, where that of a training step is 1
_FORWARD = 1 / 3


class Work(NamedTuple):
    """What a run has done, and what is left of it."""
    # Optimizer steps that are done
    steps: int
    # Seconds that it has trained before, in other processes too
    seconds: float
    # The length of sequences now, and steps that are left by it; 0 if it does not change
    length: int
    left: Mapping[int, float]
    # Has a step fewer tokens while sequences are shorter?
    is_shorter_faster: bool
    # Validations that are left
    validations: int
    # Forward passes of one, of the size of training batches
    passes: float
    # Checkpoints that are left besides those of validations
    saves: float
    # Number and seconds of the checkpoints that this process has saved
    n_saved: int
    save_seconds: float

    @property
    def steps_left(self) -> float:
        """Of any length."""
        return sum(self.left.values())


class TimeLeft:
    """
    ## Estimates the seconds that a run still takes

    It has no clock of its own: whoever measures tells it.
    """

    def __init__(self):
        self._steps: dict[int, _Mean] = {}
        self._last_length: int | None = None
        self._validation = _Mean()

    def train(self, n: int, seconds: float, *, length: int = 0):
        """The run has trained for `n` steps of a length, which took so many seconds without checkpoints."""
        is_first, self._last_length = length != self._last_length, length
        if n and not (is_first and length not in self._steps):
            self._steps[length].add(seconds / n, n)
        elif n:
            self._steps[length] = _Mean()

    def validate(self, seconds: float):
        """A validation, and all that belongs to it, took so many seconds."""
        self._validation.add(seconds, 1)

    def estimate(self, work: Work, *, since_training: float = 0.) -> float | None:
        """
        Seconds until the end; `None` if there is nothing to tell by.

        * `since_training` is how long the present validation has taken
        """
        known = {length: mean.value for length, mean in self._steps.items() if mean.n}
        if sum(mean.n for mean in self._steps.values()) < _MIN_STEPS:
            return None
        training = sum(n * _of_length(length, known, work) for length, n in work.left.items())
        step = known.get(self._last_length) or next(iter(known.values()))
        validation = self._validation.value if self._validation.n else _FORWARD * work.passes * step
        saving = work.saves * work.save_seconds / work.n_saved if work.n_saved else 0.
        present = min(since_training, validation) if work.validations else 0.
        return training + work.validations * validation + saving - present


class _Mean:
    """The mean of the last `_WINDOW` values or so."""

    def __init__(self):
        self.n = 0
        self.value = 0.

    def add(self, value: float, n: int):
        """Adds the mean of `n` values."""
        self.n += n
        self.value += (value - self.value) * min(1., n / min(self.n, _WINDOW))


def _of_length(length: int, known: Mapping[int, float], work: Work) -> float:
    """The seconds of a step of a length."""
    nearest = min(known, key=lambda other: abs(other - length))
    return known[nearest] * (length / nearest if work.is_shorter_faster and nearest else 1.)
