"""
# Code of the user's in configs

Values can be written down, and a run be resumed from them. Methods, options and objects of the user's cannot: such a
run takes the script that it began with.
"""
import functools
import types
from typing import Any

from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem

from labml_mlm.items.schema import NO_DEFAULT, chosen_value

# Packages whose code any script has
_KNOWN = {'builtins', 'labml', 'labml_helpers', 'labml_mlm', 'labml_nn', 'torch'}
_METHODS = types.FunctionType, property, functools.cached_property, staticmethod, classmethod
# What labml and we note in a class
_NOTES = {'_aggregates', '_aliases', '_calculators', '_declared', '_evaluators', '_hyperparams', '_meta'}


def own_code(conf: BaseConfigs) -> list[str]:
    """What configs that were built have from the user besides values: methods, items, options and objects, by name."""
    objects = [name for name in conf._Configs__types if (value := chosen_value(conf, name)) is not NO_DEFAULT
               and not is_plain(value)]
    return sorted({*objects, *_own_of(conf, '')})


def is_plain(value: Any) -> bool:
    """Can it be written down?"""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _own_of(conf: BaseConfigs, prefix: str) -> list[str]:
    """Methods, items and options, also of nested configs."""
    known = {name for class_ in type(conf).__mro__ if _is_known(class_) for name in vars(class_)}
    names = [name for class_ in type(conf).__mro__ if not _is_known(class_) for name, value in vars(class_).items()
             if _is_own(name, value, known)]
    for name, options in conf._Configs__options.items():
        value = chosen_value(conf, name)
        if isinstance(value, str) and value in options and not _is_known(options[value].func):
            names.append(name)
    return [prefix + name for name in names] + [name for key, nested in conf._Configs__cached_configs.items()
                                                for name in _own_of(nested, f'{prefix}{key}.')]


def _is_own(name: str, value: Any, known: set[str]) -> bool:
    """Is an attribute of a user's class more than a value for an item?"""
    if isinstance(value, ConfigItem):
        return name not in known
    return isinstance(value, _METHODS) or not name.startswith('__') and name not in _NOTES


def _is_known(value: Any) -> bool:
    """Is a class or function of a package that any script has?"""
    return getattr(value, '__module__', '').partition('.')[0] in _KNOWN
