"""Errors that a person can put right, and the ranges that configs declare for their items."""

import difflib
import math
from collections.abc import Iterable
from typing import NamedTuple


class UserError(ValueError):
    """What was wrong, what is allowed, and the nearest name. The launcher prints it and exits with code 2."""


class Range(NamedTuple):
    """The allowed values of a number. `str()` of it reads like the end of "it has to be"."""
    low: float
    high: float = math.inf
    # Is `low` itself left out?
    is_open: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.is_open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f'{"above" if self.is_open else "from"} {self.low:.12g} to {self.high:.12g}'
        return f'above {self.low:.12g}' if self.is_open else f'at least {self.low:.12g}'


SHARE = Range(0, 1)
ABOVE_ZERO = Range(0, is_open=True)


def at_least(low: float) -> Range:
    """From `low` on."""
    return Range(low)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message, with the nearest of the `known` names, or nothing if none is near."""
    known = sorted(known)
    # First the right last part in the wrong place: `n_layers` for `transformer.n_layers`
    leaf = name.rsplit('.', 1)[-1]
    nearest = sorted((k for k in known if k.rsplit('.', 1)[-1] == leaf and k != name), key=lambda k: k.count('.'))
    nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not nearest:
        leaves = {k.rsplit('.', 1)[-1]: k for k in reversed(known)}
        nearest = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    if nearest:
        return f' Did you mean `{nearest[0]}`?'
    # `n_layers.x`: what may `n_layers` mean?
    parent = name.rpartition('.')[0]
    return did_you_mean(parent, known) if parent else ''

