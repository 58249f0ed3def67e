"""
# Given, but read by nothing

labml remembers which items were computed, and an item is computed when something reads it. One that was given and that
nothing has read, when all parts of a run are built, has no effect: `lr_decay_fraction=0.5` in a run whose schedule does
not decay. Such a run is not what its command line says, so it is refused before it starts.

Methods of a user's own class may read an item later, in a step. What stands in their code is looked at again when the
run has ended, and so are items that their classes declare.
"""
import functools
import inspect
import sys
import types
from collections.abc import Collection, Iterator
from typing import Any

from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem

from labml_mlm.common.errors import UserError
from labml_mlm.items.schema import ConfigField, chosen_value, config_items, given_values, is_own, nesting_options


def given_names(conf: BaseConfigs, prefix: str = '') -> set[str]:
    """
    The items that were given in Python, as values or as attributes of this object or of nested ones. Options set
    attributes of nested ones, too, so nothing must be built yet.
    """
    names = {*given_values(conf, prefix), *(prefix + name for name in getattr(conf, '_assigned', ()))}
    for key, nested in conf._Configs__cached_configs.items():
        names |= given_names(nested, f'{prefix}{key}.')
    return names


def read_names(conf: BaseConfigs, prefix: str = '') -> set[str]:
    """The items that something has read, here and in nested configs, by dotted name."""
    names = {prefix + name for name in conf._Configs__cached}
    # One that sets other items is read with them, whether it sets them or not
    for name, sets in conf._Configs__aggregates.items():
        if prefix + name in names:
            names |= {prefix + key for key in sets}
    for key, nested in conf._Configs__cached_configs.items():
        names |= read_names(nested, f'{prefix}{key}.')
    return names


def refuse_unread(conf: BaseConfigs, given: Collection[str]):
    """
    Raises `UserError` for an item of this package that nothing has read and nothing will.

    * `conf` are configs of which everything is built
    * `given` are the items that were given, by dotted name
    """
    unread = sorted(set(given) - read_names(conf))
    if not unread:
        return
    items, mentioned = config_items(conf, chosen=given_values(conf)), _mentioned_names(conf)
    for name in unread:
        if name in items and not items[name].is_own and name.rpartition('.')[2] not in mentioned:
            raise UserError(f'`{name}` is given, but nothing reads it{_belongs_to(conf, items, name)}')


def unread_at_end(conf: BaseConfigs, given: Collection[str]) -> list[str]:
    """
    Those of the `given` items, sorted, that nothing has read in a run that is complete; and items of this package whose
    defaults the user's own classes change.
    """
    ours = {name for class_ in type(conf).__mro__ if not is_own(class_) for name in vars(class_)}
    in_classes = {name for class_ in type(conf).__mro__ if is_own(class_) for name, item in vars(class_).items()
                  if name in ours and isinstance(item, ConfigItem) and item.has_value}
    return sorted({*given, *in_classes} - read_names(conf))


def _belongs_to(conf: BaseConfigs, items: dict[str, ConfigField], name: str) -> str:
    """The end of a message: to which options an item belongs, as far as that is known."""
    parent = name.rpartition('.')[0]
    if not parent or parent in read_names(conf) and _nested(conf, parent) is not None:
        declared = items[name].declaration.belongs_to
        return f': it belongs to {declared}' if declared else ' with what else is given'
    if parent not in read_names(conf):
        return f', as nothing reads `{parent}`'
    outer, _, key = parent.rpartition('.')
    options = nesting_options(_nested(conf, outer) if outer else conf, key)
    return f': it belongs to {parent}={" and ".join(options)}' if options else f': `{parent}` has no nested items'


def _nested(conf: BaseConfigs, name: str) -> BaseConfigs | None:
    """The nested configs of that dotted name, if they are built."""
    for part in name.split('.'):
        conf = conf and conf._Configs__cached_configs.get(part)
    return conf


def _mentioned_names(conf: BaseConfigs) -> set[str]:
    """All names in code of the user's: in methods and chosen options of their configs, and in the modules of both."""
    classes = [class_ for class_ in type(conf).__mro__ if class_ is not object and is_own(class_)]
    functions = [options[chosen].func for key, options in conf._Configs__options.items()
                 if isinstance(chosen := chosen_value(conf, key), str) and chosen in options
                 and is_own(options[chosen].func)]
    modules = [sys.modules.get(one.__module__) for one in (*classes, *functions)]
    return {name for value in (*classes, *functions, *modules) for code in _codes(value) for name in _names(code)}


def _codes(value: Any) -> Iterator[types.CodeType]:
    """The code of a function, or of all functions that a class or a module defines."""
    if isinstance(value, types.FunctionType):
        yield value.__code__
    elif isinstance(value, property):
        yield from _codes(value.fget)
    elif isinstance(value, functools.cached_property):
        yield from _codes(value.func)
    elif isinstance(value, staticmethod | classmethod):
        yield from _codes(value.__func__)
    elif inspect.isclass(value):
        for inner in vars(value).values():
            yield from _codes(inner)
    elif isinstance(value, types.ModuleType):
        for inner in [*vars(value).values()]:
            if getattr(inner, '__module__', None) == value.__name__ and not isinstance(inner, types.ModuleType):
                yield from _codes(inner)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names in code and in the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
