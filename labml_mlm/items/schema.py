"""
# All items of configs, by dotted name

`config_items` lists what can be set: name, type, default, options, and what the item declares. Nothing is computed.
"""
import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem

from labml_mlm.items.declarations import Item, declared, evaluated, plain_type

NO_DEFAULT = object()
# Packages whose items are not a user's own
_PACKAGES = 'labml_mlm', 'labml_nn', 'labml_helpers', 'labml'


@dataclass
class ConfigField:
    """A config item, as the command line sees it."""
    name: str
    type: Any
    declaration: Item
    # Or the name of the item that sets it
    default: Any = NO_DEFAULT
    # Names of options and aggregates
    options: tuple[str, ...] = ()
    # The class of its nested configs, if it has some
    nested: type[BaseConfigs] | None = None
    # Does a class of the user's declare it? And those of its options that are the user's
    is_own: bool = False
    own_options: tuple[str, ...] = ()
    # The default in this package, if the user has another
    base_default: Any = NO_DEFAULT

    @property
    def is_nested(self) -> bool:
        """Does it hold nested configs?"""
        return self.nested is not None

    @property
    def allowed(self) -> list[str]:
        """The values that have a name."""
        names = [name for name in self.options if name not in self.declaration.refused_options]
        if isinstance(self.default, str) and self.default not in names and self.options:
            names.append(self.default)
        # labml gives unnamed options a name that begins with `_`
        return [name for name in names if not name.startswith('_')]

    def is_possible(self, value: Any) -> bool:
        """Can it be set to this value? Not to the name of an option that does not exist, or of what it follows."""
        if self.declaration.refused:
            return False
        return not isinstance(value, str) or value in self.allowed or (not self.options and
                                                                       scalar_type(self.type)[0] is str)

    @property
    def is_settable(self) -> bool:
        """Can it be given on the command line?"""
        return not self.declaration.refused and bool(self.allowed or scalar_type(self.type)[0])


def config_items(conf: BaseConfigs, prefix: str = '', *, chosen: Mapping[str, Any] = MappingProxyType({})) \
        -> dict[str, ConfigField]:
    """
    All items of `conf` and of the configs nested in it, by dotted name.

    * `chosen` are values to be given, by dotted name: which configs are nested depends on the options among them
    """
    items = {}
    for key, annotation in conf._Configs__types.items():
        name = prefix + key
        annotation = _resolved(annotation, conf, key)
        functions = conf._Configs__options.get(key, {})
        options = (*functions, *sorted(conf._Configs__aggregates_options.get(key, ())))
        default = _default(conf, key, prefix=prefix, chosen=chosen)
        declaration = declared(type(conf), key)
        value = chosen.get(name, conf._Configs__values_override.get(key, default))
        nested = None if declaration.refused else _nested_class(annotation, value, functions)
        items[name] = ConfigField(
            name, annotation, declaration, declaration.follows or default, options, nested=nested,
            is_own=is_own(conf._Configs__config_items[key].configs_class),
            own_options=tuple(option for option, function in functions.items() if is_own(function.func)),
            base_default=_base_default(conf, key))
        if nested is not None:
            items |= config_items(nested(), f'{name}.', chosen=chosen)
    return items


def is_own(thing: Any) -> bool:
    """Is it a class or a function of the user's?"""
    return thing.__module__.partition('.')[0] not in _PACKAGES


def named_values(item: ConfigField) -> list[str]:
    """The values of an item that have a name, for a message; `cuda:N` stands for `cuda:0`, `cuda:1` and so on."""
    return list(dict.fromkeys(re.sub(r':\d+$', ':N', name) for name in item.allowed))


def current_names(items: Mapping[str, ConfigField]) -> dict[str, str]:
    """Present names by earlier ones, both dotted, of items that were renamed."""
    renamed = {}
    for name, item in items.items():
        parent, dot, _ = name.rpartition('.')
        renamed |= {parent + dot + alias: name for alias in item.declaration.aliases}
    return renamed


def is_given(conf: BaseConfigs, key: str) -> bool:
    """Was the item given a value in place of its default: as an override, or as an attribute of this object?"""
    return key in conf._Configs__values_override or key in getattr(conf, '_assigned', ())


def chosen_value(conf: BaseConfigs, key: str) -> Any:
    """The value of an item, or the name of its option, as it was given or by default; nothing is computed."""
    return conf._Configs__values_override.get(key, _default(conf, key))


def aggregating(conf: BaseConfigs) -> set[str]:
    """The items that set others: those with labml's aggregates."""
    return set(conf._Configs__aggregates_options)


def _default(conf: BaseConfigs, key: str, *, prefix: str = '', chosen: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The value without an override: of the object, of an aggregate that is chosen, or of the class."""
    if key in conf._Configs__values:
        return conf._Configs__values[key]
    for name, values in conf._Configs__aggregates.get(key, {}).items():
        of = chosen.get(prefix + name, chosen_value(conf, name))
        if isinstance(of, str) and of in values:
            return values[of]
    options = conf._Configs__options.get(key, {})
    default = conf._Configs__defaults.get(key, NO_DEFAULT)
    return next(iter(options)) if default is NO_DEFAULT and options else default


def _base_default(conf: BaseConfigs, key: str) -> Any:
    """The default of the nearest class that is not the user's."""
    for class_ in type(conf).__mro__:
        item = vars(class_).get(key)
        if isinstance(item, ConfigItem) and item.has_value and not is_own(class_):
            return item.value
    return NO_DEFAULT


def given_values(conf: BaseConfigs, prefix: str = '') -> dict[str, Any]:
    """The values that `conf` and its nested configs were given in place of defaults, by dotted name."""
    values = {prefix + key: value for key, value in conf._Configs__values_override.items()}
    for key, rest in conf._Configs__secondary_values.items():
        values |= {f'{prefix}{key}.{name}': value for name, value in rest.items()}
    for key, nested in conf._Configs__cached_configs.items():
        values |= given_values(nested, f'{prefix}{key}.')
    return values


def computed_values(conf: BaseConfigs, prefix: str = '') -> dict[str, Any]:
    """The values computed so far in `conf` and its nested configs, by dotted name."""
    values = {prefix + key: value for key, value in conf._Configs__cached.items()}
    for key, nested in conf._Configs__cached_configs.items():
        values |= computed_values(nested, f'{prefix}{key}.')
    return values


def _nested_class(annotation: Any, value: Any, functions: dict) -> type[BaseConfigs] | None:
    """The class of nested configs: from the annotation, the value, or the return annotation of an option."""
    candidates = [annotation, type(value)]
    # The last one is the most specific, but for the option that is chosen
    chosen = [functions[value]] if isinstance(value, str) and value in functions else []
    candidates += [evaluated(function.func.__annotations__.get('return'), function.func.__globals__)
                   for function in [*functions.values(), *chosen] if inspect.isfunction(function.func)]
    nested = [c for c in candidates if inspect.isclass(c) and issubclass(c, BaseConfigs)]
    return nested[-1] if nested else None


def nesting_options(conf: BaseConfigs, key: str) -> list[str]:
    """The names of those options of an item that build nested configs."""
    return [name for name, function in conf._Configs__options.get(key, {}).items()
            if _nested_class(None, None, {name: function}) is not None]


def _resolved(annotation: Any, conf: BaseConfigs, key: str) -> Any:
    """
    The annotation of an item, without declarations; if it is a string, evaluated in the module of its class. labml has
    that of the first class that has the item; a base class may make a number of an integer.
    """
    for class_ in type(conf).__mro__:
        if key in (annotations := vars(class_).get('__annotations__', {})):
            annotation = evaluated(annotation, vars(sys.modules.get(class_.__module__, types)))
            if annotations[key] == int | float:
                return int | float
    return plain_type(annotation)[0]


def scalar_type(annotation: Any) -> tuple[Any, bool]:
    """The type to parse as, or `None` if there is none, and whether `none` is allowed."""
    is_optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        is_optional = len(parts) < len(typing.get_args(annotation))
        if set(parts) == {int, float}:
            return int | float, is_optional
        annotation = parts[0] if len(parts) == 1 else None
    origin = typing.get_origin(annotation) or annotation
    if origin in (list, tuple):
        arguments = typing.get_args(annotation)
        is_parsable = arguments and all(a in (int, float, str, bool) for a in arguments if a is not Ellipsis)
        return (annotation if is_parsable else None), is_optional
    return (annotation if annotation in (int, float, str, bool) else None), is_optional
