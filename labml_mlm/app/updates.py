"""
# What runs report, each value once

Upstream's API adds whatever an update has to the curves of its run. Sent again, because its answer was lost, the same
steps would be there twice; and a run that goes on from a checkpoint would draw the steps after that for a second time.
So here

* of each indicator only steps after its last one are taken: those of a run come in order
* a run says where each of its lives began but the first (`lives`, in steps). The first update of a new life takes the
  curves back to there
* the answer says the last step of each indicator (`received`), and whether the run was not known (`is_new`), so that
  whoever sends can go on from there
"""
import math
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from labml_app import handlers
from labml_app.analyses.experiments.metrics import MetricsAnalysis, MetricsPreferencesIndex
from labml_app.db import run as runs
from labml_db import Index

# What an update may have, and of which type; upstream takes it as it is
_TYPES = {'track': dict, 'configs': dict, 'indicators': dict, 'wildcard_indicators': dict, 'status': dict,
          'stdout': str, 'stderr': str, 'logger': str, 'name': str, 'comment': str, 'python_file': str, 'commit': str,
          'commit_message': str, 'computer': str, 'tags': list, 'lives': list, 'began': int | float, 'pid': int}


class LivesIndex(Index['Lives']):
    """How many lives after the first are known of a run."""


def add_routes(app: FastAPI):
    """To be called before upstream's are added: the first that fits is taken."""
    app.add_api_route('/api/v1/{labml_token}/track', _track, methods=['POST'])
    app.add_api_route('/api/v1/{labml_token}/computer', _computer, methods=['POST'])


async def _track(request: Request) -> dict:
    """Upstream's `update_run` without its pause of three seconds, for the project of the local user."""
    query = request.query_params
    run_uuid = query.get('run_uuid', '')
    body = await request.json()
    updates = body if isinstance(body, list) else [body]
    for update in updates:
        _check(update)
    is_new = runs.get(run_uuid) is None
    if is_new and any('lives' in update for update in updates) and not any('name' in update for update in updates):
        # Ours, which had introduced its run to a store that is gone, does so again
        return {'errors': [], 'received': {}, 'is_new': True}
    lives = max((update.get('lives', []) for update in updates), key=len, default=[])
    if not _begin_life(run_uuid, lives):
        return {'errors': [{'error': 'old_life', 'message': f'the run {run_uuid} has gone on in another process'}]}
    received = {} if is_new else _received(run_uuid)
    for update in updates:
        _leave_new_ones(update, received)
    # It sees what was changed in `updates`: the request keeps its JSON
    answer = await handlers._update_run(request, '', query.get('labml_version', ''), run_uuid,
                                        *(int(query.get(name, 0)) for name in ('rank', 'world_size', 'main_rank')))
    if is_new and (run := runs.get(run_uuid)) and (began := [u['began'] for u in updates if u.get('began')]):
        run.start_time = began[0]
        run.save()
    return {**answer, 'received': received, 'is_new': is_new}


async def _computer(request: Request) -> dict:
    """Upstream's `update_session` without its pause."""
    query = request.query_params
    return await handlers._update_session(
        request, '', *(query.get(name, '') for name in ('session_uuid', 'computer_uuid', 'labml_version')))


def _check(update: Any):
    """Raises an HTTP 400 if an update is none."""
    if not isinstance(update, dict):
        raise HTTPException(400, 'an update has to be an object')
    for name, type_ in _TYPES.items():
        if update.get(name) is not None and not isinstance(update[name], type_):
            raise HTTPException(400, f'`{name}` is not of the type that an update has')
    for name, series in (update.get('track') or {}).items():
        steps, values = (series.get(key) for key in ('step', 'value')) if isinstance(series, dict) else (None, None)
        if not (_is_numbers(steps) and _is_numbers(values) and len(steps) == len(values)
                and all(map(math.isfinite, steps))):
            raise HTTPException(400, f'`{name}`: steps and values have to be lists of as many numbers')
    if not _is_numbers(update.get('lives', [])):
        raise HTTPException(400, '`lives` has to be a list of steps')
    for config in (update.get('configs') or {}).values():
        if not isinstance(config, dict) or not {'name', 'computed'} <= config.keys():
            raise HTTPException(400, '`configs` has to be objects with `name` and `computed`')


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _leave_new_ones(update: dict, received: dict[str, float]):
    """Takes out of an update all steps that are not after the last one of their indicator, and notes the others."""
    track = {}
    for name, series in (update.get('track') or {}).items():
        kept = []
        for step, value in zip(series['step'], series['value'], strict=True):
            if step > received.get(name, -math.inf):
                received[name] = step
                kept.append((step, value))
        if kept:
            track[name] = {'step': [step for step, _ in kept], 'value': [value for _, value in kept]}
    if 'track' in update:
        update['track'] = track


def _received(run_uuid: str) -> dict[str, float]:
    """The last step of each indicator."""
    found = MetricsAnalysis.get(run_uuid)
    return {name: float(series['last_step'][-1]) for name, series in found.metrics.tracking.items()} if found else {}


def _begin_life(run_uuid: str, lives: list[float]) -> bool:
    """Takes the curves back to where new lives of a run began. Is this its latest life?"""
    known = int(str(LivesIndex.get(run_uuid) or 0))
    if len(lives) < known:
        # Upstream's clients, which do not say, have one life
        return not lives
    if len(lives) > known:
        _cut(run_uuid, min(lives[known:]))
        LivesIndex.set(run_uuid, str(len(lives)))
    return True


def _cut(run_uuid: str, end: float):
    """Forgets all points of a run that have steps after `end`."""
    found, preferences_key = MetricsAnalysis.get(run_uuid), MetricsPreferencesIndex.get(run_uuid)
    if found is None:
        return
    metrics, preferences = found.metrics, preferences_key.load()
    # By the order of the names
    shown = dict(zip(sorted(metrics.indicators), preferences.series_preferences, strict=False))
    for name, series in list(metrics.tracking.items()):
        # A point stands for all steps from the one before it on to its last
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
