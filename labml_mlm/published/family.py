"""
# Families of published encoders

A family knows one architecture of Hugging Face's in both directions: its `config.json` as items of ours and back, and
its weights by our names and back.
"""
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from labml_mlm.common import untrusted
from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import ABOVE_ZERO, FRACTION, Range, at_least

_SIZE = at_least(1)
# In front of the names of what stands behind an encoder
_OF_HEADS = 'generator.', 'pooler.', 'next_sentence.'
# Items that are no sizes, and the numbers that they may have
_NUMBERS = {'dropout': FRACTION, 'attn_dropout': FRACTION, 'embed_dropout': FRACTION, 'norm_eps': ABOVE_ZERO}


class Family(Protocol):
    """One architecture."""
    # `model_type` in `config.json`
    model_type: str
    # The option of `transformer`
    option: str
    # The classes of Hugging Face's, with a head for masked language modelling and without
    architecture: str
    base: str
    # `d_model`, `n_tokens` and the items of the transformer that `config` reads
    item_names: tuple[str, ...]

    def items(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """
        `d_model`, `n_tokens` and the items of the transformer, such as `n_layers`. Raises `UserError` for what those
        cannot represent.
        """

    def config(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """What `config.json` says of the architecture: `items` the other way round."""

    def read(self, weights: Mapping[str, Tensor], items: Mapping[str, Any]) -> tuple[dict[str, Tensor], set[str]]:
        """
        The weights of the folder by our names, those that it has; and their names there. Those of an encoder alone have
        no prefix.
        """

    def write(self, state: Mapping[str, Tensor], items: Mapping[str, Any]) -> dict[str, Tensor]:
        """
        The weights of a model of ours, by the names of a model with a head; those of the encoder alone if `state` has
        no head.
        """


def take(config: Mapping[str, Any], names: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """
    Items from `config`: `names` are its keys by item. Raises `UserError` if it lacks one that has no default, and for
    a value that an item cannot have.
    """
    config = {**defaults, **config}
    if missing := [theirs for theirs in names.values() if theirs not in config]:
        raise UserError(f'config.json has no {", ".join(missing)}')
    for ours, theirs in names.items():
        if ours.endswith('_bias'):
            require(config, {theirs: [False, True]}, {})
        elif ours in _NUMBERS:
            require_number(config, theirs, _NUMBERS[ours], is_integer=False)
        elif ours != 'activation':
            require_number(config, theirs)
    return {ours: config[theirs] for ours, theirs in names.items()}


def require_number(config: Mapping[str, Any], name: str, allowed: Range = _SIZE, *, is_integer: bool = True):
    """Raises `UserError` if a value in `config` is not among the allowed numbers."""
    value = config[name]
    # Of 64 bits, as those of torch
    is_possible = untrusted.is_integer(value) if is_integer else untrusted.is_number(value)
    if not is_possible or value not in allowed:
        kind = 'an integer' if is_integer else 'a number'
        raise UserError(f'{name}={value!s:.60} is not supported: it must be {kind}, {allowed}')


def require(config: Mapping[str, Any], allowed: Mapping[str, list[Any]], defaults: Mapping[str, Any]):
    """Raises `UserError` for a value in `config` that is not among the allowed ones of its key."""
    for name, values in allowed.items():
        value = config.get(name, defaults.get(name))
        if not any(value == one and isinstance(value, type(one)) for one in values):
            raise UserError(f'{name}={value} is not supported: it must be {" or ".join(map(str, values))}')


def is_of_head(name: str) -> bool:
    """Is a weight, by our name, not of the encoder?"""
    return name.startswith(_OF_HEADS)


def written(names: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Theirs by ours, without heads if `state` has none."""
    has_head = any(map(is_of_head, state))
    return {ours: theirs for ours, theirs in names.items() if has_head or not is_of_head(ours)}


def find(weights: Mapping[str, Tensor], name: str, *, prefix: str) -> str | None:
    """The name that a weight has in a folder, where an encoder alone is saved without the prefix; `None` if nowhere."""
    return next((found for found in (name, name.removeprefix(f'{prefix}.')) if found in weights), None)


def read_by_names(weights: Mapping[str, Tensor], names: Mapping[str, str], *, prefix: str) \
        -> tuple[dict[str, Tensor], set[str]]:
    """The weights that the folder has, by our names, and their names there; `names` are theirs by ours."""
    found = {ours: name for ours, theirs in names.items() if (name := find(weights, theirs, prefix=prefix))}
    return {ours: weights[name] for ours, name in found.items()}, set(found.values())
