"""
# What the live view shows

    epoch 2/4   step 834/2,072   training   19,300 tokens/s
    ━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  40% 1:23 elapsed, 2:05 left
              loss   accuracy
    train   1.4432     0.5741
    valid   1.3721     0.5983
    lr 0.0021   masking_prob 0.2400   seq_len 32
    guess  unigram 3.3571  bigram 2.4937  neighbours 2.0718

The last line has the losses of guesses without a model, to compare that of the model with. Where there is room, a plot
of the loss stands below or to the right. Lines are never wider than the terminal, and there are fewer of them than it
has.
"""
import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from labml_mlm.screen.console import number
from labml_mlm.screen.curve import Curve, draw

# Rows of the table of metrics, by the ends of their names: of training, of the last validation, and of old text
_ROWS = 'train', 'valid', 'old'
# Columns from which on there is a plot, below the figures and beside them
_BELOW, _BESIDE = 60, 100
# Lines of the plot, and those that a terminal has where it stands below
_PLOT_HEIGHT, _MIN_HEIGHT = 5, 18
# Columns of the figures with a plot beside them
_FIGURES = 56
_GAP = '   '
# Steps, of the mean of a metric of training
_WINDOW = 20


class Frame:
    """
    ## The metrics of a run and how far it is, drawn in the size of a terminal

    Metrics of training are smoothed; those of a validation are the last ones.
    """

    def __init__(self, *, is_ascii: bool = False):
        self.epoch = self.end_epoch = 0
        self.steps, self.steps_left = 0, 0.
        # What it does now, with the fraction that is done: `training`, `validation`
        self.phase = ''
        self.fraction: float | None = None
        # How long the phase has taken, if it has a clock
        self.phase_seconds: float | None = None
        self.elapsed = 0.
        self.left: float | None = None
        self.metrics: dict[str, float] = {}
        # Losses of guesses without a model, by name
        self.guesses: dict[str, float] = {}
        # Values of each one, for the mean
        self._n: dict[str, int] = {}
        self._curve = Curve()
        # Without block characters there is no plot
        self._is_ascii = is_ascii
        self._bar = Progress(BarColumn(None), TaskProgressColumn(), TextColumn('{task.fields[times]}'), expand=True)
        self._task = self._bar.add_task('', times='')

    def add(self, name: str, value: float):
        """Adds a value of a metric."""
        before = self.metrics.get(name, math.nan)
        # From anew after a value that is not finite
        self._n[name] = self._n.get(name, 0) + 1 if math.isfinite(before) else 1
        is_smoothed = name.endswith('.train') or name == 'tokens_per_second'
        if is_smoothed and self._n[name] > 1:
            self.metrics[name] = before + (value - before) / min(self._n[name], _WINDOW)
        else:
            self.metrics[name] = value
        if name == 'loss.train':
            self._curve.add(value)

    def draw(self, width: int, height: int) -> RenderableType:
        """All of it, for a terminal of a size."""
        # Another thread adds to them
        metrics = dict(self.metrics)
        head = [_joined(self.facts(metrics), width), self._progress(width)]
        figures = self._figures(metrics, min(width, _FIGURES))
        is_plotted = not self._is_ascii and len(self._curve.points) > 1
        if is_plotted and width >= _BESIDE:
            plot = self._plot(width - _FIGURES)
            figures += [Text()] * (len(plot) - len(figures))
            plot += [Text()] * (len(figures) - len(plot))
            for line in figures:
                line.truncate(_FIGURES, pad=True)
            figures = [line + beside for line, beside in zip(figures, plot, strict=True)]
        elif is_plotted and width >= _BELOW and height >= _MIN_HEIGHT:
            figures += self._plot(width)
        return Group(*head, *(_cut(line, width) for line in figures))

    def facts(self, metrics: dict[str, float]) -> list[tuple[str, str]]:
        """Names and values: how far it is, what it does and how fast, the most important first."""
        parts = [('epoch ', f'{self.epoch + 1}/{self.end_epoch}'),
                 ('step ', f'{self.steps:,}/{self.steps + self.steps_left:,.0f}')]
        if self.phase and (seconds := self.phase_seconds) is not None:
            # Long work is what matters then, on a narrow terminal, too
            parts.insert(0, (self.phase, f' {duration(seconds)}'))
        elif self.phase:
            parts.append((self.phase, '' if self.fraction is None else f' {self.fraction:.0%}'))
        if 'tokens_per_second' in metrics:
            parts.append(('', f'{number(metrics["tokens_per_second"])} tokens/s'))
        return parts

    def _progress(self, width: int) -> RenderableType:
        elapsed, left = duration(self.elapsed), None if self.left is None else f'{duration(self.left)} left'
        times = f'{elapsed} elapsed' if width >= _BELOW or left is None else elapsed
        if left:
            times += f', {left}'
        self._bar.update(self._task, completed=self.steps, total=max(1., self.steps + self.steps_left), times=times)
        return self._bar.get_renderable()

    def _figures(self, metrics: dict[str, float], width: int) -> list[Text]:
        columns, rows = rows_of(metrics)
        # Enough for `-1.23e-04`
        widths = [max(len(name), 9) for name in columns]
        lines = [Text('     ' + ''.join(f'  {name:>{n}}' for name, n in zip(columns, widths, strict=True)), 'dim')]
        for row, values in rows.items():
            cells = [number(values[name]) if name in values else '' for name in columns]
            numbers = ''.join(f'  {cell:>{n}}' for cell, n in zip(cells, widths, strict=True))
            lines.append(Text.assemble((f'{row:5}', 'dim'), (numbers, 'bold' if row == 'valid' else '')))
        others = summary_of_others(metrics)
        lines = (lines if columns else []) + ([_joined(others)] if others else [])
        if self.guesses:
            guesses = [(f'{name} ', number(loss)) for name, loss in self.guesses.items()]
            lines.append(Text.assemble(('guess  ', 'dim'), _joined(guesses, width - len('guess  '), gap='  ')))
        return lines

    def _plot(self, width: int) -> list[Text]:
        values = self._curve.resampled(width - 9)
        lines = draw(values, height=_PLOT_HEIGHT)
        labels = {0: number(max(values)), _PLOT_HEIGHT // 2: 'loss', _PLOT_HEIGHT - 1: number(min(values))}
        return [Text.assemble((f'{labels.get(i, ""):>7.7} ', 'dim'), (line, 'cyan')) for i, line in enumerate(lines)]


def rows_of(metrics: dict[str, float]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The table of metrics: names of its columns, and by name of a row its values by column."""
    rows = {row: {name.removesuffix(f'.{row}'): value for name, value in metrics.items() if name.endswith(f'.{row}')}
            for row in _ROWS}
    return list(dict.fromkeys(name for row in rows.values() for name in row)), \
        {row: values for row, values in rows.items() if values}


def summary_of_others(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Names and values of those that the table does not have."""
    return [(f'{name} ', f'{value:,.0f}' if value >= 1 and value % 1 == 0 else number(value))
            for name, value in metrics.items()
            if name.rpartition('.')[2] not in _ROWS and name != 'tokens_per_second']


def summary(metrics: dict[str, float], *, steps: int, width: int) -> str:
    """A line on a validation, as long as the screen is wide at most, the most important first."""
    parts = [f'step {steps:,}']
    for row in ('valid', 'train', 'old'):
        parts += [f'{name} {number(value)}' for name, value in metrics.items() if name.endswith(f'.{row}')]
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += f'  {part}'
    return line


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def _joined(parts: Sequence[tuple[str, str]], width: int | None = None, *, gap: str = _GAP) -> Text:
    """Names and values in a line, as many as fit."""
    line = Text()
    for name, value in parts:
        before = gap if line else ''
        if width is not None and line.cell_len + len(before + name + value) > width:
            break
        line.append(before).append(name, 'dim').append(value)
    return line


def _cut(line: Text, width: int) -> Text:
    line.truncate(width)
    return line
