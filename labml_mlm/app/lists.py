"""
# The lists of runs and of computers' sessions

Upstream's lists fail as a whole if the store has something of one run that cannot be read or shown. Here that run alone
stands in the list as damaged, and can be deleted. Tags of runs stand behind their comments: the page searches in those.
"""
import contextlib
import json
from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from labml_app.db import folder, project, session, user
from labml_app.db import run as runs
from labml_app.enums import RunEnums

from labml_mlm.app.known import Known
from labml_mlm.app.transactions import BAD_DATA

_UNKNOWN = {'last_updated_time': 0, 'run_status': {'status': RunEnums.RUN_UNKNOWN, 'details': None, 'time': 0}}


def add_routes(app: FastAPI, known: Known | None):
    """
    Call this before upstream's routes are added, as the first route that matches is used.

    * `known` is what is known of the store, if that is ours
    """
    app.state.known = known
    app.add_api_route('/api/v1/runs/{labml_token}', _runs, methods=['GET'])
    app.add_api_route('/api/v1/runs', _delete_runs, methods=['PUT'])
    app.add_api_route('/api/v1/sessions/{labml_token}', _sessions, methods=['GET'])


async def _runs(request: Request, labml_token: str) -> Response:
    """Upstream's `get_runs` of the local project: those of a folder, or of all."""
    local = project.get_project('')
    name = request.query_params.get('folder_name', folder.DefaultFolders.DEFAULT.value)
    if name == 'all':
        uuids = set(local.runs)
    else:
        found = local.folders[name].load() if name in local.folders else None
        uuids = found.run_uuids if found else set()
    return _answer('runs', [_shown_run(uuid, request.app.state.known) for uuid in uuids], local.labml_token)


async def _sessions(request: Request, labml_token: str) -> Response:
    """Upstream's `get_sessions` of the local project."""
    local = project.get_project('')
    shown = [_shown(uuid, _summary_of_session, 'session_uuid') for uuid in local.sessions]
    return _answer('sessions', shown, local.labml_token)


async def _delete_runs(request: Request) -> dict:
    """Upstream's `delete_runs`; of a damaged run it deletes what it can."""
    owner = user.get_or_create_user('local', is_local_user=True).email
    uuids = (await request.json())['run_uuids']
    # Others are none of its runs, or no uuids
    for uuid in set(project.get_project('').runs).intersection(uuids):
        with contextlib.suppress(*BAD_DATA):
            project.get_project('').delete_runs([uuid], owner)
        # Upstream itself catches some errors
        if key := runs.RunIndex.get(uuid):
            key.delete()
            runs.RunIndex.delete(uuid)
    return {'is_successful': True}


def _summary_of_run(uuid: str) -> dict | None:
    run = runs.get(uuid)
    if run is None:
        return None
    summary = {**run.get_summary(), **runs.get_status(uuid).get_data()}
    comment = run.comment or ''
    # labml's own default is the parts of the name
    tags = [f'#{tag}' for tag in run.tags or [] if tag not in run.name.split('_') and tag not in comment]
    return {**summary, 'comment': ' '.join([*filter(None, [comment]), *tags])}


def _summary_of_session(uuid: str) -> dict | None:
    found = session.get(uuid)
    return found and {**found.get_summary(), **session.get_status(uuid).get_data()}


def _shown_run(uuid: str, known: Known | None) -> dict | None:
    def compute() -> dict | None:
        return _shown(uuid, _summary_of_run, 'run_uuid')

    # Of one in progress the time decides whether it still responds
    return compute() if known is None else known.result(uuid, compute, is_kept=lambda summary: (
        summary is None or summary['run_status']['status'] != RunEnums.RUN_IN_PROGRESS))


def _shown(uuid: str, summarize: Callable[[str], dict | None], key: str) -> dict | None:
    """What the list has of a run or a session; `None` if it was deleted."""
    try:
        summary = summarize(uuid)
        if summary is not None:
            # The page searches in texts, and runs are sorted by their start
            if not (isinstance(summary['name'], str) and isinstance(summary['comment'], str)):
                raise TypeError('name and comment are texts')
            float(summary['start_time'])
            json.dumps(summary, allow_nan=False)
        return summary
    except BAD_DATA:
        return {key: uuid, 'computer_uuid': '', 'name': f'damaged: {uuid}', 'world_size': 0, 'start_time': 0,
                'comment': 'the store has data of it that cannot be read', 'favorite_configs': [], **_UNKNOWN}


def _answer(name: str, summaries: list[dict | None], labml_token: str) -> Response:
    shown = sorted(filter(None, summaries), key=lambda summary: summary['start_time'], reverse=True)
    return Response(json.dumps({name: shown, 'labml_token': labml_token}), media_type='application/json',
                    # What the page sends with each request; there is one user
                    headers={'Authorization': 'local'})
