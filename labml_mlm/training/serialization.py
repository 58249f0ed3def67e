"""
# Nested values as JSON and tensors

A checkpoint holds tensors in one table per file, and everything else as JSON. `pack` splits a nested value into the
two, and `unpack` puts it together again.
"""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.parallel import full_tensor
from labml_mlm.training.skipped_steps import are_finite

# What `unpack` raises for a value that `pack` does not give
UNPACK_ERRORS = KeyError, TypeError, ValueError, AttributeError, RecursionError


def pack(value: Any, tensors: dict[str, Tensor] | None, name: str = '') -> Any:
    """
    `value` for JSON, with copies of its tensors, on the CPU and contiguous, in `tensors`. With `tensors=None` sharded
    tensors are gathered together with the other ranks, and nothing is kept.

    Raises `TypeError` if it contains anything but tensors, dicts, lists, tuples, numbers, strings, booleans and `None`.
    """
    if isinstance(value, Tensor):
        value = full_tensor(value.detach())
        if tensors is None:
            return None
        while name in tensors:  # 'a.b', and 'b' in 'a'
            name += "'"
        tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value)
        return {'$tensor': name}
    prefix = f'{name}.' if name else ''
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith('$') for key in value):
            return {key: pack(inner, tensors, f'{prefix}{key}') for key, inner in value.items()}
        return {'$items': [[pack(key, tensors), pack(inner, tensors, f'{prefix}{key}')]
                           for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        items = [pack(inner, tensors, f'{prefix}{i}') for i, inner in enumerate(value)]
        return items if isinstance(value, list) else {'$tuple': items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f'a checkpoint cannot hold {name or "a value"}, of type {type(value).__name__}')


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that was given to `pack`; its tensors are copies."""
    if isinstance(value, list):
        return [unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if '$tensor' in value:
        # Not the memory of the file, which is not aligned as torch's own
        return tensors[value['$tensor']].clone()
    if '$items' in value:
        return {unpack(key, tensors): unpack(inner, tensors) for key, inner in value['$items']}
    if '$tuple' in value:
        return tuple(unpack(value['$tuple'], tensors))
    return {key: unpack(inner, tensors) for key, inner in value.items()}


def unpack_model(value: Any, tensors: Mapping[str, Tensor], *, path: Path) -> dict[str, Tensor]:
    """
    The weights of the checkpoint in `path`. Raises `UserError` if `value`, what it says of them, is damaged, and for
    weights that are not finite, with which nothing can be predicted.
    """
    try:
        state = unpack(value, tensors)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise TypeError('it is no table of weights')
    except UNPACK_ERRORS as e:
        raise UserError(f'the model of {path} is damaged: {e}') from None
    if not are_finite({name: weight for name, weight in state.items() if isinstance(weight, Tensor)}):
        raise UserError(f'the model of {path} has weights that are not finite')
    return state
