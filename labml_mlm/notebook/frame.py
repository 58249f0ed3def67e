"""
# What the view of a notebook shows

The facts of the live view on a terminal, `live_frame`, as HTML: how far the run is, a bar, a table of metrics, and a
plot of the loss in training and at validations. The plot is SVG without scripts, of a bounded size; colours are for
light and dark pages.
"""
import html
import math
from collections.abc import Sequence

from labml_mlm.screen.console import number
from labml_mlm.screen.live_frame import Frame, duration, rows_of, summary_of_others

# Pixels, and those left of the plot for labels and below it
_WIDTH, _HEIGHT, _LEFT, _BELOW = 640, 220, 64, 24
# Points of a curve that are drawn
_MAX_POINTS = 256
_TRAIN, _VALID = '#3b82f6', '#e8590c'
_STYLE = 'font-family: monospace; margin-top: .5em'
_CELL = 'padding: 0 .8em 0 0; text-align: right; border: none; background: none'


class NotebookFrame(Frame):
    """## The metrics of a run and how far it is, as HTML"""

    def __init__(self):
        super().__init__()
        # Steps of the first and the last point of the curve of training, and the losses of validations by step
        self._first_step: int | None = None
        self._last_step = 0
        self._valid: list[tuple[int, float]] = []

    def add(self, name: str, value: float):
        """Adds a value of a metric."""
        super().add(name, value)
        if name == 'loss.train':
            self._first_step = self.steps if self._first_step is None else self._first_step
            self._last_step = self.steps
        elif name == 'loss.valid' and math.isfinite(value):
            self._valid.append((self.steps, value))

    def draw(self, width: int, height: int) -> str:
        """All of it."""
        metrics = dict(self.metrics)
        return f'<div style="{_STYLE}">{_line(self.facts(metrics))}{self._times()}'\
            f'{_table(metrics)}{self._guesses()}{self._svg()}</div>'

    def _times(self) -> str:
        total = max(1., self.steps + self.steps_left)
        done = min(1., self.steps / total)
        times = f'{duration(self.elapsed)} elapsed' + ('' if self.left is None else f', {duration(self.left)} left')
        return (f'<div><progress max="1" value="{done:.4f}" style="width: 24em; max-width: 60%"></progress> '
                f'{done:.0%} {times}</div>')

    def _guesses(self) -> str:
        guesses = [(f'{name} ', number(loss)) for name, loss in self.guesses.items()]
        return _line([('guess', ''), *guesses]) if guesses else ''

    def _svg(self) -> str:
        train = self._curve.resampled(min(_MAX_POINTS, len(self._curve.points)))
        # Steps of its points, evenly spaced
        first, last = self._first_step or 0, self._last_step
        train = [(first + (last - first) * i / max(1, len(train) - 1), value) for i, value in enumerate(train)]
        valid = self._valid[-_MAX_POINTS:]
        if len(train) < 2:
            return ''
        values = [value for _, value in (*train, *valid)]
        low, high, end = min(values), max(values), max(step for step, _ in (*train, *valid)) or 1.
        span = (high - low) or 1.

        def at(step: float, value: float) -> str:
            return (f'{_LEFT + step / end * (_WIDTH - _LEFT - 8):.1f},'
                    f'{8 + (high - value) / span * (_HEIGHT - _BELOW - 16):.1f}')

        lines = [_grid(at(0, value), number(value)) for value in (high, (high + low) / 2, low)]
        lines.append(_curve([at(*point) for point in train], _TRAIN))
        if valid:
            points = [at(*point) for point in valid]
            lines.append(_curve(points, _VALID))
            lines += [f'<circle cx="{x}" cy="{y}" r="3" fill="{_VALID}"/>' for x, y in
                      (point.split(',') for point in points)]
        legend = [f'<tspan fill="{_TRAIN}">loss.train</tspan>',
                  *([f'<tspan fill="{_VALID}" dx="12">loss.valid</tspan>'] if valid else [])]
        lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}" font-size="12" fill="currentColor">{"".join(legend)}</text>')
        lines.append(f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" font-size="12" text-anchor="end" fill="currentColor">'
                     f'step {end:,.0f}</text>')
        return (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss by step" '
                f'style="width: {_WIDTH}px; max-width: 100%; display: block; margin-top: .5em">{"".join(lines)}</svg>')


def _grid(at: str, label: str) -> str:
    x, y = at.split(',')
    return (f'<line x1="{x}" x2="{_WIDTH - 8}" y1="{y}" y2="{y}" stroke="currentColor" stroke-opacity=".15"/>'
            f'<text x="{_LEFT - 6}" y="{y}" dy="4" font-size="12" text-anchor="end" fill="currentColor">{label}</text>')


def _curve(points: Sequence[str], colour: str) -> str:
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _line(parts: Sequence[tuple[str, str]]) -> str:
    return '<div>' + ' &nbsp; '.join(f'{html.escape(name)}<b>{html.escape(value)}</b>' for name, value in parts) \
        + '</div>'


def _table(metrics: dict[str, float]) -> str:
    columns, rows = rows_of(metrics)
    lines = []
    if columns:
        lines.append(''.join(f'<td style="{_CELL}; opacity: .75">{html.escape(name)}</td>' for name in ('', *columns)))
    for row, values in rows.items():
        cells = [row, *(number(values[name]) if name in values else '' for name in columns)]
        lines.append(''.join(f'<td style="{_CELL}">{html.escape(cell)}</td>' for cell in cells))
    table = ''.join(f'<tr style="background: none">{line}</tr>' for line in lines)
    others = summary_of_others(metrics)
    return (f'<table style="border: none; margin: .3em 0">{table}</table>' if table else '') \
        + (_line(others) if others else '')
