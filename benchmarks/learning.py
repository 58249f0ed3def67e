r"""
# How fast models learn: labml_nn's recipe, Hugging Face's, and ours with and without each ingredient

    python benchmarks/learning.py [--size tiny] [--text tiny_shakespeare] [--seconds 90] [--seeds 3] [--sides NAME ...]
                                  [--side 'NAME: name=value ...'] [--json FILE] [--plot FILE]

Each side trains for the same time on the same machine, in one process: they take turns of some seconds, and what is
counted is a side's own training, with loader, masking and update, and without validation. Schedules that have an end
go by the share of that time that is over, so that they come to it when the time does. All are validated
on the same windows, with the same 15% of the tokens masked; figures are means over the seeds (of weights, order and
masks), ± half of what lies between the best and the worst.

* `labml_nn` is the recipe of its MLM experiment: its parts, initialisation, masking, dropout, and Noam
* `HF BERT` and `HF ModernBERT` are Hugging Face's models without dropout, trained as its `Trainer` would: AdamW, weight
  decay 0.01, a warm-up over a tenth and then linear to 0. Their peak is 2e-3, as such small models learn less with
  5e-4 or 1e-3 (`--sides` takes `HF ModernBERT`, and `--side 'HF ModernBERT at 5e-4:'` another peak)
* `ours` has the defaults of `MLMConfigs`: fused AdamW at 2e-3, 100 steps of warm-up, a cosine, and 15% of single tokens
  masked; the next ones change one thing of that each, and `together` is the recipe of `experiments/char_mlm.py`

`--side` adds another one of ours, by overrides of items. Compilation would not pay in so short a time and is off.
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
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.inference.load import silent
from labml_mlm.optim import schedules as schedule
from labml_mlm.tracking import console as screen
from labml_mlm.training.progress import Progress

# What is in `experiments/char_mlm.py`
TOGETHER = {'optimizer': 'muon', 'lr_schedule': 'warmup_linear', 'lr_warmup_steps': '50', 'masking_schedule': 'linear'}
# Of Hugging Face's sides
PEAK = 2e-3
# Shares of the time at which all are validated
LOOKS = 0.09, 0.22, 0.44, 0.67, 1.
# About how many tokens are validated on
VALID_TOKENS = 100_000
# Seconds of a turn
TURN = 4.


class Point(NamedTuple):
    """A validation."""
    seconds: float
    tokens: int
    loss: float
    accuracy: float


class Clock(Progress):
    """Progress by the time that is over."""

    def __init__(self, budget: float):
        super().__init__()
        self.budget = budget
        self.used = 0.

    def share(self, loader: Any = None, *, epochs: int = 1) -> float:
        """How much of the time is over."""
        return min(1., self.used / self.budget)

    def steps_left(self, loader: Any, *, epochs: int) -> int:
        """As many as there would be at the speed so far."""
        share = self.share()
        return round(self.steps * (1 - share) / share) if share else 10 ** 9


class Side:
    """
    One that trains.

    * `step` takes a batch, `[seq_len, batch_size]`
    * `predict` takes masked batches and labels, and gives the logits of masked places and their labels
    """

    def __init__(self, conf: MLMConfigs, clock: Clock, step: Callable[[Tensor], None], model: nn.Module,
                 predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self.clock, self.step, self.model, self.predict = clock, step, model, predict
        self.batches = endless(conf)
        self.tokens = 0
        self.points: list[Point] = []

    def train(self, until: float):
        """Goes on until so many seconds are used up."""
        self.model.train()
        while self.clock.used < until:
            began = time.perf_counter()
            batch = next(self.batches)
            self.step(batch)
            self.clock.used += time.perf_counter() - began
            self.tokens += batch.numel()

    @torch.no_grad()
    def validate(self, masked: list[tuple[Tensor, Tensor]]):
        """Adds a point."""
        self.model.eval()
        loss, n_correct, n = 0., 0, 0
        for x, labels in masked:
            logits, labels = self.predict(x, labels)
            loss += float(functional.cross_entropy(logits.float(), labels, reduction='sum'))
            n_correct += int((logits.argmax(dim=-1) == labels).sum())
            n += len(labels)
        self.points.append(Point(self.clock.used, self.tokens, loss / n, n_correct / n))


def configs(size: str, seed: int, clock: Clock, overrides: dict[str, str]) -> MLMConfigs:
    """Ours, with schedules that go by the clock."""
    conf = MLMConfigs()
    given = [f'{name}={value}' for name, value in overrides.items()]
    conf._set_values({'n_prompts': 0, 'seed': seed, 'progress': clock, 'compile': False, **SIZES[size],
                      **parse_overrides(conf, given)})
    with silent():
        conf.init()
    if conf.seq_len_schedule:
        lengths = schedule.seq_len_schedule(conf.seq_len_schedule, seq_len=conf.seq_len)
        conf.train_loader.seq_len_at = lambda epochs: lengths(clock.share())
    return conf


def endless(conf: MLMConfigs) -> Iterator[Tensor]:
    """Batches of one epoch after the other."""
    return itertools.chain.from_iterable(conf.train_loader for _ in itertools.count())


def ours(conf: MLMConfigs, clock: Clock) -> Side:
    """The step of a run."""
    def step(batch: Tensor):
        with conf.mode.update(is_train=True), tracker.namespace('train'):
            conf.step(batch, None)
        clock.steps += 1

    def predict(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_masked = labels != conf.padding_token
        return conf.model.generator(conf.model.encode(x)[is_masked]), labels[is_masked]

    return Side(conf, clock, step, conf.model, predict)


def labml_nn(conf: MLMConfigs, clock: Clock) -> Side:
    """labml_nn's."""
    model = LabmlNN(conf).to(conf.device)

    def predict(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_masked = labels != conf.padding_token
        return model(x)[is_masked], labels[is_masked]

    return Side(conf, clock, labml_nn_step(conf, model), model, predict)


def hugging_faces(conf: MLMConfigs, clock: Clock, kind: str, peak: float) -> Side:
    """One of Hugging Face's."""
    model = hugging_face(conf, kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, fused=True)
    step_at_peak = hugging_face_step(conf, model, optimizer)

    def step(batch: Tensor):
        for group in optimizer.param_groups:
            group['lr'] = peak * min(clock.share() / 0.1 + 1e-3, (1 - clock.share()) / 0.9)
        step_at_peak(batch)

    def predict(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        is_masked = (labels != conf.padding_token).T
        return model(input_ids=x.T.contiguous()).logits[is_masked], labels.T[is_masked]

    return Side(conf, clock, step, model, predict)


def make(name: str, size: str, seed: int, budget: float, overrides: dict[str, str], text: dict[str, str]) -> Side:
    """A side, by name. Raises `ImportError` if it takes what is not there."""
    torch.manual_seed(seed)
    clock = Clock(budget)
    conf = configs(size, seed, clock, {**text, **overrides})
    if name == 'labml_nn':
        return labml_nn(conf, clock)
    theirs, _, peak = name.partition(' at ')
    if theirs in HUGGING_FACE:
        return hugging_faces(conf, clock, HUGGING_FACE[theirs], float(peak or PEAK))
    return ours(conf, clock)


def known(size: str) -> dict[str, dict[str, str]]:
    """All sides, and what they override: of ours, one thing at a time."""
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
    """Has all train for as long, by turns."""
    looks = [share * budget for share in LOOKS]
    ends = sorted({*looks, *(TURN * i for i in range(1, int(budget / TURN) + 1))})
    for end in ends:
        for side in sides.values():
            side.train(end)
            if end in looks:
                side.validate(masked)


def table(curves: dict[str, list[list[Point]]], budget: float) -> str:
    """Accuracy over time, and what is reached in the end."""
    looks = [f'{share * budget:.0f} s' for share in LOOKS]
    lines = [f'{"masked accuracy after":26}' + ''.join(f'{look:>8}' for look in looks)
             + f'{"±":>8}{"loss":>8}{"±":>8}{"tokens":>12}']
    for name, of_seeds in curves.items():
        ends = [points[-1] for points in of_seeds]
        line = ''.join(f'{statistics.mean(points[i].accuracy for points in of_seeds):8.3f}' for i in range(len(LOOKS)))
        accuracy, loss = [point.accuracy for point in ends], [point.loss for point in ends]
        lines.append(f'{name:26}{line}{spread(accuracy):8.3f}{statistics.mean(loss):8.3f}{spread(loss):8.3f}'
                     f'{statistics.mean(point.tokens for point in ends):12,.0f}')
    return '\n'.join(lines)


def spread(values: list[float]) -> float:
    """Half of what lies between the least and the greatest."""
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
            for i, (name, of_seeds) in enumerate(curves.items()):
                xs, ys = ([statistics.mean(getattr(point, of) for point in points)
                           for points in zip(*of_seeds, strict=True)] for of in (x, value))
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
                        help='items that give the text and its tokens')
    parser.add_argument('--seconds', type=float, default=90., help='of training, of each side')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--sides', nargs='*', metavar='NAME', help='of those above; all, unless given')
    parser.add_argument('--side', action='append', default=[], metavar='NAME: NAME=VALUE ...', help='another of ours')
    parser.add_argument('--json', help='a file for the figures')
    parser.add_argument('--plot', help='a PNG for the figures')
    arguments = parser.parse_args()
    screen.set_up()
    all_sides = known(arguments.size)
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
                print(f'{name} is left out: {e}')
            except (UserError, OSError) as e:
                parser.error(str(e))
        conf = configs(arguments.size, 1, Clock(1.), text)
        # Of a long text some batches from all over it
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
