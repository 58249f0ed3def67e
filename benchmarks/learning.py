r"""
# How fast models learn: labml_nn's recipe, Hugging Face's, and ours with and without each ingredient

    python benchmarks/learning.py [--size tiny] [--text tiny_shakespeare] [--seconds 90] [--seeds 3] [--sides NAME ...]
                                  [--side 'NAME: name=value ...'] [--json FILE] [--plot FILE]

All sides train for the same time in one process, alternating every few seconds. Only a side's own training counts: data
loading, masking and updates, without validation. Schedules that have an end follow the fraction of that time that is
over. All sides are validated on the same windows, with the same 15% of the tokens masked. Figures are means over seeds
(of weights, order and masks), ± half the difference between the highest and the lowest.

* `labml_nn` is the recipe of its MLM experiment: its modules, initialization, masking, dropout and Noam.
* `HF BERT` and `HF ModernBERT` are Hugging Face's models without dropout, trained with AdamW, weight decay 0.01,
  warm-up over the first tenth and then linear decay to 0. Their peak is 2e-3, because such small models learn less
  with 5e-4 or 1e-3 (another peak: `--side 'HF ModernBERT at 5e-4:'`).
* `ours` has the defaults of `MLMConfigs`: fused AdamW at 2e-3, 100 warm-up steps, cosine decay, and 15% of single
  tokens masked. The sides after it change one thing each, and `together` is the recipe of `experiments/char_mlm.py`.

`--side` adds a side of ours with other overrides. Nothing is compiled: in so short a time it would not pay off.
"""
import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from labml import tracker
from step import HUGGING_FACE, SIZES, LabmlNN, hugging_face, hugging_face_step, labml_nn_step
from torch import Tensor, nn
from torch.nn import functional

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.inference.pretrained import silent
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.screen import console
from labml_mlm.training.progress import Progress

# The items of `experiments/char_mlm.py`
TOGETHER = {'optimizer': 'muon', 'lr_schedule': 'warmup_linear', 'lr_warmup_steps': '50', 'masking_schedule': 'linear'}
# Peak learning rate of Hugging Face's sides
PEAK = 2e-3
# Fractions of the time at which all sides are validated
VALIDATE_AT = 0.09, 0.22, 0.44, 0.67, 1.
# Approximate size of the validation set
VALID_TOKENS = 100_000
# Seconds of training before the next side continues
TURN = 4.


class Point(NamedTuple):
    """A validation."""
    seconds: float
    tokens: int
    loss: float
    accuracy: float


class Clock(Progress):
    """Progress by training time."""

    def __init__(self, budget: float):
        super().__init__()
        self.budget = budget
        self.used = 0.

    def fraction_done(self, loader: Any = None, **length: int | None) -> float:
        """The fraction of the time that is over."""
        return min(1., self.used / self.budget)

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
        self.tokens = 0
        self.points: list[Point] = []

    def train(self, until: float):
        """Trains until `until` seconds of training are over."""
        self.model.train()
        while self.clock.used < until:
            began = time.perf_counter()
            batch = next(self.batches)
            self.step(batch)
            self.clock.used += time.perf_counter() - began
            self.tokens += batch.numel()

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
        self.points.append(Point(self.clock.used, self.tokens, loss / n, n_correct / n))


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


def make(name: str, size: str, seed: int, budget: float, overrides: dict[str, str], text: dict[str, str]) -> Side:
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


def known_sides(size: str) -> dict[str, dict[str, str]]:
    """The overrides of all sides by name; those of ours change one thing each."""
    n = SIZES[size].get('seq_len', 32)
    return {
        **dict.fromkeys(['labml_nn', *HUGGING_FACE, 'ours'], {}),
        'Muon': {'optimizer': 'muon'},
        'linear decay': {'lr_schedule': 'warmup_linear'},
        'masks 0.30 → 0.15': {'masking_schedule': 'linear'},
        f'lengths {n // 4}, {n // 2}, {n}': {'seq_len_schedule': f'{n // 4}:0.05,{n // 2}:0.15,{n}'},
        'whole words': {'masking': 'word'},
        'spans': {'masking': 'span'},
        'together': TOGETHER,
    }


def race(sides: dict[str, Side], budget: float, masked: list[tuple[Tensor, Tensor]]):
    """Trains all sides for `budget` seconds each, in alternation."""
    validations = [fraction * budget for fraction in VALIDATE_AT]
    ends = sorted({*validations, *(TURN * i for i in range(1, int(budget / TURN) + 1))})
    for end in ends:
        for side in sides.values():
            side.train(end)
            if end in validations:
                side.validate(masked)


def table(curves: dict[str, list[list[Point]]], budget: float) -> str:
    """Accuracy over time, and the final accuracy and loss."""
    times = [f'{fraction * budget:.0f} s' for fraction in VALIDATE_AT]
    lines = [f'{"masked accuracy after":26}' + ''.join(f'{at:>8}' for at in times)
             + f'{"±":>8}{"loss":>8}{"±":>8}{"tokens":>12}']
    for name, seeds in curves.items():
        ends = [points[-1] for points in seeds]
        means = [statistics.mean(points[i].accuracy for points in seeds) for i in range(len(VALIDATE_AT))]
        accuracy, loss = [point.accuracy for point in ends], [point.loss for point in ends]
        lines.append(f'{name:26}' + ''.join(f'{mean:8.3f}' for mean in means)
                     + f'{spread(accuracy):8.3f}{statistics.mean(loss):8.3f}{spread(loss):8.3f}'
                     f'{statistics.mean(point.tokens for point in ends):12,.0f}')
    return '\n'.join(lines)


def spread(values: list[float]) -> float:
    """Half the difference between the highest and the lowest."""
    return (max(values) - min(values)) / 2


def plot(curves: dict[str, list[list[Point]]], path: str):
    """Loss and accuracy against time and tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharey='row')
    for row, value in zip(panels, ('loss', 'accuracy'), strict=True):
        for axes, x in zip(row, ('seconds', 'tokens'), strict=True):
            for i, (name, seeds) in enumerate(curves.items()):
                xs, ys = ([statistics.mean(getattr(point, attribute) for point in points)
                           for points in zip(*seeds, strict=True)] for attribute in (x, value))
                axes.plot(xs, ys, marker='o', markersize=3, color=f'C{i % 10}', linestyle=['-', '--'][i // 10 % 2],
                          label=name)
            axes.set(xlabel=f'training {x}', ylabel=f'validation {value}')
            axes.grid(alpha=0.3)
    panels[1][0].legend(fontsize='small')
    figure.savefig(path, dpi=120)


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--size', choices=['tiny', 'mini'], default='tiny')
    parser.add_argument('--text', nargs='+', default=['text=tiny_shakespeare'], metavar='NAME=VALUE',
                        help='overrides of the text and its tokenizer')
    parser.add_argument('--seconds', type=float, default=90., help='training time of each side')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--sides', nargs='*', metavar='NAME', help='by default all')
    parser.add_argument('--side', action='append', default=[], metavar='NAME: NAME=VALUE ...',
                        help='a side of ours with other overrides')
    parser.add_argument('--json', help='a file for the figures')
    parser.add_argument('--plot', help='a PNG for the figures')
    arguments = parser.parse_args()
    console.set_up()
    all_sides = known_sides(arguments.size)
    if unknown := set(arguments.sides or ()) - set(all_sides):
        parser.error(f'{", ".join(unknown)}: the sides are {", ".join(all_sides)}')
    wanted = {name: all_sides[name] for name in all_sides if arguments.sides is None or name in arguments.sides}
    for side in arguments.side:
        name, _, overrides = side.partition(':')
        wanted[name] = dict(override.split('=', 1) for override in overrides.split())
    text = dict(item.split('=', 1) for item in arguments.text)
    curves: dict[str, list[list[Point]]] = {}
    for seed in range(1, arguments.seeds + 1):
        sides = {}
        for name, overrides in wanted.items():
            try:
                sides[name] = make(name, arguments.size, seed, arguments.seconds, overrides, text)
            except ImportError as e:
                print(f'Skipping {name}: {e}')
            except (UserError, OSError) as e:
                parser.error(str(e))
        conf = configs(arguments.size, 1, Clock(1.), text)
        # Some batches from all over a long text
        every = max(1, len(conf.valid_tokens) // VALID_TOKENS)
        masked = [conf.valid_mlm(batch.to(conf.device))
                  for batch in itertools.islice(conf.valid_loader, 0, None, every)]
        race(sides, arguments.seconds, masked)
        for name, side in sides.items():
            curves.setdefault(name, []).append(side.points)
    about = (f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
             f'{torch.get_num_threads()} threads, {conf.device}')
    print(f'\n{about}\n{arguments.size}: {arguments.seconds:.0f} s of training, {arguments.seeds} seeds; means\n')
    print(table(curves, arguments.seconds))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({'about': about, 'size': arguments.size, 'curves': curves,
                                                    'sides': wanted}, indent=1))
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == '__main__':
    main()
