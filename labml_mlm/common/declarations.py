"""
# Declarations of config items

labml knows the name, the type and the default of an item. Everything else that a person needs to know to set it
stands in its annotation:

    masking_prob: Annotated[float, Item('Masking rate: fraction of the tokens to predict', FRACTION)] = 0.15

A subclass that annotates the item again, or only assigns it, keeps the declaration.
"""
import dataclasses
import math
import sys
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem

# For `Item.may_change`: the consequence for a resumed run
INEXACT = 'from here on, steps differ from those of an uninterrupted run'


class Range(NamedTuple):
    """The allowed values of a number. `str()` of it completes "must be"."""
    low: float
    high: float = math.inf
    # Is `low` itself excluded?
    is_open: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.is_open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f'{"above" if self.is_open else "from"} {self.low:.12g} to {self.high:.12g}'
        return f'above {self.low:.12g}' if self.is_open else f'at least {self.low:.12g}'


FRACTION = Range(0, 1)
ABOVE_ZERO = Range(0, is_open=True)


def at_least(low: float) -> Range:
    """From `low` on."""
    return Range(low)


@dataclasses.dataclass(frozen=True)
class Item:
    """The declaration of a config item, beside its type and default."""
    # One line for `--help`
    help: str = ''
    # Allowed numbers
    range: Range | None = None
    _: dataclasses.KW_ONLY
    # Of numbers: `tokens`, `optimizer steps`, …
    unit: str = ''
    # The item that sets its default, if there is one: `d_model`
    follows: str = ''
    # Earlier names. They still work, in overrides, in Python and in runs that were started with them
    aliases: tuple[str, ...] = ()
    # May a resumed run change it? A text says what that means
    may_change: bool | str = False
    # Why it cannot be set, and why some of its options cannot be chosen
    refused: str = ''
    refused_options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def over(self, base: 'Item') -> 'Item':
        """This declaration, with the parts of `base` that it leaves out."""
        blank = Item()
        return dataclasses.replace(base, **{name: value for name, value in vars(self).items()
                                            if value != getattr(blank, name)})


class _WithAliases(type):
    """Finds items of a class by their earlier names: `@option(MLMConfigs.saver, …)`."""

    def __getattr__(cls, name: str) -> Any:
        if name != '_aliases' and name in (aliases := cls._aliases):
            return getattr(cls, aliases[name])
        raise AttributeError(f'type object {cls.__name__!r} has no attribute {name!r}')


class DeclaredConfigs(BaseConfigs, metaclass=_WithAliases):
    """
    ## Configs whose items are declared

    labml gets plain types. It also merges the defaults of a subclass into the items of its base class, for the rest of
    the process: after the first `MLMTransformerConfigs()`, labml_nn's `TransformerConfigs()` would ask for options that
    it does not have. Subclasses of this one leave their base classes as they are. To be named before them.
    """
    # Declarations of this class alone, and names by alias of all its items
    _declared: dict[str, Item] = {}
    _aliases: dict[str, str] = {}

    def __init_subclass__(cls, **kwargs: Any):
        annotations, cls._declared = cls.__dict__.get('__annotations__', {}), {}
        for name, annotation in annotations.items():
            annotation = evaluated(annotation, vars(sys.modules[cls.__module__]))
            if typing.get_origin(annotation) is Annotated:
                annotations[name], *metadata = typing.get_args(annotation)
                if items := [item for item in metadata if isinstance(item, Item)]:
                    cls._declared[name] = items[-1]
        cls._aliases = {alias: name for class_ in reversed(cls.__mro__)
                        for name, item in vars(class_).get('_declared', {}).items() for alias in item.aliases}
        for alias, name in cls._aliases.items():
            if alias in annotations:
                annotations[name] = annotations.pop(alias)
            if alias in cls._declared:
                cls._declared[name] = cls._declared.pop(alias)
            if alias in vars(cls):
                setattr(cls, name, vars(cls)[alias])
                delattr(cls, alias)
        super().__init_subclass__(**kwargs)

    def __getattribute__(self, name: str) -> Any:
        # labml looks up many names of its own for each item
        if name.startswith('_'):
            return object.__getattribute__(self, name)
        return super().__getattribute__(self._aliases.get(name, name))

    def __setattr__(self, name: str, value: Any):
        super().__setattr__(self._aliases.get(name, name), value)

    def _set_values(self, values: dict[str, Any]):
        super()._set_values({self._current(name): value for name, value in values.items()})

    @classmethod
    def _current(cls, name: str) -> str:
        """The name of an item by its dotted name, which may be an earlier one; the first part of it alone is known."""
        first, dot, rest = name.partition('.')
        return cls._aliases.get(first, first) + dot + rest

    def _Configs__collect_config_items(self, classes: list[type]):
        items = [item for c in classes for item in vars(c).values() if isinstance(item, ConfigItem)]
        before = [dict(vars(item)) for item in items]
        super()._Configs__collect_config_items(classes)
        for item, attributes in zip(items, before, strict=True):
            vars(item).update(attributes)


def declared(class_: type, name: str) -> Item:
    """The declaration of an item in a class of configs and its bases; an empty one if there is none."""
    item = Item()
    for base in reversed(class_.__mro__):
        if name in vars(base).get('_declared', {}):
            item = base._declared[name].over(item)
    return item


def evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    """An annotation that is a string, evaluated; unchanged if that fails."""
    try:
        return eval(annotation, dict(names)) if isinstance(annotation, str) else annotation
    except Exception:  # a name for type checkers only, for example
        return annotation
