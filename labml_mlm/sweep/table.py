"""
# The table of a sweep

A row for each combination of values, with the mean over its seeds and their spread, the sample standard deviation.
"""
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from labml_mlm.sweep.runner import Outcome


class Figure(NamedTuple):
    """A figure of several runs."""
    mean: float
    # Sample standard deviation; `None` of one run
    spread: float | None


class Row(NamedTuple):
    """A combination of values."""
    # Of the items that differ
    values: dict[str, str]
    # Runs, and how many of them are complete
    n_runs: int
    n_completed: int
    # Of those that are complete; `None` if none is
    loss: Figure | None
    accuracy: Figure | None
    seconds: Figure | None

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        figures = {'loss.valid': self.loss, 'accuracy.valid': self.accuracy, 'seconds': self.seconds}
        return {'values': self.values, 'runs': self.n_runs, 'completed': self.n_completed,
                **{name: figure and figure._asdict() for name, figure in figures.items()}}


def rows_of(outcomes: Iterable[Outcome], varied: Sequence[str]) -> list[Row]:
    """Rows by ascending loss; those without one at the end."""
    groups: dict[tuple, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(tuple(outcome.values[name] for name in varied), []).append(outcome)
    rows = []
    for values, group in groups.items():
        done = [outcome for outcome in group if outcome.status == 'completed']
        rows.append(Row(dict(zip(varied, values, strict=True)), len(group), len(done),
                        *(_figure(getattr(one, name) for one in done) for name in ('loss', 'accuracy', 'seconds'))))
    return sorted(rows, key=lambda row: row.loss.mean if row.loss else math.inf)


def printable_rows(rows: Sequence[Row], varied: Sequence[str]) -> list[list[str]]:
    """The table as texts, with a heading."""
    shown = [[*varied, 'runs', 'loss.valid', 'accuracy.valid', 'time']]
    for row in rows:
        n = f'{row.n_runs}' if row.n_completed == row.n_runs else f'{row.n_completed} of {row.n_runs}'
        shown.append([*row.values.values(), n, _shown(row.loss), _shown(row.accuracy),
                      time_text(row.seconds and row.seconds.mean)])
    return shown


def time_text(seconds: float | None) -> str:
    """Seconds in words: 0.5 s, 12 s, 3.4 min, 2.1 h."""
    if seconds is None:
        return '-'
    if seconds < 60:
        return f'{seconds:.{0 if seconds >= 10 else 1}f} s'
    return f'{seconds / 60:.1f} min' if seconds < 3600 else f'{seconds / 3600:.1f} h'


def _figure(values: Iterable[float | None]) -> Figure | None:
    values = list(values)
    if not values or None in values:
        return None
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return '-'
    return f'{figure.mean:.4f}' + ('' if figure.spread is None else f' ± {figure.spread:.4f}')
