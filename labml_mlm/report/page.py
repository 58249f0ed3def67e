"""
# The page of a report

One file, for any browser: it asks for no network, follows light and dark of the system, fits a phone, and prints. A run
has a colour and a number, which its curves, its row and its columns share.
"""
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labml_mlm.common.page import escaped, whole_page
from labml_mlm.common.table import size_text
from labml_mlm.report import chart, samples
from labml_mlm.report.gather import RunData

_PANELS = {'loss': ('Loss', 'nats per masked token'), 'accuracy': ('Accuracy', 'share of masked tokens')}
_FINE_TUNED = {'loss': ('Loss', ''), 'accuracy': ('Accuracy', 'of labels')}
# Points of a curve: at least, at most, and of all training curves of a panel
_MIN_POINTS, _MAX_POINTS, _ALL_POINTS = 30, 100, 400
# Characters of a value, and rows of a table
_MAX_TEXT, _MAX_ROWS = 160, 200
# Of runs, in light and in dark: blue, orange, green, red, purple, brown, pink, teal
_COLOURS = ('#1f6fb4', '#d9660a', '#2a8a35', '#c62b2c', '#7d52ab', '#84564a', '#c0479f', '#0c8593'), \
    ('#6db3f2', '#ffa04d', '#6ccf76', '#ff7b7b', '#bd9bea', '#c8978a', '#f28fd8', '#4ccbd8')
_STYLE = '''
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76em; padding: 1em; font: 1rem/1.5 system-ui, sans-serif; background: Canvas;
  color: CanvasText; }
h1 { font-size: 1.4em; margin: 0; } h2 { font-size: 1.15em; margin: 1.6em 0 .4em; }
h3 { font-size: 1em; margin: 1.2em 0 .3em; } h2, h3 { break-after: avoid; }
.about { font-size: .85em; opacity: .8; margin: .2em 0; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #d9660a; padding: .3em .8em; margin: .6em 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .4em 0 1em; }
table { border-collapse: collapse; font-size: .88em; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; } th, td { padding: .25em .9em .25em 0; vertical-align: top; }
tr + tr > * { border-top: 1px solid #8884; }
td { overflow-wrap: anywhere; } .plain td { white-space: nowrap; }
.items td { min-width: 6em; max-width: 24em; }
/* The names of rows stay where columns move away */
.wide th:first-child { position: sticky; left: 0; background: Canvas; }
.run { white-space: nowrap; }
@media (min-width: 40em) { .wide th:first-child { white-space: nowrap; } wbr { display: none; } }
@media (max-width: 40em) { :is(.plain, .items) th:first-child { min-width: 8em; overflow-wrap: anywhere; } }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27em), 1fr)); gap: 0 2.5em; }
.columns > * { min-width: 0; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .45em;
  background: var(--run); }
@media print { body { max-width: none; padding: 0; font-size: .8rem; print-color-adjust: exact; }
  .wide { overflow: visible; } .plain td { white-space: normal; } }
'''
_STYLE += chart.STYLE + samples.STYLE
for _i, (_light, _dark) in enumerate(zip(*_COLOURS, strict=True)):
    _STYLE += (f'.run-{_i} {{ --run: {_light}; stroke: {_light}; }}\n@media screen and (prefers-color-scheme: dark) '
               f'{{ .run-{_i} {{ --run: {_dark}; stroke: {_dark}; }} }}\n')


def page(runs: Sequence[RunData], *, now: float) -> str:
    """The page on some runs, one at least. `now` is in seconds since 1970."""
    names = ', '.join(dict.fromkeys(run.facts['name'] for run in runs))
    title = f'{names}: ' + (f'run {runs[0].facts["uuid"]}' if len(runs) == 1 else f'{len(runs)} runs')
    sections = [f'<h1>{escaped(title)}</h1><p class="about">As of {_date(now)}</p>', *map(_warnings, runs),
                _figures(runs), _charts(runs), _items(runs), _samples(runs), _system(runs)]
    return whole_page(title, style=_STYLE, body='\n'.join(filter(None, sections)))


def _warnings(run: RunData) -> str:
    found = [f'{n:,} damaged {"line" if n == 1 else "lines"} of its {what} {"is" if n == 1 else "are"} left out'
             for n, what in ((run.n_damaged, 'metrics'), (run.n_damaged_samples, 'samples')) if n]
    if run.facts['status'] == 'running':
        found.append('it is being trained: this is how far it has come')
    found += [saved['error'] for saved in run.facts['checkpoints'] if saved['error']]
    return ''.join(f'<p class="warning">{escaped(run.facts["uuid"])}: {escaped(text)}</p>' for text in found)


def _figures(runs: Sequence[RunData]) -> str:
    """Best and last validation, length and speed."""
    names = dict.fromkeys(name for run in runs for part in ('best', 'last') for name in run.facts[part] or {}
                          if name != 'step')
    rows: dict[str, Callable[[Mapping[str, Any]], Any]] = {'status': lambda facts: facts['status']}
    for part in ('best', 'last'):
        for name in names:
            rows[f'{part} {name}'] = lambda facts, part=part, name=name: _figure((facts[part] or {}).get(name))
        rows[f'{part} at tokens'] = lambda facts, part=part: _whole((facts[part] or {}).get('step'))
    rows |= {'steps': lambda facts: _whole(facts['steps']), 'tokens': lambda facts: _whole(facts['tokens']),
             'minutes': lambda facts: _figure(facts['seconds'] and facts['seconds'] / 60, digits=1),
             'tokens/s': lambda facts: _whole(facts['seconds'] and facts['tokens'] / facts['seconds']),
             'parameters': lambda facts: _whole(facts['parameters']),
             'began': lambda facts: _date(facts['started']),
             'ended': lambda facts: _date(facts['ended']) if facts['ended'] else '-'}
    return '<h2>Figures</h2>' + _table(runs, {name: [get(run.facts) for run in runs] for name, get in rows.items()},
                                       style='plain')


def _charts(runs: Sequence[RunData]) -> str:
    panels, shown = _FINE_TUNED if any(run.facts['objective'] != 'mlm' for run in runs) else _PANELS, []
    n_points = max(_MIN_POINTS, min(_MAX_POINTS, _ALL_POINTS // len(runs)))
    for panel, (name, unit) in panels.items():
        series = [chart.Series(_name(run), *(run.curves.get(f'{panel}.{part}', []) for part in
                                             ('train', 'valid', 'old'))) for run in runs]
        if any(curve for one in series for curve in one[1:]):
            drawn = chart.chart(series, baselines=_baselines(runs, panel), n_points=n_points)
            shown.append(f'<div><h3>{name}{unit and f", {unit}"}</h3>{drawn}</div>')
    if not shown:
        return '<h2>Curves</h2><p>There is neither loss nor accuracy yet</p>'
    has_old = any(f'{panel}.old' in run.curves for run in runs for panel in panels)
    return (f'<h2>Curves</h2><p class="about">● validation, – training (means){", ┄ old text" * has_old}'
            f'</p><div class="columns">{"".join(shown)}</div>')


def _baselines(runs: Sequence[RunData], panel: str) -> list[tuple[str, float]]:
    """The lines of all runs, once where they have the same; with the run where they differ."""
    found: dict[str, dict[float, RunData]] = {}
    for run in runs:
        for name, value in run.baselines(panel).items():
            found.setdefault(name, {}).setdefault(round(value, 4), run)
    return [(name if len(values) == 1 else f'{name}, {_name(run)}', value)
            for name, values in found.items() for value, run in values.items()]


def _items(runs: Sequence[RunData]) -> str:
    """The items that differ, and those of all runs that are not as by default."""
    names = dict.fromkeys(name for run in runs for name in run.items)
    given = dict.fromkeys(name for run in runs for name in run.facts['configs'])
    values = {name: [_item(run.items.get(name)) for run in runs] for name in names}
    differ = {name: row for name, row in values.items() if len(set(row)) > 1}
    same = {name: row[:1] for name, row in values.items() if name in given and name not in differ}
    shown = ''
    if len(runs) > 1:
        shown = '<h2>Items that differ</h2>' + (_table(runs, differ, style='items') if differ
                                                 else '<p>All runs have the same items</p>')
    heading = 'Items that all runs were given' if len(runs) > 1 else 'Items that were given'
    return shown + (f'<h2>{heading}</h2>' + _table([], same, style='items') if same else '')


def _samples(runs: Sequence[RunData]) -> str:
    tables = [(run, samples.sample_tables(run.samples)) for run in runs if run.samples]
    if not tables:
        return ''
    legend = '<p class="about samples">Filled in: <ins>right</ins>, <del>wrong</del></p>'
    return f'<h2>Samples</h2>{legend}' + ''.join(
        (f'<h3>{_heading(run, runs.index(run))}</h3>' if len(runs) > 1 else '') + shown for run, shown in tables)


def _system(runs: Sequence[RunData]) -> str:
    rows: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        'text': lambda facts: facts['text']['path'] or facts['text'].get('source'),
        'characters': lambda facts: _whole(facts['text'].get('characters')),
        'SHA-256 of the text': lambda facts: facts['text'].get('sha256'),
        'tokenizer': lambda facts: facts['tokenizer']['name'] or facts['tokenizer']['kind'],
        'vocabulary': lambda facts: _whole(facts['tokenizer']['n_tokens']), 'script': lambda facts: facts['script'],
        'folder': lambda facts: f'{facts["path"]}, {size_text(facts["bytes"])}'}
    values = {'comment': [_item(run.comment) for run in runs], 'tags': [_item(run.tags) for run in runs]}
    values |= {name: [_item(get(run.facts)) for run in runs] for name, get in rows.items()}
    for name in dict.fromkeys(name for run in runs for name in run.facts['versions']):
        values[name] = [_item(run.facts['versions'].get(name)) for run in runs]
    return '<h2>Text and system</h2>' + _table(runs, values, style='items')


def _table(runs: Sequence[RunData], rows: Mapping[str, Sequence[Any]], *, style: str) -> str:
    """A row for each name, and a column for each run; without runs, no heading."""
    heading = '<tr><th>' + ''.join(f'<th class="run">{_heading(run, i)}' for i, run in enumerate(runs)) if runs else ''
    lines = ''.join(f'<tr><th>{_breakable(name)}' + ''.join(f'<td>{escaped(_cut(value))}' for value in row)
                    for name, row in list(rows.items())[:_MAX_ROWS])
    left_out = f'<p class="about">{len(rows) - _MAX_ROWS:,} more rows are left out</p>' * (len(rows) > _MAX_ROWS)
    return f'<div class="wide"><table class="{style}">{heading}{lines}</table></div>{left_out}'


def _breakable(name: str) -> str:
    """The name of a row, which may go on in the next line after a dot or an underscore."""
    return escaped(name).replace('.', '.<wbr>').replace('_', '_<wbr>')


def _heading(run: RunData, i: int) -> str:
    return f'<span class="swatch run-{i % chart.N_COLOURS}"></span>{escaped(_name(run))}'


def _name(run: RunData) -> str:
    return f'{run.facts["name"]} {run.facts["uuid"][:8]}'


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT - 1] + '…'


def _item(value: Any) -> str:
    """A value of an item as it is given."""
    if isinstance(value, list):
        return ','.join(map(_item, value)) or '(none)'
    if isinstance(value, bool):
        return str(value).lower()
    return '-' if value is None else f'{value:g}' if isinstance(value, float) else str(value) or '(none)'


def _figure(value: float | None, *, digits: int = 4) -> str:
    return '-' if value is None else f'{value:,.{digits}f}'


def _whole(value: float | None) -> str:
    return '-' if value is None else f'{value:,.0f}'


def _date(seconds: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M', time.localtime(seconds))
