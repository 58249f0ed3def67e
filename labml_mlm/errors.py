"""Errors that a person can put right: shown as one message, without a traceback."""
import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was wrong, what is allowed, and the nearest name. The launcher prints it and exits with code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message, with the nearest of the `known` names, or nothing if none is near."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not nearest:
        # The right leaf in the wrong place: `n_layers` for `transformer.n_layers`
        leaf = name.rsplit('.', 1)[-1]
        nearest = [k for k in known if k.rsplit('.', 1)[-1] == leaf]
        nearest = nearest or difflib.get_close_matches(leaf, known, n=1, cutoff=0.6)
    return f' Did you mean `{nearest[0]}`?' if nearest else ''
