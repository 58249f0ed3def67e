"""
# A run beside the curve that its recipe is expected to have

Only where that is fair: the same recipe on the same text with the same vocabulary, no item that changes what is
learned, no code of a script. Accuracy is compared at equal tokens, and only with a run of the same length: learning
rate and masking rate follow the fraction of a run that is done, so a longer one is rightly behind at equal tokens.
Where it is not fair, the reason is told instead.

The band of a curve is that of a few seeds, and another seed lies outside of the range of three in half of all cases. So
a run counts as below or above only if it is outside by more than the band is wide.
"""
from collections.abc import Mapping
from typing import Any

from labml_mlm.run_commands.course import (
    VALIDATED,
    Conditions,
    Metrics,
    changed_when_resumed,
    conditions,
    planned_length,
    read_metrics,
    unknown_items,
)
from labml_mlm.run_commands.expected_curve import SAME_LENGTH, Band, ExpectedCurve, curves_of
from labml_mlm.runs.run import Run

# Items that a reason names
_NAMED = 3
# What is less cannot be seen in three digits
_VISIBLE = 0.0005


def beside_curve(run: Run) -> dict[str, Any] | None:
    """
    Where a run lies beside its curve, for JSON; `None` if it has no recipe of pre-training. Damaged
    lines of its log are left out.

    * `recipe`, and `text` and `hardware` of its curve
    * `reason`, why something is not compared, which is `None` then
    * `figures` by name, each with `step`, `value`, `low`, `mean` and `high` of the curve, the `difference` from the
      nearest of them, and a `verdict`: `within`, `near`, `below`, `above` or `not finite`
    * `speed`: the seconds that a million tokens took the `run`, and those that are `expected`
    """
    snapshot = run.snapshot
    if snapshot is None or run.is_fine_tuned or (found := conditions(snapshot)).recipe is None:
        return None
    facts = {'recipe': found.recipe, 'text': None, 'hardware': None, 'reason': None, 'figures': None, 'speed': None}
    length = planned_length(snapshot)
    curve, reason = _choose(curves_of(found.recipe), found, length)
    if curve is not None:
        facts |= {'text': curve.conditions.text['name'], 'hardware': curve.hardware}
        reason = _not_fair(curve.conditions, found, snapshot)
    if reason is not None:
        return facts | {'reason': reason}
    metrics = read_metrics(run.log)
    facts['speed'] = _speed(metrics, curve)
    if (reason := changed_when_resumed(run, snapshot) or _other_length(curve, length)) is not None:
        return facts | {'reason': reason}
    facts['figures'], facts['reason'] = _figures(metrics, curve)
    return facts


def rows_beside(facts: Mapping[str, Any] | None) -> list[list[str]]:
    """What `beside_curve` gave as rows of `labml-mlm info`."""
    if facts is None:
        return [['expected', '-']]
    recipe = f'recipe={facts["recipe"]}'
    if facts['figures'] is None:
        rows = [['expected', f'no comparison with {recipe}: {facts["reason"]}']]
    else:
        about = facts['figures'][VALIDATED[0]]
        rows = [['expected', f'{VALIDATED[0]} {about["value"]:.3f} after {_tokens(about["step"])} tokens; {recipe} has '
                             f'{about["low"]:.3f} to {about["high"]:.3f} there: {_verdict(about)}']]
    if speed := facts['speed']:
        rows.append(['speed', f'{_seconds(speed["run"])} s a million tokens; {recipe} has '
                              f'{_seconds(speed["expected"])} on {facts["hardware"]}'])
    return rows


def _choose(curves: list[ExpectedCurve], found: Conditions, length: tuple[str, float] | None) \
        -> tuple[ExpectedCurve | None, str | None]:
    """The curve of the same text whose length is the nearest, or why there is none."""
    if not curves:
        return None, 'it has no curve'
    same = [curve for curve in curves if _identity(curve.conditions.text) == _identity(found.text)]
    if not same:
        texts = ' and of '.join(dict.fromkeys(str(curve.conditions.text['name']) for curve in curves))
        return None, f'its curve is that of {texts}, and this is {found.text["name"] or "another text"}'
    return min(same, key=lambda curve: abs(curve.length.ratio(*length) - 1) if length else 0.), None


def _identity(text: Mapping[str, Any]) -> tuple:
    return text['sha256'], text['valid_sha256']


def _not_fair(expected: Conditions, found: Conditions, snapshot: Mapping[str, Any]) -> str | None:
    """Why a run is another than that of a curve on the same text; `None` if it is not."""
    if (own := snapshot.get('own_code')) is None:
        return 'the run is of an earlier version'
    if own:
        return f'the script has code of its own ({_some(own)})'
    differing = [f'{name}={_shown(found.items[name])} in place of {_shown(value)}' if name in found.items else
                 f'the run has no {name}' for name, value in expected.items.items()
                 if name not in found.items or found.items[name] != value]
    differing += [f'{name}={_shown(value)}' for name, value in unknown_items(snapshot, expected.items).items()]
    if differing:
        return _some(differing)
    if expected.tokenizer['sha256'] != found.tokenizer['sha256']:
        n, n_expected = found.tokenizer['n_tokens'], expected.tokenizer['n_tokens']
        return f'another vocabulary, of {n} tokens in place of {n_expected}'
    if expected.parameters != found.parameters:
        return f'another model, of {found.parameters} parameters in place of {expected.parameters}'
    return None


def _other_length(curve: ExpectedCurve, length: tuple[str, float] | None) -> str | None:
    """Why a run is longer or shorter than that of a curve; `None` if it is not."""
    if length is None:
        return 'it is not known how long the run is'
    ratio = curve.length.ratio(*length)
    if abs(ratio - 1) <= SAME_LENGTH:
        return None
    return f'its schedules end after {_tokens(ratio * curve.length.tokens)} tokens, those of the curve after ' \
        f'{_tokens(curve.length.tokens)}'


def _figures(metrics: Metrics, curve: ExpectedCurve) -> tuple[dict[str, dict] | None, str | None]:
    """The last validation where the curve reaches, by name, or why there is none."""
    for step, values in reversed(metrics.validations.items()):
        if (accuracy := curve.band('accuracy', step)) is None or values.keys() != set(VALIDATED):
            continue
        bands = (accuracy, 'accuracy'), (curve.band('loss', step), 'loss')
        return {name: {'step': step, **_beside(values[name], band, curve.spread(part))}
                for name, (band, part) in zip(VALIDATED, bands, strict=True)}, None
    return None, f'there is no validation yet from {_tokens(curve.points[0].tokens)} tokens on, where the curve begins'


def _beside(value: float, band: Band, spread: float) -> dict[str, Any]:
    difference = value - min(max(value, band.low), band.high)
    if abs(difference) < _VISIBLE:
        verdict = 'within'
    elif abs(difference) <= max(spread, band.high - band.low):
        verdict = 'near'
    else:
        # NaN is no less than anything
        verdict = 'below' if difference < 0 else 'above' if difference > 0 else 'not finite'
    return {'value': value, **band._asdict(), 'difference': difference, 'verdict': verdict}


def _speed(metrics: Metrics, curve: ExpectedCurve) -> dict[str, float] | None:
    if not metrics.training:
        return None
    tokens, seconds = metrics.training[-1]
    return {'run': 1e6 * seconds / tokens, 'expected': 1e6 * curve.seconds(tokens) / tokens}


def _verdict(about: Mapping[str, Any]) -> str:
    if about['verdict'] in ('within', 'not finite'):
        return {'within': 'as expected', 'not finite': 'not finite'}[about['verdict']]
    points = f'{abs(100 * about["difference"]):.1f} points {"below" if about["difference"] < 0 else "above"}'
    return points + (', as seeds may differ' if about['verdict'] == 'near' else '')


def _tokens(n: float) -> str:
    return f'{n / 1e6:,.2f} million' if n >= 1e6 else f'{round(n):,}'


def _seconds(seconds: float) -> str:
    return f'{seconds:.0f}' if seconds >= 10 else f'{seconds:.2g}'


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ', '.join(names[:_NAMED]) + (f' and {more} more' if more > 0 else '')


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return (','.join(map(str, value)) if isinstance(value, list) else str(value)) or '(none)'
