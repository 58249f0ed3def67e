"""
# Declarations of config items

labml knows the name, the type and the default of an item. Everything else that a person needs to know to set it
is in its annotation:

    masking_prob: Annotated[float, Item('Masking rate: fraction of the tokens to predict', FRACTION)] = 0.15

A subclass that annotates the item again, or only assigns it, keeps the declaration.
"""
import contextlib
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem

from labml_mlm.items.trained_again import given_state, restore_given

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
    """What is declared about a config item, in addition to its type and default."""
    # One line for `--help`
    help: str = ''
    # Allowed numbers
    range: Range | None = None
    _: dataclasses.KW_ONLY
    # Of numbers: `tokens`, `optimizer steps`, …
    unit: str = ''
    # The item that sets its default, if there is one: `d_model`
    follows: str = ''
    # What it belongs to, if it is not read in every run: `lr_schedule=wsd`
    belongs_to: str = ''
    # Earlier names. They still work, in overrides, in Python and in runs that were started with them
    aliases: tuple[str, ...] = ()
    # May a resumed run change it? A text says what that means
    may_change: bool | str = False
    # Does a list have paths? One with a comma in its name is one path, if there is such a file
    is_path: bool = False
    # Why it cannot be set, and why some of its options cannot be chosen
    refused: str = ''
    refused_options: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def over(self, base: 'Item') -> 'Item':
        """This declaration, with the parts of `base` that it leaves out."""
        blank = Item()
        return dataclasses.replace(base, **{name: value for name, value in vars(self).items()
                                            if value != getattr(blank, name)})


class DeclaredConfigs(BaseConfigs):
    """
    ## Configs whose items are declared

    labml gets plain types. It also merges the defaults of a subclass into the items of its base class, for the rest of
    the process: after the first `MLMTransformerConfigs()`, labml_nn's `TransformerConfigs()` would ask for options that
    it does not have. Subclasses of this one leave their base classes as they are. List it first among the bases.
    """
    # Declarations of this class alone, and names by alias of all its items
    _declared: dict[str, Item] = {}
    _aliases: dict[str, str] = {}
    # Items of an object that were set as attributes
    _assigned: frozenset | set[str] = frozenset()
    # What a trained object was given: it is that again when it is set or trained again
    _before_run: dict[str, Any] | None = None

    def __init_subclass__(cls, **kwargs: Any):
        annotations, cls._declared = cls.__dict__.get('__annotations__', {}), {}
        for name, annotation in annotations.items():
            annotations[name], item = plain_type(_evaluated_in(cls, annotation))
            if item is not None:
                cls._declared[name] = item
        cls._aliases = {alias: name for base in reversed(cls.__mro__[1:])
                        for alias, name in vars(base).get('_aliases', {}).items()}
        cls._aliases |= {alias: name for name, item in cls._declared.items() for alias in item.aliases}
        for alias, name in cls._aliases.items():
            for names in (annotations, cls._declared):
                if alias in names:
                    names[name] = names.pop(alias)
            if alias in vars(cls):
                setattr(cls, name, vars(cls)[alias])
                delattr(cls, alias)
        super().__init_subclass__(**kwargs)
        for alias, name in cls._aliases.items():
            if name in vars(cls):
                # For `@option(MLMConfigs.alias, …)`
                setattr(cls, alias, ConfigItem(key=name, configs_class=cls, has_annotation=False, annotation=None,
                                               has_value=False, value=None))

    def __getattribute__(self, name: str) -> Any:
        # labml looks up many names of its own for each item
        if name.startswith('_'):
            return object.__getattribute__(self, name)
        return super().__getattribute__(self._aliases.get(name, name))

    def __setattr__(self, name: str, value: Any):
        name = self._aliases.get(name, name)
        if not name.startswith('_'):
            _check_name(self, name)
            self._forget_run()
        super().__setattr__(name, comparable(value))
        if not name.startswith('_'):
            self._assigned = {*self._assigned, name}

    def set_values(self, values: Mapping[str, Any]):
        """Gives items values by dotted name, as the command line does: `{'transformer.n_layers': 2}`."""
        self._set_values(values)

    def _set_values(self, values: Mapping[str, Any]):
        values = {self._current(name): comparable(value) for name, value in values.items()}
        for name in values:
            _check_name(self, name)
        self._forget_run()
        super()._set_values(values)

    @property
    def _described(self) -> dict[str, Any]:
        """Descriptions of computed values that are not to be shown themselves, by name."""
        return {}

    def _to_json(self) -> dict[str, dict]:
        from labml_mlm.items.shown import shown_configs

        return shown_configs(self, super()._to_json())

    def _forget_run(self):
        """If it was trained, it is what it was before."""
        if self._before_run is not None:
            restore_given(self, self._before_run)

    @contextlib.contextmanager
    def _in_run(self) -> Iterator[None]:
        """Inside, it is trained."""
        self._forget_run()
        before = given_state(self)
        try:
            yield
        finally:
            self._before_run = before

    @classmethod
    def _current(cls, name: str) -> str:
        """The name of an item by its dotted name, which may be an earlier one; the first part of it alone is known."""
        first, dot, rest = name.partition('.')
        return cls._aliases.get(first, first) + dot + rest

    def _Configs__collect_aggregates(self, classes: list[type]):
        """The value of an item in a user's class wins over those of aggregates that its base classes have."""
        for class_ in classes:
            if class_.__module__.partition('.')[0] in ('labml_mlm', 'labml_nn'):
                super()._Configs__collect_aggregates([class_])
                continue
            for name, item in vars(class_).items():
                if isinstance(item, ConfigItem) and item.has_value:
                    self._Configs__aggregates.pop(name, None)
            super()._Configs__collect_aggregates([class_])

    def _Configs__collect_config_items(self, classes: list[type]):
        items = [item for c in classes for item in vars(c).values() if isinstance(item, ConfigItem)]
        before = [dict(vars(item)) for item in items]
        super()._Configs__collect_config_items(classes)
        for item, attributes in zip(items, before, strict=True):
            vars(item).update(attributes)
        for alias, name in self._aliases.items():
            for found in (self._Configs__types, self._Configs__config_items):
                found.pop(alias, None)
            # From a base class that is not one of ours
            if alias in self._Configs__defaults:
                self._Configs__defaults[name] = self._Configs__defaults.pop(alias)


def declared(class_: type, name: str) -> Item:
    """
    The declaration of an item in a class of configs and its bases; an empty one if there is none. For labml's own
    classes it is that of the subclass here: `MLMOptimizerConfigs` for `OptimizerConfigs`.
    """
    if not issubclass(class_, DeclaredConfigs):
        class_ = next((ours for ours in _subclasses(DeclaredConfigs) if class_ in ours.__bases__), class_)
    item = Item()
    for base in reversed(class_.__mro__):
        own = vars(base).get('_declared', {}).get(name)
        if own is None and name in (annotations := vars(base).get('__annotations__', {})):
            _, own = plain_type(_evaluated_in(base, annotations[name]))
        if own is not None:
            item = own.over(item)
    return item


def plain_type(annotation: Any) -> tuple[Any, Item | None]:
    """An annotation without declarations, and the last declaration in it."""
    if typing.get_origin(annotation) is Annotated:
        plain, *metadata = typing.get_args(annotation)
        return plain, next((item for item in reversed(metadata) if isinstance(item, Item)), None)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [plain_type(part) for part in typing.get_args(annotation)]
        if any(item is not None for _, item in parts):
            return typing.Union[tuple(part for part, _ in parts)], next(  # noqa: UP007  its parts are computed
                item for _, item in parts if item is not None)
    return annotation, None


def evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    """An annotation that is a string, evaluated; unchanged if that fails."""
    try:
        return eval(annotation, dict(names)) if isinstance(annotation, str) else annotation
    except Exception:  # a name for type checkers only, for example
        return annotation


def _evaluated_in(class_: type, annotation: Any) -> Any:
    return evaluated(annotation, vars(sys.modules.get(class_.__module__, types)))


def _check_name(conf: BaseConfigs, name: str):
    # It needs all items, and these their declarations
    from labml_mlm.items.python_values import check_name

    check_name(conf, name)


def comparable(value: Any) -> Any:
    """
    The value as labml can compare it with names, and save it: a tensor for a NumPy array, which would compare elements,
    and a number of Python's for one of NumPy's.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        import torch

        return torch.as_tensor(value)
    return value


def _subclasses(class_: type) -> Iterator[type]:
    for subclass in class_.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
