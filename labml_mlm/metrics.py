"""What a validation gives: one value of each metric, over all of its masked tokens."""
import time

from labml import tracker
from labml_helpers.metrics import StateModule

from labml_mlm.model import MLMOutput


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
        n_masked = max(1, sum(int(output.n_masked) for output in self._outputs))
        self.loss = sum(float(output.loss_sum) for output in self._outputs) / n_masked
        self.accuracy = sum(int(output.n_correct) for output in self._outputs) / n_masked
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
