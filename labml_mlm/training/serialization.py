"""TODO."""
from typing import Any

import torch
from torch import Tensor

from labml_mlm.distributed.parallel import whole


class _Nothing(dict):
    """Tensors of a rank that does not save them."""


def pack(value: Any, tensors: dict[str, Tensor], name: str = '') -> Any:
    """
    `value` for JSON, with copies of its tensors, on the CPU and contiguous, in `tensors`.

    Raises `TypeError` if there is anything in it but tensors, dicts, lists, tuples, numbers, texts, truth values and
    `None`.
    """
    if isinstance(value, Tensor):
        while name in tensors:  # 'a.b', and 'b' in 'a'
            name += "'"
        value = whole(value.detach())
        if not isinstance(tensors, _Nothing):
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
    raise TypeError(f'a checkpoint cannot hold {name or "a value"}, which is a {type(value).__name__}')


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` was given; the tensors are copies."""
    if isinstance(value, list):
        return [unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if '$tensor' in value:
        # Not the memory of the file: it is not aligned as torch's own
        return tensors[value['$tensor']].clone()
    if '$items' in value:
        return {unpack(key, tensors): unpack(inner, tensors) for key, inner in value['$items']}
    if '$tuple' in value:
        return tuple(unpack(value['$tuple'], tensors))
    return {key: unpack(inner, tensors) for key, inner in value.items()}

