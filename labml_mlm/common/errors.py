"""Errors that a person can fix, and the nearest name for one that is unknown."""
import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says what was wrong, what is allowed, and the nearest name. `train` prints it and exits with code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message with the nearest of the `known` names; empty if none is near."""
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
    # `n_layers.x`: try its parent
    parent = name.rpartition('.')[0]
    return did_you_mean(parent, known) if parent else ''
