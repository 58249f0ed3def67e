"""Models of labml-db as JSON, and back: nothing in the store is ever executed."""
import base64
import json
from typing import Any

import numpy as np
from labml_db import Key


def encode(value: Any) -> str:
    """
    A model as JSON: numbers, strings, lists, tuples, dicts, sets, keys of models, and arrays of numbers.

    Raises `TypeError` if it contains anything else.
    """
    text = json.dumps(_to_json(value), ensure_ascii=False, separators=(',', ':'))
    # A lone surrogate is not valid Unicode, and could not be sent to a page
    return text.encode(errors='replace').decode()


def decode(data: str) -> Any:
    """The value that `encode` was given."""
    return json.loads(data, object_hook=_from_json)


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith('$') for key in value):
            return {key: _to_json(inner) for key, inner in value.items()}
        return {'$dict': [[_to_json(key), _to_json(inner)] for key, inner in value.items()]}
    if isinstance(value, list):
        return [_to_json(inner) for inner in value]
    if isinstance(value, tuple | set):
        return {f'${type(value).__name__}': [_to_json(inner) for inner in value]}
    if isinstance(value, Key):
        return {'$key': str(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        return {'$array': [value.dtype.str, value.shape, base64.b64encode(value.tobytes()).decode()]}
    return value.item() if isinstance(value, np.generic) else value


def _from_json(value: dict) -> Any:
    if len(value) == 1:
        [(kind, inner)] = value.items()
        if kind == '$array':
            dtype, shape, data = inner
            # A copy, because an array on `bytes` is read-only
            return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
        makers = {'$dict': dict, '$tuple': tuple, '$set': set, '$key': Key}
        if kind in makers:
            return makers[kind](inner)
    return value
