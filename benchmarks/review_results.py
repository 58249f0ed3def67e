"""
# The figures of `reviews.py`: kept in a file, and shown as tables
"""
import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from review_runs import PRETRAINING, pretrain, seconds
from review_sides import Job, Outcome, Setting

from labml_mlm.common.files import write_atomically


class Side(NamedTuple):
    """A way to label texts."""
    title: str
    measure: Callable[[Job], Outcome]
    # Those that it is for
    data_sets: tuple[str, ...]
    is_trained: bool = True
    # Does a seed change more than which rows it learns from?
    is_random: bool = False
    is_ours: bool = False

    def items(self, setting: Setting) -> list[str]:
        """Those of the command line that its figures depend on."""
        return [*setting.pretraining, *setting.fine_tuning] if self.is_ours else []


class Results:
    """The figures in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.content: dict[str, Any] = {'about': [], 'outcomes': [], 'turns': []}
        if path.exists():
            self.content = json.loads(path.read_text())
        about = (f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
                 f'{torch.get_num_threads()} threads')
        self.content['about'] = sorted({*self.content['about'], about})

    def find(self, part: str, **what: Any) -> list[dict[str, Any]]:
        """The rows of a part that have these values."""
        return [row for row in self.content[part] if all(row[name] == value for name, value in what.items())]

    def add(self, part: str, row: dict[str, Any]):
        """Adds a row and writes the file."""
        self.content[part].append(row)
        write_atomically(self.path, json.dumps(self.content, indent=1).encode())


def mean(values: list[float]) -> str:
    """Of several, with half the difference between the highest and the lowest."""
    spread = f' ±{(max(values) - min(values)) / 2:.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.3f}{spread}' if values else ''


def table(results: Results, setting: Setting, *, sides: dict[str, Side], data: str, is_regression: bool,
          sizes: list[int | None], on: str):
    """Prints how right the sides are that learned from `data`, on the held-out rows of `on`."""
    print(f'\n{"" if on == data else f"{data} → "}{on}, {"Spearman" if is_regression else "accuracy"}\n')
    print(f'{"":30}' + ''.join(f'{n or "all":>14}' for n in sizes) + f'{"min":>8}{"before":>8}')
    for name, side in sides.items():
        cells, minutes = [], ''
        for n in sizes:
            found = results.find('outcomes', side=name, data=data, is_regression=is_regression,
                                 items=side.items(setting), **{'n': n} if side.is_trained else {})
            cells.append(mean([outcome['values'][on] for outcome in found if on in outcome['values']]))
            if found:
                minutes = f'{statistics.mean(outcome["seconds"] for outcome in found) / 60:.1f}'
        before = f'{seconds(pretrain(setting, data, name)) / 60:.1f}' if name in PRETRAINING else ''
        print(f'{side.title:30}' + ''.join(f'{cell:>14}' for cell in cells) + f'{minutes:>8}{before:>8}')


def turn_table(turns: list[dict[str, Any]]) -> str:
    """The rounds of the loop and ours with the same numbers of labels."""
    lines = [f'\n{"labels":>8}{"round":>7}{"loop":>8}{"ours":>8}{"loop, s":>10}{"ours, s":>10}{"ratio":>8}'
             f'{"with validations, s":>23}']
    for turn in turns:
        (theirs, slow, slow_whole), (ours, fast, fast_whole) = turn['loop'], turn['ours']
        lines.append(f'{turn["n"] or "all":>8}{turn["seed"]:7}{theirs:8.3f}{ours:8.3f}{slow:10.1f}{fast:10.1f}'
                     f'{fast / slow:8.2f}{slow_whole:13.1f}{fast_whole:10.1f}')
    accuracy = {name: mean([turn[name][0] for turn in turns]) for name in ('loop', 'ours')}
    ratio = statistics.median(turn['ours'][1] / turn['loop'][1] for turn in turns)
    return '\n'.join([*lines, f'loop {accuracy["loop"]}, ours {accuracy["ours"]}; median ratio of times {ratio:.2f}'])
