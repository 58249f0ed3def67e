"""
# `name=value` from the command line

labml keeps the name of an unknown option as a plain string, and finds an unknown nested name when it builds the nested
configs, if ever. Here every name and value is checked against the configs before anything is built.
"""
import itertools
import json
import math
import os
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from labml.configs import BaseConfigs

from labml_mlm.common.errors import UserError, did_you_mean, squeezed
from labml_mlm.items.other_names import Meaning, other_name, other_value
from labml_mlm.items.schema import ConfigField, config_items, current_names, named_values, scalar_type

# What `train` takes beside overrides
_OPTIONS = '--resume', '--help', '--name', '--comment', '--tags'
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
    for i, argument in enumerate(arguments):
        name, equals, text = argument.partition('=')
        if not equals or not name or name.startswith('-') or not text and _is_value(arguments[i + 1:]):
            raise UserError(_how_to_write(items, renamed, arguments[i:]))
        name = renamed.get(name, name)
        item = find_item(items, name)
        inner = next((i for i in items.values() if i.name.startswith(f'{name}.') and _spelled(text, i.allowed)), None)
        if inner is not None and not _spelled(text, item.allowed) and other_value(name, text) is None:
            raise UserError(f'`{argument}`: `{name}` has nested items. Did you mean '
                            f'`{inner.name}={_spelled(text, inner.allowed)}`?')
        values[name] = parse_value(item, text)
    return values


def find_item(items: dict[str, ConfigField], name: str) -> ConfigField:
    """The item of that name. Raises `UserError` if there is none, or if it cannot be set."""
    item = items.get(name)
    if item is None:
        parent = name.rpartition('.')[0]
        if parent in items and not items[parent].is_nested:
            raise UserError(f'`{name}`: there is no such item, because `{parent}` has no nested items.'
                            f'{_nearest(name, items)}')
        meaning = other_name(name, items)
        if meaning is not None and meaning.item in items and (why := items[meaning.item].declaration.refused):
            raise UserError(f'`{name}`, which is `{meaning.item}` here, cannot be set: {why}')
        nearest = _nearest(name, items)
        end = '' if not nearest or nearest.endswith('?') else '.'
        raise UserError(f'`{name}`: there is no such item.{nearest}{end} `--help all` lists them all')
    if item.declaration.refused:
        raise UserError(f'`{name}` cannot be set: {item.declaration.refused}')
    return item


def _nearest(name: str, items: dict[str, ConfigField]) -> str:
    """The end of a message with the item that an unknown name may mean."""
    known = [item.name for item in items.values() if item.is_settable]
    meaning = None if _spelled(name, known) else other_name(name, items)
    return meaning.guess if meaning is not None else did_you_mean(name, known)


def _spelled(name: str, known: Sequence[str]) -> str | None:
    """The known name that differs in spelling alone."""
    return next((k for k in known if squeezed(k) == squeezed(name)), None)


def _how_to_write(items: dict[str, ConfigField], renamed: dict[str, str], arguments: Sequence[str]) -> str:
    """
    A message for `--epochs 2`, `--epochs=2`, `epochs 2`, `epochs = 2` and the like: the first of the arguments is no
    override.
    """
    first, *rest = arguments
    written, equals, text = first.partition('=')
    given = [first]
    if not equals and rest[:1] != ['='] and rest and rest[0].startswith('='):
        given, text = [first, rest[0]], rest[0][1:]
    elif not text:
        # `=` may stand alone
        n = 1 + (not equals and rest[:1] == ['='])
        given = arguments[:n]
        if _is_value(arguments[n:]):
            given, text = arguments[:n + 1], arguments[n]
    name = written.lstrip('-')
    known = [item.name for item in items.values() if item.is_settable]
    here = renamed.get(name) or _spelled(name, known)
    meaning = Meaning(here) if here else other_name(name, items) if name else None
    if meaning is None:
        if written.startswith('-'):
            return f'`{first}` is neither an override nor an option.' \
                   + (did_you_mean(written, _OPTIONS) or did_you_mean(name, known))
        return f'`{first}` is not an override; one looks like `seq_len=64`. `--help` lists items'
    return f'`{" ".join(given)}`: write `{_written(items, meaning, text)}`' + (f'. {meaning.note}' if meaning.note
                                                                             else '')


def _written(items: dict[str, ConfigField], meaning: Meaning, text: str) -> str:
    """An override, or an option, as it should be given."""
    if '=' in meaning.here or meaning.here == '--help':
        return meaning.here
    if meaning.here.startswith('--'):
        return f'{meaning.here} {text or "RUN"}'
    if not meaning.takes_value:
        return f'{meaning.here}=VALUE'
    is_switch = not text and scalar_type(items[meaning.item].type)[0] is bool
    return f'{meaning.here}={shlex.quote(text) if text else "true" if is_switch else "VALUE"}'


def _is_value(arguments: Sequence[str]) -> bool:
    """May the first of the arguments be a value that stands apart from its name?"""
    return bool(arguments) and '=' not in arguments[0] and not re.match('-[^0-9.]|-$', arguments[0])


def parse_value(item: ConfigField, text: str) -> Any:
    """The value that `text` stands for. Raises `UserError` if the item does not allow it."""
    if text in item.declaration.refused_options:
        raise UserError(f'`{item.name}={text}` is not possible: {item.declaration.refused_options[text]}')
    if text in item.allowed:
        return text
    scalar, is_optional = scalar_type(item.type)
    if text == 'none' and is_optional:
        return None
    if item.declaration.is_path and text and os.path.exists(os.path.expanduser(text)):
        # Commas and brackets may be parts of its name
        return [text]
    if scalar is str and item.options:
        scalar = None
    if scalar is None:
        if isinstance(item.type, str):
            raise UserError(f'`{item.name}` cannot be set on the command line: its annotation `{item.type}` cannot be '
                            'evaluated, as not all of its names are imported at the top of its module')
        if not item.allowed:
            raise UserError(f'`{item.name}` cannot be set on the command line: it is an object, to be set in Python')
        names = named_values(item) + ['none'] * is_optional
        raise UserError(f'`{item.name}={text}`: it must be one of {", ".join(dict.fromkeys(names))}.'
                        f'{_nearest_value(item, text)}')
    try:
        value = _parse_as(scalar, text)
    except ValueError:
        names = ''.join(f', or {name}' for name in [*named_values(item), *(['none'] if is_optional else [])])
        raise UserError(f'`{item.name}={text}`: it must be {describe(scalar)}{names}.'
                        f'{_nearest_value(item, text)}') from None
    if (allowed := item.declaration.range) is not None:
        for number in value if isinstance(value, list | tuple) else [value]:
            if number not in allowed:
                raise UserError(f'`{item.name}={text}`: it must be {allowed}')
    return value


def _nearest_value(item: ConfigField, text: str) -> str:
    """The end of a message with the value that an unknown one may mean."""
    meaning = other_value(item.name, text)
    return did_you_mean(text, named_values(item)) if meaning is None else meaning.guess


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
    if scalar == int | float:
        # A whole number is an integer
        value = _parse_as(float, text)
        return int(value) if value.is_integer() else value
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
        inner = _without_brackets(text.strip())
        parts = [part.strip() for part in inner.split(',')] if inner.strip() else []
    kinds = arguments if origin is tuple and Ellipsis not in arguments else arguments[:1] * len(parts)
    if len(kinds) != len(parts):
        raise ValueError(text)
    return origin(_parse_as(kind, part if isinstance(part, str) else json.dumps(part))
                  for kind, part in zip(kinds, parts, strict=True))


def _without_brackets(text: str) -> str:
    """A text without the brackets around it; those of `[MASK]`, in it, are a part of it."""
    for opening, closing in ('[]', '()'):
        depths = list(itertools.accumulate((c == opening) - (c == closing) for c in text))
        if text.startswith(opening) and text.endswith(closing) and depths.index(0) == len(text) - 1:
            return text[1:-1]
    return text


def describe(scalar: Any) -> str:
    """A type that the command line knows, in words."""
    names = {int: 'an integer', float: 'a number', str: 'a string', bool: 'true or false'}
    if scalar == int | float:
        scalar = float
    if scalar in names:
        return names[scalar]
    plural = {int: 'integers', float: 'numbers', str: 'strings', bool: 'booleans'}
    arguments = typing.get_args(scalar)
    count = f'{len(arguments)} ' if typing.get_origin(scalar) is tuple and Ellipsis not in arguments else ''
    return f'a comma-separated list of {count}{plural[arguments[0]]}'
