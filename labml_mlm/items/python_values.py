"""
# Values that are set in Python

labml takes whatever stands in a class or is assigned, and what is wrong shows late, as an error from somewhere within,
or never. Here it is checked against the declarations, as the command line is.

An attribute of a class that has no annotation is an item of the user's own, unless its name is nearly that of another
item, or one by which other tools call it: then it is a mistake.
"""
import difflib
import numbers
import os
import typing
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.items.declarations import comparable
from labml_mlm.items.other_names import other_name
from labml_mlm.items.overrides import describe, find_item
from labml_mlm.items.schema import ConfigField, config_items, current_names, given_values, is_own, scalar_type

# Ratio of equal characters from which on a name is a mistake for another
_NEAR = 0.85
_PLAIN = bool, numbers.Number, str, list, tuple, dict, type(None)
# What a number may be in place of
_NUMBERS = {int: numbers.Integral, float: numbers.Real}


def check_python_values(conf: BaseConfigs):
    """
    Raises `UserError` for a value that its item does not allow, and for the name of an item that does not exist: of
    values and attributes of `conf`, and of what stands in the user's own classes of configs, also nested ones.
    """
    given = given_values(conf) | dict(_assigned(conf))
    items = config_items(conf, chosen=given)
    for name, value in given.items():
        _check(conf, items, name, value)
    _check_classes(conf, items)


def checked_values(conf: BaseConfigs, values: Mapping[str, Any], *,
                   chosen: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """
    Values for a run by dotted name, as the command line gives them, by the present names of their items.

    * `chosen` are other values that will be given, by dotted name

    Raises `UserError` for unknown names, and for values that are not allowed.
    """
    renamed = current_names(config_items(conf))
    values = {renamed.get(name, name): value for name, value in values.items()}
    # The items of nested configs depend on the options among them
    items = config_items(conf, chosen={**given_values(conf), **chosen, **values})
    for name, value in values.items():
        find_item(items, name)
        _check(conf, items, name, value)
    return {name: _as_text(comparable(value)) for name, value in values.items()}


def _as_text(value: Any) -> Any:
    """Paths as texts, as they are on the command line."""
    if isinstance(value, list | tuple):
        return type(value)(map(_as_text, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def merged_values(values: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name, and `more`, which win. Raises `UserError` for what is no such dict."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{_shown(values)} is no dict of values by name, such as {{'transformer.n_layers': 2}}")
    return {**values, **more}


def check_name(conf: BaseConfigs, name: str):
    """Raises `UserError` if there is no item of that dotted name, as far as its first part tells."""
    if name.partition('.')[0] not in conf._Configs__types:
        raise UserError(f'`{name}`: {type(conf).__name__} has no such item.{did_you_mean(name, _settable(conf))}')


def _settable(conf: BaseConfigs) -> list[str]:
    return [name for name, item in config_items(conf).items() if not item.declaration.refused]


def _assigned(conf: BaseConfigs, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Attributes of `conf` and of configs in it, by dotted name."""
    for name in getattr(conf, '_assigned', ()):
        yield prefix + name, conf._Configs__values[name]
    for key, nested in conf._Configs__cached_configs.items():
        yield from _assigned(nested, f'{prefix}{key}.')


def _check_classes(conf: BaseConfigs, items: Mapping[str, ConfigField], prefix: str = ''):
    """Checks what stands in the user's own classes, of `conf` and of the configs nested in it."""
    own = [class_ for class_ in type(conf).__mro__ if is_own(class_)]
    set_there = {name: class_ for class_ in reversed(own) for name, item in vars(class_).items()
                 if isinstance(item, ConfigItem) and item.has_value}
    annotated = {name for class_ in own for name in vars(class_).get('__annotations__', {})}
    for name, class_ in set_there.items():
        value, where = conf._Configs__defaults[name], f' in the class {class_.__name__}'
        if not items[prefix + name].is_own:
            _check(conf, items, prefix + name, value, where=where)
        elif name not in annotated and isinstance(value, _PLAIN):
            _refuse_near(items, name, value, where=where)
    for name, item in items.items():
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and item.nested is not None and '.' not in inner:
            _check_classes(item.nested(), items, f'{name}.')


def _refuse_near(items: Mapping[str, ConfigField], name: str, value: Any, *, where: str):
    """Raises `UserError` for a new name that looks like a mistake."""
    known = {item.rpartition('.')[2]: item for item, field in reversed(items.items())
             if not field.is_own and not field.declaration.refused}
    meaning = other_name(name, items)
    meant = meaning.item if meaning and meaning.item in items else None
    if near := difflib.get_close_matches(name, known, n=1, cutoff=_NEAR):
        meant = known[near[0]]
    if meant is not None:
        raise UserError(f'`{name} = {_shown(value)}`{where}: there is no such item. Did you mean `{meant}`?'
                        f'{_how_to_nest(meant, value)}. An item of your own with this name needs an annotation'
                        .replace('?.', '?'))


def _check(conf: BaseConfigs, items: Mapping[str, ConfigField], name: str, value: Any, *, where: str = ''):
    """Raises `UserError` if there is no such item, or if it does not allow the value."""
    written, value = f'`{name} = {_shown(value)}`{where}', comparable(value)
    item = items.get(name)
    if item is None:
        known = [name for name, field in items.items() if not field.declaration.refused]
        raise UserError(f'{written}: there is no such item.{did_you_mean(name, known)}')
    if item.is_own or isinstance(value, str) and value in item.own_options:
        return
    if item.declaration.refused:
        raise UserError(f'{written}: it cannot be set: {item.declaration.refused}')
    if isinstance(value, str) and value in item.declaration.refused_options:
        raise UserError(f'{written} is not possible: {item.declaration.refused_options[value]}')
    if item.nested is not None and isinstance(value, dict | str | numbers.Number) and not _is_option(item, value):
        raise UserError(f'{written}: {_of_nested(items, item, value)}')
    if (must_be := wrong_value(item, value)) is not None:
        guess = did_you_mean(value, _options(item)) if isinstance(value, str) else ''
        raise UserError(f'{written}: it must be {must_be}' + (f'.{guess}' if guess else ''))


def _of_nested(items: Mapping[str, ConfigField], item: ConfigField, value: Any) -> str:
    """The end of a message: what is meant by a value for an item that has nested ones."""
    if isinstance(value, dict):
        first = next((f'{item.name}.{key}' for key in value), f'{item.name}.…')
        return f'`{item.name}` has nested items.{_how_to_nest(first, next(iter(value.values()), "…"))}'
    for inner in items.values():
        if inner.name.startswith(f'{item.name}.') and isinstance(value, str):
            names = {name.lower(): name for name in inner.allowed}
            if (meant := names.get(value.lower())) is not None:
                return f'`{item.name}` has nested items. Did you mean `{inner.name}={meant}`?' \
                       f'{_how_to_nest(inner.name, meant)}'
    return f'it must be one of {", ".join(_options(item))}, or an object'


def _how_to_nest(name: str, value: Any) -> str:
    """How a nested item is set in Python; empty for one that is not nested."""
    return f' In Python: `conf.set_values({{{name!r}: {_shown(value)}}})`' if '.' in name else ''


def wrong_value(item: ConfigField, value: Any) -> str | None:
    """What the value of an item must be, if this is no such value."""
    scalar, is_optional = scalar_type(item.type)
    if _is_option(item, value) or value is None and (is_optional or scalar is None):
        return None
    names = f'one of {", ".join(_options(item))}' if _options(item) else ''
    if scalar is None or scalar is str and item.options:
        # An object may stand in place of what an option builds; a text has spaces, or is long
        is_name = isinstance(value, str) and not (scalar is str and (len(value) > 64 or len(value.split()) > 1))
        is_wrong = is_name or isinstance(value, numbers.Number)
        is_free = item.type is Any and not item.options
        return ', or '.join(filter(None, [names, 'an object'])) if is_wrong and not is_free else None
    if item.declaration.is_path and isinstance(value, str | os.PathLike):
        return None
    if not _is_of(scalar, value):
        kind = describe(scalar).replace('a comma-separated list', 'a list')
        return ', or '.join(filter(None, [kind, names, 'None' if is_optional else '']))
    if (allowed := item.declaration.range) is not None:
        for number in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(number, str) and number not in allowed:
                return str(allowed)
    return None


def _is_of(scalar: Any, value: Any) -> bool:
    """Is a value of a type that the command line knows?"""
    origin, arguments = typing.get_origin(scalar), typing.get_args(scalar)
    if scalar == int | float:
        scalar = float
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return False
        kinds = arguments if origin is tuple and Ellipsis not in arguments else arguments[:1] * len(value)
        return len(kinds) == len(value) and all(map(_is_of, kinds, value))
    if scalar is bool:
        return isinstance(value, bool) or value in (0, 1) and isinstance(value, int)
    if scalar is str:
        return isinstance(value, str | os.PathLike)
    return isinstance(value, _NUMBERS[scalar]) and not isinstance(value, bool)


def _options(item: ConfigField) -> list[str]:
    """The names of its options. A default that is none may be a mistake."""
    return [name for name in item.allowed if name in item.options or name == item.base_default]


def _is_option(item: ConfigField, value: Any) -> bool:
    return isinstance(value, str) and value in _options(item)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:60]}…'
