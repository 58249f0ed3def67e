"""
# Configs as others may read them

labml writes all configs to `configs.yaml`, from where they go to the labml app: each item with what it was set to and
what was computed from that. A computed value may be a whole text, or an object whose `repr` has the characters of one.
So items that nobody can set are left out, and computed values are shown only if they are numbers or were set by a
person; of others, the type is.
"""
import functools
import inspect
from typing import Any

import torch
from labml.configs import BaseConfigs

from labml_mlm.items.declarations import DeclaredConfigs
from labml_mlm.items.own_code import is_plain
from labml_mlm.items.schema import ConfigField, computed_values, config_items, scalar_type

# Characters of a value
_MAX_VALUE = 500


def shown_configs(conf: DeclaredConfigs, configs: dict[str, dict]) -> dict[str, dict]:
    """
    Those of `configs`, labml's description of all items of `conf` by dotted name, that a person can set, with values
    that may be shown. `conf._described` has descriptions of values in place of them.
    """
    items, given, computed, shown = config_items(conf), _set_values(conf), computed_values(conf), {}
    # In nested configs, options set attributes
    assigned = () if conf._Configs__ancestry else conf._assigned
    described = conf._described
    for name, config in configs.items():
        item = items.get(name)
        is_given = config['is_explicitly_specified'] or name in assigned
        if item is None or item.declaration.refused or not (is_given or _has_choice(item)):
            continue
        value = given.get(name)
        if value is None and isinstance(item.default, str) and item.default in item.options:
            value = item.default
        is_computed = isinstance(value, str) and value in item.options
        result = described[name] if name in described else _shown(computed.get(name), is_computed=is_computed)
        if isinstance(computed.get(name), str) and computed[name] == value and is_computed:
            # The name of an aggregate says it all
            result = None
        # What is described itself is never shown
        is_hidden = name in described and not is_computed
        shown[name] = config | {'value': type(value).__qualname__ if is_hidden else _shown(value, is_computed=False),
                                'computed': result, 'is_explicitly_specified': is_given}
    return shown


def _set_values(conf: BaseConfigs, prefix: str = '') -> dict[str, Any]:
    """What items were set to, as overrides and attributes, here and in nested configs, by dotted name."""
    values = {prefix + name: value for name, value in (conf._Configs__values | conf._Configs__values_override).items()}
    for key, nested in conf._Configs__cached_configs.items():
        values |= _set_values(nested, f'{prefix}{key}.')
    return values


def _has_choice(item: ConfigField) -> bool:
    """Can it be given on the command line, to more than what it is by default?"""
    return item.is_settable and (scalar_type(item.type)[0] is not None or len(item.allowed) > 1)


def _shown(value: Any, *, is_computed: bool) -> Any:
    """A value that a person gave, or a number; a long one is cut. Of what an option has computed, the type."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        # The name of the option says more
        return None
    if not is_plain(value) or is_computed:
        return type(value).__qualname__
    if isinstance(value, str):
        return value if len(value) <= _MAX_VALUE else value[:_MAX_VALUE] + '…'
    if len(str(value)) > _MAX_VALUE:
        return f'{len(value):,} values'
    return [_shown(inner, is_computed=False) for inner in value]
