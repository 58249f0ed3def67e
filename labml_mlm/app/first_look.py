"""
# What the pages show before a person has chosen

Upstream's chart begins with the indicators of the first update, and its card of configs with none. What a person
selects replaces each of these.
"""
import html
import json
from typing import Any

from fastapi import FastAPI, Request, Response
from labml_app import handlers, utils
from labml_app.analyses.experiments import comparison, stderr, stdlogger, stdout
from labml_app.analyses.experiments.metrics import MetricsAnalysis, MetricsPreferencesIndex

from labml_mlm.app import CURVES, NOT_FINITE

# Upstream's marks of an indicator that is drawn, and of one that is not even loaded
_DRAWN, _LEFT_OUT = 1, -1
_upstream_default = utils.get_default_series_preference


def add_routes(app: FastAPI):
    """Call this before upstream's routes are added, as the first route that matches is used."""
    app.add_api_route('/api/v1/run/{run_uuid}', _run, methods=['GET'])
    app.add_api_route('/api/v1/compare/preferences/{run_uuid}', _compare, methods=['POST'])
    for name, read in (('stdout', stdout.get_stdout), ('stderr', stderr.get_std_err),
                       ('std_logger', stdlogger.get_std_logger)):
        app.add_api_route(f'/api/v1/logs/{name}/{{run_uuid}}', _escaped(read), methods=['POST'])
    utils.get_default_series_preference = default_preferences
    # Upstream adds a mark at the end, where the marks are in the order of the names
    utils.fill_preferences = lambda names, _: default_preferences(names)


def default_preferences(names: list[str]) -> list[int]:
    """Which of the indicators of a run are drawn, of `CURVES` and of what is not finite; upstream's if none is."""
    drawn = [name in CURVES or name.startswith(NOT_FINITE) for name in names]
    return [_DRAWN if is_drawn else _LEFT_OUT for is_drawn in drawn] if any(drawn) else _upstream_default(names)


def is_by_default(run_uuid: str) -> bool:
    """Has nobody selected other indicators of a run?"""
    names, preferences = _indicators(run_uuid)
    return preferences is None or preferences.series_preferences == default_preferences(names)


def restore_default(run_uuid: str):
    """Draws the indicators of `CURVES`: a run gets them one after another."""
    names, preferences = _indicators(run_uuid)
    if preferences is not None:
        preferences.update_preferences({'series_preferences': default_preferences(names)})


def _indicators(run_uuid: str) -> tuple[list[str], Any]:
    """The indicators of a run, in the order of the marks, and its preferences; `None` before it has any."""
    found, key = MetricsAnalysis.get(run_uuid), MetricsPreferencesIndex.get(run_uuid)
    return (sorted(found.metrics.indicators), key.load()) if found and key else ([], None)


async def _run(request: Request, run_uuid: str) -> Response:
    """Upstream's `get_run`, with the configs that were given in place of an empty selection."""
    response = await handlers.get_run(request, run_uuid)
    run = json.loads(response.body)
    if run and not run['selected_configs']:
        run['selected_configs'] = [config['key'] for config in run['configs'] if config.get('is_explicitly_specified')]
    return _replaced(response, run)


async def _compare(request: Request, run_uuid: str) -> Any:
    """Upstream's `set_comparison_preferences`, for which no marks are no choice: those of a run just picked."""
    preferences = await request.json()
    for part, uuid in (('', run_uuid), ('base_', preferences.get('base_experiment', ''))):
        if preferences.get(f'{part}series_preferences') == []:
            names, _ = _indicators(uuid)
            # Upstream sees it, because the request caches its JSON
            preferences |= {f'{part}series_preferences': default_preferences(names), f'{part}series_names': names}
    return await comparison.set_comparison_preferences(request, run_uuid)


def _escaped(read: Any) -> Any:
    """One of upstream's handlers of logs, whose pages go into the page as HTML."""
    async def escaped(request: Request, run_uuid: str) -> Any:
        answer = await read(request, run_uuid)
        if isinstance(answer, dict):
            answer['pages'] = {n: html.escape(text, quote=False) for n, text in answer['pages'].items()}
        return answer

    return escaped


def _replaced(response: Response, content: Any) -> Response:
    """A response with other content."""
    headers = {name: value for name, value in response.headers.items() if name not in ('content-length',)}
    return Response(json.dumps(content), response.status_code, headers)
