"""
# The sides of `learning.py`

Each is a model in training on one text: its loader, its step, and what it predicts of masked batches. Schedules that
have an end follow the fraction of the budget that is used, whether that is time or tokens.
"""
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from labml import tracker
from step import HUGGING_FACE, SIZES, LabmlNN, hugging_face, hugging_face_step, labml_nn_step
from torch import Tensor, nn
from torch.nn import functional

from labml_mlm import MLMConfigs
from labml_mlm.inference.pretrained import silent
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.training.progress import Progress

# Peak learning rate of Hugging Face's sides
PEAK = 2e-3


class Point(NamedTuple):
    """A validation."""
    seconds: float
    tokens: int
    loss: float
    accuracy: float


class Budget(NamedTuple):
    """How long a side trains."""
    amount: float
    # `seconds` or `tokens`
    unit: str = 'seconds'
    # What tells the seconds
    time: Callable[[], float] = time.perf_counter


class Clock(Progress):
    """Progress by what is used of a budget."""

    def __init__(self, budget: Budget):
        super().__init__()
        self.budget = budget
        self.seconds, self.n_tokens = 0., 0

    @property
    def used(self) -> float:
        """In the unit of the budget."""
        return self.n_tokens if self.budget.unit == 'tokens' else self.seconds

    def count(self, seconds: float, n_tokens: int):
        """A step is done."""
        self.seconds += seconds
        self.n_tokens += n_tokens

    def fraction_done(self, loader: Any = None, **length: int | None) -> float:
        """The fraction of the budget that is used."""
        return min(1., self.used / self.budget.amount)

    def steps_left(self, loader: Any, **length: int | None) -> int:
        """An estimate from the speed so far."""
        done = self.fraction_done()
        return round(self.steps * (1 - done) / done) if done else 10 ** 9


class Side:
    """
    A model in training.

    * `step` takes a batch, `[seq_len, batch_size]`
    * `predict` takes masked batches and labels, and returns the logits of the masked positions and their labels
    """

    def __init__(self, conf: MLMConfigs, clock: Clock, step: Callable[[Tensor], None], model: nn.Module,
                 predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self.clock, self.step, self.model, self.predict = clock, step, model, predict
        self.batches = endless(conf)
        self.points: list[Point] = []

    def train(self, until: float):
        """Trains until so much of the budget is used."""
        self.model.train()
        tell = self.clock.budget.time
        while self.clock.used < until:
            began = tell()
            batch = next(self.batches)
            self.step(batch)
            self.clock.count(tell() - began, batch.numel())

    @torch.no_grad()
    def validate(self, masked: list[tuple[Tensor, Tensor]]):
        """Adds a point to the curve."""
        self.model.eval()
        loss, n_correct, n = 0., 0, 0
        for x, labels in masked:
            logits, labels = self.predict(x, labels)
            loss += float(functional.cross_entropy(logits.float(), labels, reduction='sum'))
            n_correct += int((logits.argmax(dim=-1) == labels).sum())
            n += len(labels)
        self.points.append(Point(self.clock.seconds, self.clock.n_tokens, loss / n, n_correct / n))


def configs(size: str, seed: int, clock: Clock, overrides: dict[str, str]) -> MLMConfigs:
    """Our configs, with schedules that follow the clock."""
    conf = MLMConfigs()
    given = [f'{name}={value}' for name, value in overrides.items()]
    conf._set_values({'n_prompts': 0, 'seed': seed, 'progress': clock, 'compile': False, **SIZES[size],
                      **parse_overrides(conf, given)})
    with silent():
        conf.init()
    if conf.seq_len_schedule:
        lengths = seq_len_schedule(conf.seq_len_schedule, seq_len=conf.seq_len)
        conf.train_loader.seq_len_at = lambda epochs: lengths(clock.fraction_done())
    return conf


def endless(conf: MLMConfigs) -> Iterator[Tensor]:
    """Batches of one epoch after another."""
    return itertools.chain.from_iterable(conf.train_loader for _ in itertools.count())


def ours(conf: MLMConfigs, clock: Clock) -> Side:
    """Our model and training step."""
    def step(batch: Tensor):
        with conf.mode.update(is_train=True), tracker.namespace('train'):
            conf.step(batch, None)
        clock.steps += 1

    def predict(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_masked = labels != conf.padding_token
        return conf.model.generator(conf.model.encode(x)[is_masked]), labels[is_masked]

    return Side(conf, clock, step, conf.model, predict)


def labml_nn(conf: MLMConfigs, clock: Clock) -> Side:
    """labml_nn's model and training step."""
    model = LabmlNN(conf).to(conf.device)

    def predict(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_masked = labels != conf.padding_token
        return model(x)[is_masked], labels[is_masked]

    return Side(conf, clock, labml_nn_step(conf, model), model, predict)


def hugging_face_side(conf: MLMConfigs, clock: Clock, kind: str, peak: float) -> Side:
    """One of Hugging Face's models."""
    model = hugging_face(conf, kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, fused=True)
    step_at_peak = hugging_face_step(conf, model, optimizer)

    def step(batch: Tensor):
        for group in optimizer.param_groups:
            group['lr'] = peak * min(clock.fraction_done() / 0.1 + 1e-3, (1 - clock.fraction_done()) / 0.9)
        step_at_peak(batch)

    def predict(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_masked = (labels != conf.padding_token).T
        return model(input_ids=x.T.contiguous()).logits[is_masked], labels.T[is_masked]

    return Side(conf, clock, step, model, predict)


def make(name: str, size: str, seed: int, budget: Budget, overrides: dict[str, str], text: dict[str, str]) -> Side:
    """A side, by name. Raises `ImportError` if it needs a package that cannot be imported."""
    torch.manual_seed(seed)
    clock = Clock(budget)
    conf = configs(size, seed, clock, {**text, **overrides})
    if name == 'labml_nn':
        return labml_nn(conf, clock)
    model, _, peak = name.partition(' at ')
    if model in HUGGING_FACE:
        return hugging_face_side(conf, clock, HUGGING_FACE[model], float(peak or PEAK))
    return ours(conf, clock)
