"""
# The curves of runs

A run sends points in the order of their steps; those that the app has already are left out, and a resumed run takes
those after its checkpoint back.

Upstream repeats the last value where one is NaN or infinite, or puts 0, which is a perfect loss. Here such points are
left out of the curve, and stand in one of their own: `not_finite.loss.train` is 1 wherever `loss.train` is not a finite
number. Upstream also drops indicators whose names begin with `grad.`, `param.`, `module.`, `metric.` and `hp.`, which
it once had pages for; here they are kept like all others.
"""
import math

from labml_app.analyses.experiments.metrics import MetricsAnalysis, MetricsPreferencesIndex
from labml_app.enums import INDICATORS

from labml_mlm.app import NOT_FINITE


def keep_all_indicators():
    """Makes upstream keep indicators of any name."""
    INDICATORS.clear()


def last_steps(run_uuid: str) -> dict[str, float]:
    """The last step of each indicator of a run, finite or not."""
    found, last = MetricsAnalysis.get(run_uuid), {}
    for name, series in (found.metrics.tracking.items() if found else ()):
        for known in {name, name.removeprefix(NOT_FINITE)}:
            last[known] = max(last.get(known, -math.inf), float(series['last_step'][-1]))
    return last


def keep_new_points(update: dict, received: dict[str, float]):
    """Removes the steps of an update that are not after those `received`, and adds the others to `received`."""
    track = {}
    for name, series in (update.get('track') or {}).items():
        kept = []
        for step, value in zip(series['step'], series['value'], strict=True):
            if step > received.get(name, -math.inf):
                received[name] = step
                kept.append((step, value))
        track[name] = _series(kept)
    if 'track' in update:
        update['track'] = track


def set_apart_not_finite(update: dict):
    """Puts the points of an update that are NaN or infinite into curves of their own."""
    track = {}
    for name, series in (update.get('track') or {}).items():
        pairs = list(zip(series['step'], series['value'], strict=True))
        track[name] = _series([(step, value) for step, value in pairs if math.isfinite(value)])
        track[NOT_FINITE + name] = _series([(step, 1.) for step, value in pairs if not math.isfinite(value)])
    if 'track' in update:
        # Upstream fails on a curve without points
        update['track'] = {name: series for name, series in track.items() if series['step']}


def _series(pairs: list[tuple[float, float]]) -> dict[str, list[float]]:
    return {'step': [step for step, _ in pairs], 'value': [value for _, value in pairs]}


def truncate(run_uuid: str, end: float):
    """Removes all points of a run after the step `end`."""
    found, preferences_key = MetricsAnalysis.get(run_uuid), MetricsPreferencesIndex.get(run_uuid)
    if found is None:
        return
    metrics, preferences = found.metrics, preferences_key.load()
    # In the order of the names
    shown = dict(zip(sorted(metrics.indicators), preferences.series_preferences, strict=False))
    for name, series in list(metrics.tracking.items()):
        # A point stands for the steps after the previous point up to its `last_step`
        n = int((series['last_step'] <= end).sum())
        if n:
            metrics.tracking[name] = {**series, **{key: series[key][:n] for key in ('step', 'last_step', 'value')},
                                      'mean': series['value'][:n].mean()}
        else:
            del metrics.tracking[name]
            metrics.indicators.discard(name)
    metrics.save()
    preferences.series_preferences = [shown.get(name, -1) for name in sorted(metrics.indicators)]
    preferences.save()
