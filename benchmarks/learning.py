r"""
# How fast models learn: labml_nn's recipe, Hugging Face's, and ours with and without each ingredient

    python benchmarks/learning.py [--size tiny] [--text tiny_shakespeare] [--seconds 90 | --tokens N] [--seeds 3]
                                  [--cpu-time] [--sides NAME ...] [--side 'NAME: name=value ...'] [--json FILE]
                                  [--plot FILE]

All sides train for the same time, or on the same number of tokens, in one process, alternating every few seconds. Only
a side's own training counts: data loading, masking and updates, without validation. Schedules that have an end follow
the fraction of the budget that is used. All sides are validated on the same windows, with the same 15% of the tokens
masked. Figures are means over seeds (of weights, order and masks), ± half the difference between the highest and the
lowest.

* `labml_nn` is the recipe of its MLM experiment: its modules, initialization, masking, dropout and Noam.
* `HF BERT` and `HF ModernBERT` are Hugging Face's models without dropout, trained with AdamW, weight decay 0.01,
  warm-up over the first tenth and then linear decay to 0. Their peak is 2e-3, because such small models learn less
  with 5e-4 or 1e-3 (another peak: `--side 'HF ModernBERT at 5e-4:'`).
* `ours` has the defaults of `MLMConfigs`: fused AdamW at 2e-3, 100 warm-up steps, cosine decay, and 15% of single
  tokens masked. The sides after it change one thing each.
* `char_labml_nn_size` is the recipe of that name: what wins at labml_nn's size. `char` is the recipe of
  `experiments/char_mlm.py`: the same with three layers.

`--side` adds a side of ours with other overrides. Nothing is compiled: in so short a time it would not pay off.
`--cpu-time` counts the process's CPU time in place of the time that passes, with one thread: on a machine that others
use as well, that is what a side's work costs. 180 seconds of it are about 90 of two threads.
"""
import argparse
import itertools
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from learning_sides import Budget, Clock, Point, Side, configs, make
from step import HUGGING_FACE, SIZES
from torch import Tensor

from labml_mlm.common.exit import exit_on_error
from labml_mlm.items.recipes import RECIPES
from labml_mlm.screen import console

# Recipes that are sides
_RECIPES = 'char_labml_nn_size', 'char'
# Fractions of the budget at which all sides are validated
VALIDATE_AT = 0.09, 0.22, 0.44, 0.67, 1.
# Approximate size of the validation set
VALID_TOKENS = 100_000
# How often sides take turns in a budget of seconds, and in one of tokens
TURN = {'seconds': 4., 'tokens': 65_536.}


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
        **{name: {item: str(value) for item, value in RECIPES[name].items()} for name in _RECIPES},
    }


def race(sides: dict[str, Side], budget: Budget, masked: list[tuple[Tensor, Tensor]]):
    """Trains all sides until they have used the budget, in alternation."""
    validations, turn = [fraction * budget.amount for fraction in VALIDATE_AT], TURN[budget.unit]
    ends = sorted({*validations, *(turn * i for i in range(1, int(budget.amount / turn) + 1))})
    for end in ends:
        for side in sides.values():
            side.train(end)
            if end in validations:
                side.validate(masked)


def table(curves: dict[str, list[list[Point]]], budget: Budget) -> str:
    """Accuracy over time or tokens, the final accuracy and loss, and what was used of the other."""
    is_time = budget.unit == 'seconds'
    marks = [f'{fraction * budget.amount:.0f} s' if is_time else f'{fraction * budget.amount / 1e6:.2f} M'
             for fraction in VALIDATE_AT]
    lines = [f'{"masked accuracy after":26}' + ''.join(f'{at:>8}' for at in marks)
             + f'{"±":>8}{"loss":>8}{"±":>8}' + (f'{"tokens":>12}' if is_time else f'{"seconds":>12}')]
    for name, seeds in curves.items():
        ends = [points[-1] for points in seeds]
        means = [statistics.mean(points[i].accuracy for points in seeds) for i in range(len(VALIDATE_AT))]
        accuracy, loss = [point.accuracy for point in ends], [point.loss for point in ends]
        other = statistics.mean(point.tokens if is_time else point.seconds for point in ends)
        lines.append(f'{name:26}' + ''.join(f'{mean:8.3f}' for mean in means)
                     + f'{spread(accuracy):8.3f}{statistics.mean(loss):8.3f}{spread(loss):8.3f}{other:12,.0f}')
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


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--size', choices=['tiny', 'mini'], default='tiny')
    parser.add_argument('--text', nargs='+', default=['text=tiny_shakespeare'], metavar='NAME=VALUE',
                        help='overrides of the text and its tokenizer')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--seconds', type=float, default=90., help='training time of each side')
    length.add_argument('--tokens', type=int, help='training tokens of each side, in place of a time')
    parser.add_argument('--cpu-time', action='store_true', help='count CPU time, with one thread')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--sides', nargs='*', metavar='NAME', help='by default all')
    parser.add_argument('--side', action='append', default=[], metavar='NAME: NAME=VALUE ...',
                        help='a side of ours with other overrides')
    parser.add_argument('--json', help='a file for the figures')
    parser.add_argument('--plot', help='a PNG for the figures')
    arguments = parser.parse_args()
    all_sides = known_sides(arguments.size)
    if unknown := set(arguments.sides or ()) - set(all_sides):
        parser.error(f'{", ".join(unknown)}: the sides are {", ".join(all_sides)}')
    arguments.wanted = {name: all_sides[name] for name in all_sides
                        if arguments.sides is None or name in arguments.sides}
    for side in arguments.side:
        name, _, overrides = side.partition(':')
        arguments.wanted[name] = dict(override.split('=', 1) for override in overrides.split())
    return arguments


def measure(arguments: argparse.Namespace, budget: Budget) -> dict[str, list[list[Point]]]:
    """The curves of all sides, one of each seed. Raises `UserError` for a side that cannot be trained."""
    text = dict(item.split('=', 1) for item in arguments.text)
    curves: dict[str, list[list[Point]]] = {}
    for seed in range(1, arguments.seeds + 1):
        sides = {}
        for name, overrides in arguments.wanted.items():
            try:
                sides[name] = make(name, arguments.size, seed, budget, overrides, text)
            except ImportError as e:
                print(f'Skipping {name}: {e}')
        conf = configs(arguments.size, 1, Clock(budget), text)
        # Some batches from all over a long text
        every = max(1, len(conf.valid_tokens) // VALID_TOKENS)
        masked = [conf.valid_mlm(batch.to(conf.device))
                  for batch in itertools.islice(conf.valid_loader, 0, None, every)]
        race(sides, budget, masked)
        for name, side in sides.items():
            curves.setdefault(name, []).append(side.points)
    return curves


def main():
    """Prints a table."""
    arguments = parse()
    console.set_up()
    if arguments.cpu_time:
        torch.set_num_threads(1)
    budget = Budget(arguments.tokens or arguments.seconds, 'tokens' if arguments.tokens else 'seconds',
                    time.process_time if arguments.cpu_time else time.perf_counter)
    curves = measure(arguments, budget)
    about = (f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
             f'{torch.get_num_threads()} threads' + (', CPU time' if arguments.cpu_time else ''))
    length = f'{budget.amount / 1e6:.2f} million tokens' if arguments.tokens else f'{budget.amount:.0f} s of training'
    print(f'\n{about}\n{arguments.size}: {length}, {arguments.seeds} seeds; means\n')
    print(table(curves, budget))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({'about': about, 'size': arguments.size, 'curves': curves,
                                                    'sides': arguments.wanted}, indent=1))
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == '__main__':
    with exit_on_error():
        main()
