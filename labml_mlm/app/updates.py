"""
# Updates of runs, each value once

Upstream's API appends everything in an update to the curves of its run. If an update is sent again because its answer
was lost, its steps appear twice; and a run that is resumed from a checkpoint draws the steps after it a second time.
The updates of labml_mlm have two more fields, and for them

* only steps after the last one of their indicator are added, as the steps of a run arrive in order
* `lives` lists the steps at which the run was resumed; each resume starts a new life. The first update of a new life
  truncates the curves at its step
* `received` is the last step of each indicator that the app has acknowledged. If the app has less, because its store
  was replaced by an older one, it adds nothing. It adds nothing either if it does not know the run and the update does
  not introduce it

and the answer contains what the app has now (`received`) and whether the run was unknown (`is_new`), so that the sender
can continue from there. Updates of labml's own clients are processed as upstream does.
"""
import math
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from labml_app import handlers
from labml_app.analyses.experiments.metrics import MetricsAnalysis, MetricsPreferencesIndex
from labml_app.db import project
from labml_app.db import run as runs
from labml_app.enums import INDICATORS, RunEnums
from labml_db import Index

# Maximum number of updates in a request; labml's clients send a few
_MAX_UPDATES = 100
# Types of the fields of an update, which upstream does not check
_TYPES = {'track': dict, 'configs': dict, 'indicators': dict, 'wildcard_indicators': dict, 'status': dict,
          'stdout': str, 'stderr': str, 'logger': str, 'name': str, 'comment': str, 'python_file': str, 'commit': str,
          'commit_message': str, 'computer': str, 'tags': list, 'lives': list, 'received': dict, 'began': int | float,
          'pid': int}
# Upstream's pages fail on any other
_STATUSES = {RunEnums.RUN_COMPLETED, RunEnums.RUN_CRASHED, RunEnums.RUN_INTERRUPTED, RunEnums.RUN_IN_PROGRESS}


class LivesIndex(Index['Lives']):
    """The number of lives of a run that are known, without the first one."""


def add_routes(app: FastAPI):
    """Call this before upstream's routes are added, as the first route that matches is used."""
    app.add_api_route('/api/v1/{labml_token}/track', _track, methods=['POST'])
    app.add_api_route('/api/v1/{labml_token}/computer', _computer, methods=['POST'])


async def _track(request: Request) -> dict:
    """Upstream's `update_run`, without its delay of three seconds, for the project of the local user."""
    query = request.query_params
    rank, world_size, main_rank = (int(query.get(name, 0)) for name in ('rank', 'world_size', 'main_rank'))
    run_uuid = query.get('run_uuid', '')
    # The key under which upstream stores it
    stored_uuid = f'{run_uuid}_{rank}' if world_size > 1 and rank > 0 else run_uuid
    updates = _parse(await request.json())
    is_new = runs.get(stored_uuid) is None
    if is_new:
        _remove_from_project(stored_uuid)
    received: dict[str, float] = {}
    if is_extended := any('lives' in update for update in updates):
        if is_new and not any('name' in update for update in updates):
            return {'errors': [], 'received': {}, 'is_new': True}
        if not _update_lives(stored_uuid, max((update.get('lives', []) for update in updates), key=len)):
            return {'errors': [{'error': 'old_life', 'message': f'the run {run_uuid} was resumed in another process'}]}
        received = _last_steps(stored_uuid)
        if any(step > received.get(name, -math.inf) for update in updates
               for name, step in update.get('received', {}).items()):
            return {'errors': [], 'received': received, 'is_new': False}
        for update in updates:
            _keep_new_points(update, received)
    # It sees the changes in `updates`, because the request caches its JSON
    answer = await handlers._update_run(request, '', query.get('labml_version', ''), run_uuid, rank, world_size,
                                        main_rank)
    if is_new and (run := runs.get(stored_uuid)) and (began := [u['began'] for u in updates if u.get('began')]):
        run.start_time = began[0]
        run.save()
    return {**answer, 'received': received, 'is_new': is_new} if is_extended else answer


async def _computer(request: Request) -> dict:
    """Upstream's `update_session`, without its delay."""
    _parse(await request.json())
    query = request.query_params
    return await handlers._update_session(
        request, '', *(query.get(name, '') for name in ('session_uuid', 'computer_uuid', 'labml_version')))


def _parse(body: Any) -> list[dict]:
    """The updates of a request. Raises an `HTTPException` if they are malformed."""
    updates = body if isinstance(body, list) else [body]
    if len(updates) > _MAX_UPDATES:
        raise HTTPException(413, f'a request must not have more than {_MAX_UPDATES} updates')
    for update in updates:
        if not isinstance(update, dict):
            raise HTTPException(400, 'an update must be an object')
        _check(update)
        for name, value in update.items():
            if name != 'track':
                update[name] = _without_nan(value)
    return updates


def _check(update: dict):
    for name, type_ in _TYPES.items():
        if update.get(name) is not None and not isinstance(update[name], type_):
            raise HTTPException(400, f'`{name}` has the wrong type')
    for name, series in (update.get('track') or {}).items():
        steps, values = (series.get(key) for key in ('step', 'value')) if isinstance(series, dict) else (None, None)
        if not (_are_numbers(steps) and _are_numbers(values) and len(steps) == len(values)
                and all(map(math.isfinite, steps))):
            raise HTTPException(400, f'`{name}`: steps and values must be lists of numbers, of the same length')
    if not (_are_numbers(update.get('lives', [])) and _are_numbers(list(update.get('received', {}).values()))):
        raise HTTPException(400, '`lives` and `received` must be steps')
    status = update.get('status') or {}
    if status.get('status') not in (None, *_STATUSES):
        raise HTTPException(400, f'`status` must be one of {", ".join(sorted(_STATUSES))}')
    if not all(time is None or _are_numbers([time]) and math.isfinite(time)
               for time in (update.get('began'), status.get('time'))):
        raise HTTPException(400, 'times must be numbers')
    for config in (update.get('configs') or {}).values():
        if not isinstance(config, dict) or not {'name', 'computed'} <= config.keys():
            raise HTTPException(400, '`configs` must be objects with `name` and `computed`')


def _without_nan(value: Any) -> Any:
    """The same with strings in place of NaN and infinity, which are not JSON: upstream could not answer with them."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _remove_from_project(run_uuid: str):
    """Removes a deleted run from the project, where upstream leaves it, so that it can report again."""
    local = project.get_project('')
    if local.runs.pop(run_uuid, None):
        local.save()


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _keep_new_points(update: dict, received: dict[str, float]):
    """Removes the steps of an update that are not after those `received`, and adds the others to `received`."""
    track = {}
    for name, series in (update.get('track') or {}).items():
        if name.partition('.')[0] in INDICATORS:
            continue  # upstream does not store them
        kept = []
        for step, value in zip(series['step'], series['value'], strict=True):
            if step > received.get(name, -math.inf):
                received[name] = step
                kept.append((step, value))
        if kept:
            track[name] = {'step': [step for step, _ in kept], 'value': [value for _, value in kept]}
    if 'track' in update:
        update['track'] = track


def _last_steps(run_uuid: str) -> dict[str, float]:
    """The last step of each indicator of a run."""
    found = MetricsAnalysis.get(run_uuid)
    return {name: float(series['last_step'][-1]) for name, series in found.metrics.tracking.items()} if found else {}


def _update_lives(run_uuid: str, lives: list[float]) -> bool:
    """Truncates the curves of a run at the steps where new lives started. Returns whether this is its latest life."""
    known = int(str(LivesIndex.get(run_uuid) or 0))
    if len(lives) < known:
        # labml's clients do not report lives: theirs have one
        return not lives
    if len(lives) > known:
        _truncate(run_uuid, min(lives[known:]))
        LivesIndex.set(run_uuid, str(len(lives)))
    return True


def _truncate(run_uuid: str, end: float):
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
