"""
# `name=value` from the command line

labml keeps an unknown option name as a plain string, and finds an unknown nested name when it builds the nested
configs, if ever. Here every name and value is checked against the configs before anything is built.
"""
import inspect
import json
import math
import re
import sys
import textwrap
import types
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from labml.configs import BaseConfigs

from labml_mlm.errors import Range, UserError, did_you_mean

_BOOLS = {'true': True, 'yes': True, 'on': True, '1': True, 'false': False, 'no': False, 'off': False, '0': False}
_NO_DEFAULT = object()


@dataclass
class Item:
    """A config item, as the command line sees it."""
    name: str
    type: Any
    # What it does, from the comment above it
    comment: str
    default: Any = _NO_DEFAULT
    # Names of options and aggregates
    options: list[str] = field(default_factory=list)
    # Reasons why an option must not be chosen, by its name
    refused_options: dict[str, str] = field(default_factory=dict)
    # Why the item must not be given, if so
    refused: str | None = None
    range: Range | None = None
    is_nested: bool = False

    @property
    def allowed(self) -> list[str]:
        """The values that have a name."""
        names = [name for name in self.options if name not in self.refused_options]
        if isinstance(self.default, str) and self.default not in names and self.options:
            names.append(self.default)
        # What labml calls an option without a name
        return [name for name in names if not name.startswith('_')]

    @property
    def is_given(self) -> bool:
        """Can it be given on the command line?"""
        return self.refused is None and bool(self.allowed or _scalar_type(self.type)[0])


def items_of(conf: BaseConfigs, prefix: str = '', outer: dict[str, dict] | None = None) -> dict[str, Item]:
    """
    All items of `conf` and of the configs nested in it, by dotted name. Nothing is computed.

    The configs may have these tables, by the name of an item or by the dotted name of a nested one: `_ranges` of
    numbers, `_follows`, which tells what an item follows by default, and `_refused`, reasons why an item, or an
    `item=option`, cannot be given.
    """
    # Tables by full name; those of the outer configs win
    tables = {table: {**{prefix + key: value for key, value in getattr(conf, table, {}).items()},
                      **(outer or {}).get(table, {})} for table in ('_ranges', '_follows', '_refused')}
    comments = _comments(type(conf))
    items = {}
    for key, annotation in conf._Configs__types.items():
        name = prefix + key
        annotation = _resolved(annotation, conf, key)
        functions = conf._Configs__options.get(key, {})
        options = [*functions, *sorted(conf._Configs__aggregates_options.get(key, ()))]
        default = conf._Configs__values.get(key, conf._Configs__defaults.get(key, _NO_DEFAULT))
        if default is _NO_DEFAULT and functions:
            default = next(iter(functions))
        nested = _nested_class(annotation, default, functions)
        refused = tables['_refused']
        items[name] = Item(name, annotation, comments.get(key, ''), options=options,
                           default=tables['_follows'].get(name, default),
                           refused_options={option: refused[f'{name}={option}'] for option in options
                                            if f'{name}={option}' in refused},
                           refused=refused.get(name), range=tables['_ranges'].get(name), is_nested=nested is not None)
        if nested is not None:
            items |= items_of(nested(), f'{name}.', tables)
    return items


def parse_overrides(conf: BaseConfigs, arguments: Sequence[str]) -> dict[str, Any]:
    """
    The values of `name=value` arguments by dotted name, each of its item's type; the last of a name wins.

    Raises `UserError` for what is not `name=value`, for unknown names, and for values that are not allowed.
    """
    items = items_of(conf)
    values = {}
    for argument in arguments:
        name, equals, text = argument.partition('=')
        if not equals or not name:
            raise UserError(f'`{argument}` is not an override; one looks like `seq_len=64`. '
                            f'`--help` lists what can be given')
        item = find(items, name)
        inner = next((i for i in items.values() if i.name.startswith(f'{name}.') and text in i.allowed), None)
        if inner is not None and text not in item.allowed:
            raise UserError(f'`{argument}`: `{name}` has items below it. Did you mean `{inner.name}={text}`?')
        values[name] = parse(item, text)
    return values


def find(items: dict[str, Item], name: str) -> Item:
    """The item of that name. Raises `UserError` if there is none, or if it is not to be given."""
    item = items.get(name)
    known = [item.name for item in items.values() if item.is_given]
    if item is None:
        parent = name.rpartition('.')[0]
        if parent in items and not items[parent].is_nested:
            raise UserError(f'`{name}`: there is no such item, for `{parent}` has no items below it.'
                            f'{did_you_mean(name, known)}')
        raise UserError(f'`{name}`: there is no such item.{did_you_mean(name, known)} '
                        f'`--help` lists them all')
    if item.refused is not None:
        raise UserError(f'`{name}` cannot be given: {item.refused}')
    return item


def parse(item: Item, text: str) -> Any:
    """The value that `text` stands for. Raises `UserError` if it is none of the item's."""
    if text in item.refused_options:
        raise UserError(f'`{item.name}={text}` is not possible: {item.refused_options[text]}')
    if text in item.allowed:
        return text
    scalar, is_optional = _scalar_type(item.type)
    if text == 'none' and is_optional:
        return None
    if scalar is str and item.options:
        scalar = None
    if scalar is None:
        if not item.allowed:
            raise UserError(f'`{item.name}` cannot be given on the command line: it is an object, to be set in Python')
        raise UserError(f'`{item.name}={text}`: it is one of {", ".join(item.allowed)}.'
                        f'{did_you_mean(text, item.allowed)}')
    try:
        value = _parse_as(scalar, text)
    except ValueError:
        names = ''.join(f', or {name}' for name in [*item.allowed, *(['none'] if is_optional else [])])
        raise UserError(f'`{item.name}={text}`: it has to be {_describe(scalar).rstrip(",")}{names}.'
                        f'{did_you_mean(text, item.allowed)}') from None
    if item.range is not None:
        for number in value if isinstance(value, list | tuple) else [value]:
            if number not in item.range:
                raise UserError(f'`{item.name}={text}`: it has to be {item.range}')
    return value


def help_text(conf: BaseConfigs) -> str:
    """Every item that can be given, with its default and what is allowed."""
    lines = []
    for item in items_of(conf).values():
        if item.is_given:
            lines.append(f'  {item.name}' + ('' if item.default is _NO_DEFAULT else f' = {_show(item.default)}'))
            about = ' '.join(filter(None, [item.comment, f'({_allowed_text(item)})']))
            lines += textwrap.wrap(about, 100, initial_indent=' ' * 8, subsequent_indent=' ' * 8)
    return '\n'.join(lines)


def _allowed_text(item: Item) -> str:
    scalar, is_optional = _scalar_type(item.type)
    allowed = list(item.allowed)
    if scalar is not None and not (scalar is str and item.options):
        allowed.append(_describe(scalar) + (f' {item.range}' if item.range else ''))
    if is_optional:
        allowed.append('none')
    return ' or '.join(filter(None, [', '.join(allowed[:-1]), *allowed[-1:]]))


def _nested_class(annotation: Any, default: Any, functions: dict) -> type[BaseConfigs] | None:
    """The class of nested configs: from the annotation, the default, or what an option says that it returns."""
    candidates = [annotation, type(default)]
    candidates += [_evaluated(function.func.__annotations__.get('return'), function.func.__globals__)
                   for function in functions.values() if inspect.isfunction(function.func)]
    # The last is the most special one
    nested = [c for c in candidates if inspect.isclass(c) and issubclass(c, BaseConfigs)]
    return nested[-1] if nested else None


def _resolved(annotation: Any, conf: BaseConfigs, key: str) -> Any:
    """The annotation of an item; one that is a string, in the module of its class."""
    for class_ in type(conf).__mro__:
        if key in vars(class_).get('__annotations__', {}):
            return _evaluated(annotation, vars(sys.modules[class_.__module__]))
    return annotation


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation that is a string, evaluated; as it is, if that does not work."""
    try:
        return eval(annotation, dict(names)) if isinstance(annotation, str) else annotation
    except Exception:  # a name for type checkers only, for example
        return annotation


def _scalar_type(annotation: Any) -> tuple[Any, bool]:
    """The type to parse as, or `None` if there is none, and whether `none` is allowed."""
    is_optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        is_optional = len(parts) < len(typing.get_args(annotation))
        annotation = parts[0] if len(parts) == 1 else None
    origin = typing.get_origin(annotation) or annotation
    if origin in (list, tuple):
        arguments = typing.get_args(annotation)
        is_parsable = arguments and all(a in (int, float, str, bool) for a in arguments if a is not Ellipsis)
        return (annotation if is_parsable else None), is_optional
    return (annotation if annotation in (int, float, str, bool) else None), is_optional


def _parse_as(scalar: Any, text: str) -> Any:
    """Raises `ValueError` if `text` is no such thing."""
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
    names = {int: 'an integer', float: 'a number', str: 'a text', bool: 'true or false'}
    if scalar in names:
        return names[scalar]
    plural = {int: 'integers', float: 'numbers', str: 'texts', bool: 'truth values'}
    arguments = typing.get_args(scalar)
    count = f'{len(arguments)} ' if typing.get_origin(scalar) is tuple and Ellipsis not in arguments else ''
    return f'a list of {count}{plural[arguments[0]]}, separated by commas,'


def _show(value: Any) -> str:
    if isinstance(value, bool | type(None)):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value) or '(none given)'
    if isinstance(value, list | tuple):
        return ','.join(map(str, value)) or '(none given)'
    return type(value).__name__


def _comments(class_: type) -> dict[str, str]:
    """The comment above each item, from the source of the class and its bases."""
    comments = {}
    for base in reversed(class_.__mro__):
        try:
            # Python compiles the file to find the class, and warns of escapes in labml's docstrings
            with warnings.catch_warnings(action='ignore'):
                source = inspect.getsource(base) if issubclass(base, BaseConfigs) else ''
        except OSError:
            continue  # No source, as in an interactive session
        above: list[str] = []
        for line in source.splitlines():
            if match := re.match(r'    # ?(.*)', line):
                above.append(match[1])
            else:
                if above and (match := re.match(r'    (\w+)\s*[:=]', line)):
                    comments[match[1]] = ' '.join(above)
                above = []
    return comments
