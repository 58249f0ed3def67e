"""
# JSON and YAML of files that may be damaged, or somebody else's

A file in the folder of a run may be cut short, a device, a pipe, or made so that reading it never ends. `json_of` and
`yaml_of` give what an ordinary file of a bounded size says, and `None` for anything else, so that each reader has one
case to handle. They say nothing of what is in it: a reader checks that against its schema.

`to_json` is the other way round: JSON that every program reads.
"""
import datetime
import json
import math
from pathlib import Path
from typing import Any

import yaml

from labml_mlm.common.files import read_ordinary

# Bytes of a file, unless a reader says otherwise
_MAX_BYTES = 2 ** 26
# Levels of JSON and of YAML, and values with those that aliases repeat
_MAX_DEPTH, _MAX_VALUES = 100, 1_000_000
# What may become a 64-bit integer, as steps and times do
_MAX_INTEGER = 2 ** 63
_ERRORS = OSError, ValueError, OverflowError, RecursionError


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Reads what labml writes, whose Python tags become plain values."""


_Loader.add_multi_constructor('tag:yaml.org,2002:python/', lambda loader, _, node: (
    loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else
    loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else node.value))


def json_of(path: Path, *, max_bytes: int = _MAX_BYTES) -> Any:
    """What a JSON file holds; `None` if it is missing, damaged, too large, or no ordinary file."""
    try:
        return parse_json(read_ordinary(path, max_bytes=max_bytes))
    except OSError:
        return None


def parse_json(text: str | bytes) -> Any:
    """The value in a text; `None` if it is not JSON, or too deep for functions that call themselves for each level."""
    try:
        value = json.loads(text)
    except _ERRORS:
        return None
    return None if _is_deep(value) else value


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        level = [inner for outer in level if isinstance(outer, dict | list)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
        depth += 1
    return bool(level)


def yaml_of(path: Path, *, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """
    What a YAML file holds by name, as values that JSON has; empty if it is missing, damaged, too large, or no ordinary
    file.
    """
    try:
        data = read_ordinary(path, max_bytes=max_bytes)
        _check_depth(data)
        value = _plain(yaml.load(data, _Loader), [0])  # noqa: S506  a safe loader
    except (*_ERRORS, yaml.YAMLError, TypeError, AttributeError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_depth(data: bytes):
    """Raises `ValueError` for YAML that is nested too deep: the loader in C has no bound, and would crash."""
    depth = 0
    for event in yaml.parse(data, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f'more than {_MAX_DEPTH} levels')


def _plain(value: Any, n: list[int]) -> Any:
    """A value as JSON has it. `n` counts all of them: a few aliases may stand for billions, or for themselves."""
    n[0] += 1
    if n[0] > _MAX_VALUES:
        raise ValueError(f'more than {_MAX_VALUES:,} values')
    if isinstance(value, dict):
        return {name if isinstance(name, str) else str(name): _plain(inner, n) for name, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(inner, n) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def is_integer(value: Any) -> bool:
    """Is it an integer, and no boolean, of 64 bits?"""
    return type(value) is int and -_MAX_INTEGER <= value < _MAX_INTEGER


def is_number(value: Any) -> bool:
    """Is it a number, and no boolean, that is finite?"""
    return is_integer(value) or type(value) is float and math.isfinite(value)


def is_list_of(kind: type, value: Any) -> bool:
    """Is it a list of nothing but a type?"""
    return isinstance(value, list) and all(type(inner) is kind for inner in value)


def to_json(value: Any, **options: Any) -> str:
    """JSON of a value; `null` in place of a number that JSON does not have. `options` are those of `json.dumps`."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False, **options)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
