"""Errors that a person can do something about, and the nearest name for one that is unknown."""
import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says what was wrong, what is allowed, and the nearest name. `train` prints it and exits with code 2."""

    def _render_traceback_(self) -> list[str]:
        # IPython's: the message says it all
        return [f'{type(self).__name__}: {self}']


class DivergedError(ArithmeticError):
    """The gradient was not finite at too many steps in a row. `train` prints it and exits with code 1."""


class UnknownPart(UserError):
    """
    ## A run has a part of the user's own, which nothing here has registered

    * `about` says which
    * `script` is the file that trained the run, if the run says so
    """

    def __init__(self, about: str, script: str | None):
        super().__init__(f'{about}: import the file that registers it{f", {script}," if script else ""} first, or give '
                         f'`configs` of the class that has it')
        self.about = about
        self.script = script


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message with the nearest of the `known` names; empty if none is near."""
    known = sorted(known)
    # First the right last part in the wrong place, `n_layers` for `transformer.n_layers`, or in another spelling
    leaf = name.rsplit('.', 1)[-1]
    nearest = [k for k in known if squeezed(k) == squeezed(name) and k != name]
    nearest = nearest or sorted((k for k in known if squeezed(k.rsplit('.', 1)[-1]) == squeezed(leaf) and k != name),
                                key=lambda k: k.count('.'))
    nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not nearest:
        leaves = {k.rsplit('.', 1)[-1]: k for k in reversed(known)}
        nearest = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    if nearest:
        return f' Did you mean `{nearest[0]}`?'
    # `n_layers.x`: try its parent
    parent = name.rpartition('.')[0]
    return did_you_mean(parent, known) if parent else ''


def squeezed(name: str) -> str:
    """`learningrate`, for `learning_rate`, `Learning-Rate` and `learningRate`."""
    return name.replace('_', '').replace('-', '').lower()
