"""
# Curves as a part of a page

The lines are SVG that is stretched to the width there is; strokes keep their width, and a point is a line of no length
with a round end. All texts are HTML over it, which stays as large on a phone as elsewhere.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

from labml_mlm.common.page import escaped
from labml_mlm.runs.plot import Curve, bin_means

# Units of the drawing, each way
_SIZE = 1000
# Lines of the grid, about
_TICKS = 5
# Colours of runs, for light and dark; then they come again
N_COLOURS = 8
# Points of all runs that have a text, which is shown to a pointer
_MAX_TITLES = 400
# Share of the height between two labels of lines
_LABEL = 0.055

STYLE = '''
.chart { position: relative; height: 19em; margin: .5em 1em 2.6em 3.2em; border: solid #8888; border-width: 0 0 1px 1px;
  break-inside: avoid; font-variant-numeric: tabular-nums; }
.chart svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.chart path { fill: none; vector-effect: non-scaling-stroke; stroke-linecap: round; stroke-linejoin: round; }
.chart .grid { stroke: #8883; } .chart .train { stroke-width: 1.2; opacity: .55; } .chart .valid { stroke-width: 1.8; }
.chart .old { stroke-width: 1.8; stroke-dasharray: 2 5; } .chart .point { stroke-width: 6; }
.chart .baseline { stroke: currentColor; stroke-dasharray: 6 4; opacity: .65; }
.chart span { position: absolute; font-size: .75em; line-height: 1; white-space: nowrap; opacity: .85; }
.chart .y { right: 100%; margin-right: .5em; transform: translateY(-50%); }
.chart .x { top: 100%; margin-top: .5em; transform: translateX(-50%); }
.chart .unit { top: 100%; right: 0; margin-top: 2em; }
.chart .line { right: .3em; transform: translateY(-115%); padding: 0 .2em;
  background: color-mix(in srgb, Canvas 65%, transparent); }
'''


class Series(NamedTuple):
    """The curves of a run in a panel."""
    name: str
    train: Curve
    valid: Curve
    old: Curve


class _Scale(NamedTuple):
    low: float
    high: float

    def __call__(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def chart(series: Sequence[Series], *, baselines: Sequence[tuple[str, float]], n_points: int) -> str:
    """
    The curves of runs as HTML; the run `i` has the class `run-i`. Steps without a number are left out.

    * `baselines` are horizontal lines, with their names
    * `n_points` is how many points a curve may have; more are means of neighbours, as `labml-mlm plot` has them
    """
    thinned = [Series(one.name, *(_thinned(curve, n_points) for curve in one[1:])) for one in series]
    points = [point for one in thinned for curve in one[1:] for point in curve]
    values = [value for _, value in [*points, *baselines]]
    is_titled = sum(len(one.valid) for one in thinned) <= _MAX_TITLES
    x, y = _scale([0, *(step for step, _ in points)]), _scale(values, margin=0.04)
    return f'''<div class="chart"><svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" aria-hidden="true">
<path class="grid" d="{''.join(f'M0 {_down(y(tick))}H{_SIZE}' for tick in _ticks(y))}"/>
{''.join(f'<path class="baseline" d="M0 {_down(y(value))}H{_SIZE}"/>' for _, value in baselines)}
{''.join(_drawn(one, f'run-{i % N_COLOURS}', x, y, is_titled=is_titled) for i, one in enumerate(thinned))}
</svg>{''.join(f'<span class="y" style="top: {_percent(1 - y(tick))}">{_number(tick)}</span>' for tick in _ticks(y))}
{''.join(f'<span class="x" style="left: {_percent(x(tick))}">{_number(tick)}</span>' for tick in _ticks(x))}
<span class="unit">training tokens</span>
{_labels(baselines, y)}</div>'''


def _drawn(one: Series, colour: str, x: _Scale, y: _Scale, *, is_titled: bool) -> str:
    lines = ''.join(f'<path class="{kind} {colour}" d="{_line(curve, x, y)}"/>'
                    for kind, curve in zip(('train', 'valid', 'old'), one[1:], strict=True) if curve)
    if not is_titled:
        points = ''.join(f'M{_at(x(step))} {_down(y(value))}h0' for step, value in one.valid)
        return f'{lines}<path class="point {colour}" d="{points}"/>'
    return lines + ''.join(
        f'<path class="point {colour}" d="M{_at(x(step))} {_down(y(value))}h0"><title>'
        f'{escaped(one.name)}: {value:.4f} at {step:,.0f} tokens</title></path>' for step, value in one.valid)


def _line(curve: Curve, x: _Scale, y: _Scale) -> str:
    return 'M' + 'L'.join(f'{_at(x(step))} {_down(y(value))}' for step, value in curve)


def _labels(baselines: Sequence[tuple[str, float]], y: _Scale) -> str:
    """The names of the horizontal lines, above them, and further up where two would meet."""
    spans, last = [], -math.inf
    for name, value in sorted(baselines, key=lambda line: line[1]):
        last = max(y(value), last + _LABEL)
        spans.append(f'<span class="line" style="top: {_percent(1 - last)}">{escaped(name)} {value:.3f}</span>')
    return ''.join(spans)


def _thinned(curve: Curve, n: int) -> Curve:
    return bin_means([(step, value) for step, value in curve if math.isfinite(value)], n=n)


def _scale(values: Sequence[float], *, margin: float = 0.) -> _Scale:
    low, high = min(values, default=0.), max(values, default=1.)
    room = (high - low) * margin or (0 if high > low else 1)
    return _Scale(low - room, high + room)


def _ticks(scale: _Scale) -> list[float]:
    """Round numbers within a scale."""
    size = (scale.high - scale.low) / _TICKS
    power = 10 ** math.floor(math.log10(size))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= size)
    return [step * i for i in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]


def _at(share: float) -> str:
    return f'{share * _SIZE:.0f}'


def _down(share: float) -> str:
    """Downwards, as SVG counts."""
    return f'{(1 - share) * _SIZE:.0f}'


def _percent(share: float) -> str:
    return f'{100 * share:.1f}%'


def _number(value: float) -> str:
    """A short one for an axis: 250k, 1.5M, 0.35."""
    for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if abs(value) >= size:
            return f'{value / size:g}{unit}'
    return f'{round(value, 10):g}'
