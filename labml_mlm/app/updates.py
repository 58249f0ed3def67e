"""
# What runs report, each value once

Upstream's API adds whatever an update has to the curves of its run. Sent again, because its answer was lost, the same
steps would be there twice; and a run that goes on from a checkpoint would draw the steps after that for a second time.
So of runs that say more than labml's own clients do

* only steps after the last one of their indicator are taken: those of a run come in order
* `lives` says where each of the run's lives began but the first, in steps. The first update of a new life takes the
  curves back to there
* `received` says the last step of each indicator that the app is known to have. If it has less, as its store is an
  earlier one, it takes nothing; and so it does with a run that it does not know and that does not introduce itself

and the answer says what the app has then (`received`), and whether the run was not known (`is_new`), so that whoever
sends can go on from there. Updates of labml's own clients are taken as upstream takes them.
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

# Updates in a request; labml's clients send a few
_MAX_UPDATES = 100
# What an update may have, and of which type; upstream takes it as it is
_TYPES = {'track': dict, 'configs': dict, 'indicators': dict, 'wildcard_indicators': dict, 'status': dict,
          'stdout': str, 'stderr': str, 'logger': str, 'name': str, 'comment': str, 'python_file': str, 'commit': str,
          'commit_message': str, 'computer': str, 'tags': list, 'lives': list, 'received': dict, 'began': int | float,
          'pid': int}
# Upstream's pages fail at any other
_STATUSES = {RunEnums.RUN_COMPLETED, RunEnums.RUN_CRASHED, RunEnums.RUN_INTERRUPTED, RunEnums.RUN_IN_PROGRESS}


class LivesIndex(Index['Lives']):
    """How many lives after the first are known of a run."""


def add_routes(app: FastAPI):
    """To be called before upstream's are added: the first that fits is taken."""
    app.add_api_route('/api/v1/{labml_token}/track', _track, methods=['POST'])
    app.add_api_route('/api/v1/{labml_token}/computer', _computer, methods=['POST'])


async def _track(request: Request) -> dict:
    """Upstream's `update_run` without its pause of three seconds, for the project of the local user."""
    query = request.query_params
    rank, world_size, main_rank = (int(query.get(name, 0)) for name in ('rank', 'world_size', 'main_rank'))
    run_uuid = query.get('run_uuid', '')
    # Where upstream keeps it
    kept_as = f'{run_uuid}_{rank}' if world_size > 1 and rank > 0 else run_uuid
    updates = _checked(await request.json())
    is_new = runs.get(kept_as) is None
    if is_new:
        _forget(kept_as)
    received: dict[str, float] = {}
    if says_more := any('lives' in update for update in updates):
        if is_new and not any('name' in update for update in updates):
            return {'errors': [], 'received': {}, 'is_new': True}
        if not _begin_life(kept_as, max((update.get('lives', []) for update in updates), key=len)):
            return {'errors': [{'error': 'old_life', 'message': f'the run {run_uuid} has gone on in another process'}]}
        received = _received(kept_as)
        if any(step > received.get(name, -math.inf) for update in updates
               for name, step in update.get('received', {}).items()):
            return {'errors': [], 'received': received, 'is_new': False}
        for update in updates:
            _leave_new_ones(update, received)
    # It sees what was changed in `updates`: the request keeps its JSON
    answer = await handlers._update_run(request, '', query.get('labml_version', ''), run_uuid, rank, world_size,
                                        main_rank)
    if is_new and (run := runs.get(kept_as)) and (began := [u['began'] for u in updates if u.get('began')]):
        run.start_time = began[0]
        run.save()
    return {**answer, 'received': received, 'is_new': is_new} if says_more else answer


async def _computer(request: Request) -> dict:
    """Upstream's `update_session` without its pause."""
    _checked(await request.json())
    query = request.query_params
    return await handlers._update_session(
        request, '', *(query.get(name, '') for name in ('session_uuid', 'computer_uuid', 'labml_version')))


def _checked(body: Any) -> list[dict]:
    """The updates of a request. Raises an HTTP 400 if they are none."""
    updates = body if isinstance(body, list) else [body]
    if len(updates) > _MAX_UPDATES:
        raise HTTPException(413, f'a request may have {_MAX_UPDATES} updates')
    for update in updates:
        if not isinstance(update, dict):
            raise HTTPException(400, 'an update has to be an object')
        _check(update)
        for name, value in update.items():
            if name != 'track':
                update[name] = _finite(value)
    return updates


def _check(update: dict):
    for name, type_ in _TYPES.items():
        if update.get(name) is not None and not isinstance(update[name], type_):
            raise HTTPException(400, f'`{name}` is not of the type that an update has')
    for name, series in (update.get('track') or {}).items():
        steps, values = (series.get(key) for key in ('step', 'value')) if isinstance(series, dict) else (None, None)
        if not (_is_numbers(steps) and _is_numbers(values) and len(steps) == len(values)
                and all(map(math.isfinite, steps))):
            raise HTTPException(400, f'`{name}`: steps and values have to be lists of as many numbers')
    if not (_is_numbers(update.get('lives', [])) and _is_numbers(list(update.get('received', {}).values()))):
        raise HTTPException(400, '`lives` and `received` have to be steps')
    status = update.get('status') or {}
    if status.get('status') not in (None, *_STATUSES):
        raise HTTPException(400, f'`status` has to be one of {", ".join(sorted(_STATUSES))}')
    if not all(time is None or _is_numbers([time]) and math.isfinite(time)
               for time in (update.get('began'), status.get('time'))):
        raise HTTPException(400, 'times have to be numbers')
    for config in (update.get('configs') or {}).values():
        if not isinstance(config, dict) or not {'name', 'computed'} <= config.keys():
            raise HTTPException(400, '`configs` has to be objects with `name` and `computed`')


def _finite(value: Any) -> Any:
    """The same with texts in place of numbers that are none, which upstream could not answer with."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _forget(run_uuid: str):
    """Takes a run that was deleted out of the project, where upstream leaves it, so that it may report again."""
    local = project.get_project('')
    if local.runs.pop(run_uuid, None):
        local.save()


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _leave_new_ones(update: dict, received: dict[str, float]):
    """Takes out of an update all steps that are not after the last one of their indicator, and notes the others."""
    track = {}
    for name, series in (update.get('track') or {}).items():
        if name.partition('.')[0] in INDICATORS:
            continue  # upstream does not keep them
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

