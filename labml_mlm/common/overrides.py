"""
# `name=value` from the command line

labml keeps the name of an unknown option as a plain string, and finds an unknown nested name when it builds the nested
configs, if ever. Here every name and value is checked against the configs before anything is built.
"""
import json
import math
import re
import textwrap
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from labml.configs import BaseConfigs

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.schema import NO_DEFAULT, ConfigField, config_items, current_names, scalar_type

_BOOLS = {'true': True, 'yes': True, 'on': True, '1': True, 'false': False, 'no': False, 'off': False, '0': False}


def parse_overrides(conf: BaseConfigs, arguments: Sequence[str], *,
                    chosen: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """
    The values of `name=value` arguments by dotted name, each of its item's type; the last one of a name wins.

    * `chosen` are other values that will be given, by dotted name: which items there are depends on the options among
      them

    Raises `UserError` for what is not `name=value`, for unknown names, and for values that are not allowed.
    """
    items = config_items(conf)
    renamed = current_names(items)
    # Options first: the items of nested configs depend on them
    pairs = [argument.partition('=')[::2] for argument in arguments]
    items = config_items(conf, chosen={**chosen, **{renamed.get(name, name): text for name, text in pairs}})
    values = {}
    for argument in arguments:
        name, equals, text = argument.partition('=')
        if not equals or not name:
            raise UserError(f'`{argument}` is not an override; one looks like `seq_len=64`. '
                            f'`--help` lists all items')
        name = renamed.get(name, name)
        item = find_item(items, name)
        inner = next((i for i in items.values() if i.name.startswith(f'{name}.') and text in i.allowed), None)
        if inner is not None and text not in item.allowed:
            raise UserError(f'`{argument}`: `{name}` has nested items. Did you mean `{inner.name}={text}`?')
        values[name] = parse_value(item, text)
    return values


def find_item(items: dict[str, ConfigField], name: str) -> ConfigField:
    """The item of that name. Raises `UserError` if there is none, or if it cannot be set."""
    item = items.get(name)
    known = [item.name for item in items.values() if item.is_settable]
    if item is None:
        parent = name.rpartition('.')[0]
        if parent in items and not items[parent].is_nested:
            raise UserError(f'`{name}`: there is no such item, because `{parent}` has no nested items.'
                            f'{did_you_mean(name, known)}')
        raise UserError(f'`{name}`: there is no such item.{did_you_mean(name, known)} '
                        f'`--help` lists them all')
    if item.declaration.refused:
        raise UserError(f'`{name}` cannot be set: {item.declaration.refused}')
    return item


def parse_value(item: ConfigField, text: str) -> Any:
    """The value that `text` stands for. Raises `UserError` if the item does not allow it."""
    if text in item.declaration.refused_options:
        raise UserError(f'`{item.name}={text}` is not possible: {item.declaration.refused_options[text]}')
    if text in item.allowed:
        return text
    scalar, is_optional = scalar_type(item.type)
    if text == 'none' and is_optional:
        return None
    if scalar is str and item.options:
        scalar = None
    if scalar is None:
        if isinstance(item.type, str):
            raise UserError(f'`{item.name}` cannot be set on the command line: its annotation `{item.type}` cannot be '
                            'evaluated, as not all of its names are imported at the top of its module')
        if not item.allowed:
            raise UserError(f'`{item.name}` cannot be set on the command line: it is an object, to be set in Python')
        raise UserError(f'`{item.name}={text}`: it must be one of {", ".join(item.allowed)}.'
                        f'{did_you_mean(text, item.allowed)}')
    try:
        value = _parse_as(scalar, text)
    except ValueError:
        names = ''.join(f', or {name}' for name in [*item.allowed, *(['none'] if is_optional else [])])
        raise UserError(f'`{item.name}={text}`: it must be {_describe(scalar)}{names}.'
                        f'{did_you_mean(text, item.allowed)}') from None
    if (allowed := item.declaration.range) is not None:
        for number in value if isinstance(value, list | tuple) else [value]:
            if number not in allowed:
                raise UserError(f'`{item.name}={text}`: it must be {allowed}')
    return value


def help_text(conf: BaseConfigs) -> str:
    """Every item that can be set, with its default and what is allowed."""
    lines = []
    for item in config_items(conf).values():
        if item.is_settable:
            lines.append(f'  {item.name}' + ('' if item.default is NO_DEFAULT else f' = {show(item.default)}'))
            description = ' '.join(filter(None, [item.declaration.help, f'({allowed_text(item)})']))
            lines += textwrap.wrap(description, 100, initial_indent=' ' * 8, subsequent_indent=' ' * 8)
    return '\n'.join(lines)


def allowed_text(item: ConfigField) -> str:
    """The values that an item allows, in words."""
    scalar, is_optional = scalar_type(item.type)
    allowed, declaration = list(item.allowed), item.declaration
    if scalar is not None and not (scalar is str and item.options):
        allowed.append(_describe(scalar) + (f' {declaration.range}' if declaration.range else '')
                       + (f', in {declaration.unit}' if declaration.unit else ''))
    if is_optional:
        allowed.append('none')
    return ' or '.join(filter(None, [', '.join(allowed[:-1]), *allowed[-1:]]))


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool | type(None)):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value) or '(none)'
    if isinstance(value, list | tuple):
        return ','.join(map(str, value)) or '(none)'
    return type(value).__name__


def _parse_as(scalar: Any, text: str) -> Any:
    """Raises `ValueError` if `text` cannot be parsed."""
    origin = typing.get_origin(scalar)
    if origin in (list, tuple):
        return _parse_sequence(origin, typing.get_args(scalar), text)
    if scalar is bool:
        if text.lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.lower()]
    if scalar is str:
        return text
    if scalar is int:
        if re.fullmatch(r'[+-]?[\d_]+', text):
            return int(text)
        value = float(text)
        if not value.is_integer():
            raise ValueError(text)
        return int(value)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _parse_sequence(origin: type, arguments: tuple, text: str) -> Any:
    """JSON, or values separated by commas, with or without brackets."""
    try:
        parts = json.loads(text)
        parts = parts if isinstance(parts, list) else [text]
    except json.JSONDecodeError:
        inner = text.strip().removeprefix('[').removesuffix(']').removeprefix('(').removesuffix(')')
        parts = [part.strip() for part in inner.split(',')] if inner.strip() else []
    kinds = arguments if origin is tuple and Ellipsis not in arguments else arguments[:1] * len(parts)
    if len(kinds) != len(parts):
        raise ValueError(text)
    return origin(_parse_as(kind, part if isinstance(part, str) else json.dumps(part))
                  for kind, part in zip(kinds, parts, strict=True))


def _describe(scalar: Any) -> str:
    names = {int: 'an integer', float: 'a number', str: 'a string', bool: 'true or false'}
    if scalar in names:
        return names[scalar]
    plural = {int: 'integers', float: 'numbers', str: 'strings', bool: 'booleans'}
    arguments = typing.get_args(scalar)
    count = f'{len(arguments)} ' if typing.get_origin(scalar) is tuple and Ellipsis not in arguments else ''
    return f'a comma-separated list of {count}{plural[arguments[0]]}'
