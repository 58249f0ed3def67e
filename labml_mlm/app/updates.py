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
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from labml_app import handlers
from labml_app.db import project
from labml_app.db import run as runs
from labml_app.enums import RunEnums
from labml_db import Index

from labml_mlm.app import curves, first_look

# Maximum number of updates in a request; labml's clients send a few
_MAX_UPDATES = 100
# Of an edit: characters of a text, and names of configs
_MAX_TEXT, _MAX_NAMES = 100_000, 10_000
# The largest value of a metric: upstream keeps 32 bits, and computes means
_MAX_VALUE = 3e38
# Pages have a curve for each rank
_MAX_RANKS = 10_000
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
    app.add_api_route('/api/v1/run/{run_uuid}', _edit_run, methods=['POST'])
    app.add_api_route('/api/v1/session/{session_uuid}', _edit_session, methods=['POST'])


async def _track(request: Request) -> dict:
    """Upstream's `update_run`, without its delay of three seconds, for the project of the local user."""
    query = request.query_params
    rank, world_size, main_rank = (_rank(query, name) for name in ('rank', 'world_size', 'main_rank'))
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
        received = curves.last_steps(stored_uuid)
        if any(step > received.get(name, -math.inf) for update in updates
               for name, step in update.get('received', {}).items()):
            return {'errors': [], 'received': received, 'is_new': False}
        for update in updates:
            curves.keep_new_points(update, received)
    for update in updates:
        curves.set_apart_not_finite(update)
    is_first_look = first_look.is_by_default(stored_uuid)
    # It sees the changes in `updates`, because the request caches its JSON
    answer = await handlers._update_run(request, '', query.get('labml_version', ''), run_uuid, rank, world_size,
                                        main_rank)
    if is_first_look:
        first_look.restore_default(stored_uuid)
    if is_new and (run := runs.get(stored_uuid)) and (began := [u['began'] for u in updates if u.get('began')]):
        run.start_time = began[0]
        run.save()
    return {**answer, 'received': received, 'is_new': is_new} if is_extended else answer


def _rank(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, '0')
    if not re.fullmatch('[0-9]{1,5}', text) or int(text) > _MAX_RANKS:
        raise HTTPException(400, f'`{name}` must be from 0 to {_MAX_RANKS:,}')
    return int(text)


async def _computer(request: Request) -> dict:
    """Upstream's `update_session`, without its delay."""
    _parse(await request.json(), is_run=False)
    query = request.query_params
    return await handlers._update_session(
        request, '', *(query.get(name, '') for name in ('session_uuid', 'computer_uuid', 'labml_version')))


async def _edit_run(request: Request, run_uuid: str) -> dict:
    """Upstream's `edit_run`, for values that its pages can show."""
    _check_edit(await request.json())
    return await handlers.edit_run(request, run_uuid)


async def _edit_session(request: Request, session_uuid: str) -> dict:
    """Upstream's `edit_session`, for values that its pages can show."""
    _check_edit(await request.json())
    return await handlers.edit_session(request, session_uuid)


def _check_edit(edit: Any):
    """Raises an `HTTPException` if a page could not show the changes of a run or a session."""
    if not isinstance(edit, dict):
        raise HTTPException(400, 'an edit must be an object')
    for name in ('name', 'comment', 'note'):
        if not isinstance(edit.get(name, ''), str) or len(edit.get(name, '')) > _MAX_TEXT:
            raise HTTPException(400, f'`{name}` must be a text of at most {_MAX_TEXT:,} characters')
    for name in ('favourite_configs', 'selected_configs'):
        if not _are_texts(edit.get(name, [])) or len(edit.get(name, [])) > _MAX_NAMES:
            raise HTTPException(400, f'`{name}` must be a list of at most {_MAX_NAMES:,} names')


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) and len(value) <= _MAX_TEXT for value in values)


def _parse(body: Any, *, is_run: bool = True) -> list[dict]:
    """The updates of a request, of a run or of a session. Raises an `HTTPException` if they are malformed."""
    updates = body if isinstance(body, list) else [body]
    if len(updates) > _MAX_UPDATES:
        raise HTTPException(413, f'a request must not have more than {_MAX_UPDATES} updates')
    for update in updates:
        if not isinstance(update, dict):
            raise HTTPException(400, 'an update must be an object')
        _check(update, is_run=is_run)
        for name, value in update.items():
            if name != 'track':
                update[name] = _without_nan(value)
    return updates


def _check(update: dict, *, is_run: bool):
    for name, type_ in _TYPES.items():
        if update.get(name) is not None and not isinstance(update[name], type_):
            raise HTTPException(400, f'`{name}` has the wrong type')
    for name, series in (update.get('track') or {}).items():
        steps, values = (series.get(key) for key in ('step', 'value')) if isinstance(series, dict) else (None, None)
        # The names and commands of processes are texts
        is_kind = _are_numbers if is_run else _are_plain
        if not (_are_numbers(steps) and is_kind(values) and len(steps) == len(values)
                and all(map(math.isfinite, steps))):
            raise HTTPException(400, f'`{name}`: steps and values must be lists of numbers, of the same length')
        series['value'] = [value * math.inf if _is_number(value) and abs(value) > _MAX_VALUE else value
                           for value in values]
    if not (_are_texts(update.get('tags') or []) and _are_texts(update.get('repo_remotes') or [])):
        raise HTTPException(400, '`tags` and `repo_remotes` must be lists of texts')
    if not (_are_numbers(update.get('lives', [])) and _are_numbers(list(update.get('received', {}).values()))):
        raise HTTPException(400, '`lives` and `received` must be steps')
    status = update.get('status') or {}
    if status.get('status') not in (None, *_STATUSES):
        raise HTTPException(400, f'`status` must be one of {", ".join(sorted(_STATUSES))}')
    if not all(time is None or _are_numbers([time]) and math.isfinite(time)
               for time in (update.get('began'), status.get('time'))):
        raise HTTPException(400, 'times must be numbers')
    # Those of a session are values
    for config in (update.get('configs') or {}).values() if is_run else ():
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


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_number, values))


def _are_plain(values: Any) -> bool:
    return isinstance(values, list) and all(value is None or isinstance(value, bool | int | float | str)
                                            for value in values)


def _update_lives(run_uuid: str, lives: list[float]) -> bool:
    """Truncates the curves of a run at the steps where new lives started. Returns whether this is its latest life."""
    known = int(str(LivesIndex.get(run_uuid) or 0))
    if len(lives) < known:
        # labml's clients do not report lives: theirs have one
        return not lives
    if len(lives) > known:
        curves.truncate(run_uuid, min(lives[known:]))
        LivesIndex.set(run_uuid, str(len(lives)))
    return True
