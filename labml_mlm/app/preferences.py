"""
# Preferences of charts, which every page can show

Upstream stores what it is sent: which curves are drawn, the smoothing, names of charts of one's own. A page fails on a
mark that is a text, and goes on to fail. Here a request with such a value is refused, and defaults stand in place of
those that the store has already.
"""
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException, Request
from labml_db import Model

# Characters of a text, curves or names of a list, and the largest step: what a page counts exactly
_MAX_TEXT, _MAX_CURVES, _MAX_STEP = 100_000, 10_000, 2 ** 53
_SMOOTHINGS = 'exponential', 'left_exponential'


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_CURVES and all(map(_is_text, value))


def _is_whole(value: Any, first: int, last: int) -> bool:
    return type(value) is int and first <= value <= last


def _are_marks(value: Any) -> bool:
    # -1, 0 and 1 are marks of a run's curves. Those of a computer's are numbers of the curves that are drawn
    return isinstance(value, list) and len(value) <= _MAX_CURVES and all(_is_whole(mark, -1, _MAX_CURVES)
                                                                         for mark in value)


def _are_marks_by_name(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= _MAX_CURVES and all(map(_is_text, value)) and all(
        map(_are_marks, value.values()))


def _is_range(value: Any) -> bool:
    # A page sends null for what is no number in its fields
    return isinstance(value, list) and len(value) == 2 and all(
        end is None or type(end) in (int, float) and abs(end) <= _MAX_STEP for end in value)


_MARKS = _are_marks, f'a list of at most {_MAX_CURVES:,} whole numbers from -1 to {_MAX_CURVES:,}'
_TEXT = _is_text, f'a text of at most {_MAX_TEXT:,} characters'
_TEXTS = _are_texts, f'a list of at most {_MAX_CURVES:,} texts'
# By field: what checks it, and what it must be
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'series_preferences': _MARKS, 'base_series_preferences': _MARKS,
    'sub_series_preferences': (_are_marks_by_name, 'lists of whole numbers by name'),
    'series_names': _TEXTS, 'base_series_names': _TEXTS, 'base_experiment': _TEXT,
    'chart_type': (lambda value: _is_whole(value, 0, 1), '0 or 1'),
    'step_range': (_is_range, f'two numbers up to {_MAX_STEP:,}'),
    'focus_smoothed': (lambda value: isinstance(value, bool), 'true or false'),
    'smooth_value': (lambda value: type(value) in (int, float) and 0 <= value <= 1, 'a number from 0 to 1'),
    'smooth_function': (lambda value: value in _SMOOTHINGS, ' or '.join(_SMOOTHINGS))}
_CHART_FIELDS = {'name': _TEXT, 'description': _TEXT}


async def check_request(request: Request):
    """A dependency of all routes. Raises an `HTTPException` if a request has preferences that no page can show."""
    path = request.scope['route'].path
    is_of_chart = '/custom_metrics/' in path
    if request.method != 'POST' or not (is_of_chart or '/preferences/' in path):
        return
    # The handler sees the same, because the request caches its JSON
    content = await request.json()
    if not is_of_chart:
        _check(content, _FIELDS)
        return
    _check(content, _CHART_FIELDS)
    if 'preferences' in content:
        _check(content['preferences'], _FIELDS)


def mend(model: type[Model], data: Any) -> Any:
    """The stored data of a model, without values that no page can show: upstream takes its defaults for them."""
    # By name, as upstream's modules import each other in a circle
    fields = _CHART_FIELDS if model.__name__ == 'CustomMetricModel' else _FIELDS if _are_preferences(model) else {}
    if not fields or not isinstance(data, dict):
        return data
    return {name: value for name, value in data.items() if name not in fields or fields[name][0](value)}


def _are_preferences(model: type[Model]) -> bool:
    return hasattr(model, 'update_series_preferences')


def _check(content: Any, fields: dict[str, tuple[Callable[[Any], bool], str]]):
    if not isinstance(content, dict):
        raise HTTPException(400, 'preferences must be an object')
    for name, value in content.items():
        if name in fields and not fields[name][0](value):
            raise HTTPException(400, f'`{name}` must be {fields[name][1]}')
