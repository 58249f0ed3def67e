"""
# What configs can be given

labml knows the items of a class of configs, but not what a person needs to know to set one: what it does, what it is
by default, what it can be. All of that stands in the class; here it is read from there.
"""

import functools
import inspect
import re
import sys
import types
import typing
import warnings
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

from labml.configs import BaseConfigs

from labml_mlm.common.errors import Range

NO_DEFAULT = object()


@dataclass
class Item:
    """A config item, as the command line sees it."""
    name: str
    type: Any
    # What it does, from the comment above it
    comment: str
    default: Any = NO_DEFAULT
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

    def is_possible(self, value: Any) -> bool:
        """Is it a value to set here, and not the name of what is not there, or of what the item follows?"""
        if self.refused is not None:
            return False
        return not isinstance(value, str) or value in self.allowed or (not self.options and
                                                                       scalar_type(self.type)[0] is str)

    @property
    def is_given(self) -> bool:
        """Can it be given on the command line?"""
        return self.refused is None and bool(self.allowed or scalar_type(self.type)[0])


def items_of(conf: BaseConfigs, prefix: str = '', outer: dict[str, dict] | None = None) -> dict[str, Item]:
    """
    All items of `conf` and of the configs nested in it, by dotted name. Nothing is computed.

    The configs may have these tables, by the name of an item or by the dotted name of a nested one: `_ranges` of
    numbers, `_follows`, which tells what an item follows by default, and `_refused`, reasons why an item, or an
    `item=option`, cannot be given.
    """
    # Tables by full name; those of subclasses win over those of their bases, and those of outer configs over both
    tables = {}
    for table in ('_ranges', '_follows', '_refused'):
        inner = ChainMap(*(vars(class_).get(table, {}) for class_ in type(conf).__mro__))
        tables[table] = {**{prefix + key: value for key, value in inner.items()}, **(outer or {}).get(table, {})}
    comments = _comments(type(conf))
    items = {}
    for key, annotation in conf._Configs__types.items():
        name = prefix + key
        annotation = _resolved(annotation, conf, key)
        functions = conf._Configs__options.get(key, {})
        options = [*functions, *sorted(conf._Configs__aggregates_options.get(key, ()))]
        default = conf._Configs__values.get(key, conf._Configs__defaults.get(key, NO_DEFAULT))
        if default is NO_DEFAULT and functions:
            default = next(iter(functions))
        nested = _nested_class(annotation, conf._Configs__values_override.get(key, default), functions)
        refused = tables['_refused']
        items[name] = Item(name, annotation, comments.get(key, ''), options=options,
                           default=tables['_follows'].get(name, default),
                           refused_options={option: refused[f'{name}={option}'] for option in options
                                            if f'{name}={option}' in refused},
                           refused=refused.get(name), range=tables['_ranges'].get(name), is_nested=nested is not None)
        if nested is not None:
            items |= items_of(nested(), f'{name}.', tables)
    return items


def given_values(conf: BaseConfigs, prefix: str = '') -> dict[str, Any]:
    """What `conf` and the configs nested in it were given in place of their defaults, by dotted name."""
    values = {prefix + key: value for key, value in conf._Configs__values_override.items()}
    for key, rest in conf._Configs__secondary_values.items():
        values |= {f'{prefix}{key}.{name}': value for name, value in rest.items()}
    for key, nested in conf._Configs__cached_configs.items():
        values |= given_values(nested, f'{prefix}{key}.')
    return values


def computed_values(conf: BaseConfigs, prefix: str = '') -> dict[str, Any]:
    """What was computed so far of `conf` and the configs nested in it, by dotted name."""
    values = {prefix + key: value for key, value in conf._Configs__cached.items()}
    for key, nested in conf._Configs__cached_configs.items():
        values |= computed_values(nested, f'{prefix}{key}.')
    return values


def _nested_class(annotation: Any, value: Any, functions: dict) -> type[BaseConfigs] | None:
    """The class of nested configs: from the annotation, the value, or what an option says that it returns."""
    candidates = [annotation, type(value)]
    # The last is the most special one, but for the one that is chosen
    chosen = [functions[value]] if isinstance(value, str) and value in functions else []
    candidates += [_evaluated(function.func.__annotations__.get('return'), function.func.__globals__)
                   for function in [*functions.values(), *chosen] if inspect.isfunction(function.func)]
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


def scalar_type(annotation: Any) -> tuple[Any, bool]:
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


@functools.cache
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

