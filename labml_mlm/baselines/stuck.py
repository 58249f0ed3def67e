r"""
# Is a run stuck?

A model learns first how frequent tokens are, and then what stands beside what. Where something is wrong, it stays
between the two: its loss is that of `unigram` for as long as it is trained.

Or a little lower. BERT's masking leaves a fraction $k$ of the tokens to be predicted as they are, and puts a random one
of $V$ in the place of a fraction $r$. So a model that never looks at the context still can look at the token itself:
where $x$ stands, $w$ is to be predicted with a probability in proportion to

$$p(w) \Big( k \, [w = x] + \frac{r}{V} \Big)$$

which is, with 10% each, some 6 to 10% better than `unigram`. `context_free_loss` is the loss of that.

**The rule.** The loss of training is smoothed: an exponential mean of the last 50 steps or so. While that is between 2%
above the loss of `unigram` and 2% below that without context, steps are counted, and outside of it the count begins
again. At a tenth of the steps of the run, but not before 200 and not after 20,000, the run is stuck.

A sound run is there as well, but not for so long: a small model some tens of steps, BERT a hundredth of the run.
"""
import math
from collections.abc import Callable, Sequence

import numpy as np
from labml import logger
from labml.internal.tracker.writers import Writer
from labml.logger import Text

_SMOOTHED = 50
_TOLERANCE = 0.02
# A fraction of the run, and its bounds in steps
_FRACTION, _MIN_STEPS, _MAX_STEPS = 0.1, 200, 20_000


class Plateau:
    """
    ## Counts how long a loss stays where a model is that knows nothing of the context

    * `losses` are those of such models: that is from 2% below the lowest to 2% above the highest
    * `n_steps` are those of the whole run
    """

    def __init__(self, losses: Sequence[float], *, n_steps: int):
        self.lowest, self.highest = min(losses) * (1 - _TOLERANCE), max(losses) * (1 + _TOLERANCE)
        self.limit = min(max(_MIN_STEPS, math.ceil(_FRACTION * n_steps)), _MAX_STEPS)
        # Steps that it has stayed there
        self.n = 0
        self._mean, self._n_mean = 0., 0

    def add(self, loss: float):
        """Adds the loss of a step. After one that is not finite all begins again."""
        if not math.isfinite(loss):
            self.n = self._n_mean = 0
            return
        self._n_mean = min(self._n_mean + 1, _SMOOTHED)
        self._mean += (loss - self._mean) / self._n_mean
        self.n = self.n + 1 if self.lowest <= self._mean <= self.highest else 0

    @property
    def is_stuck(self) -> bool:
        """Has it stayed there for too long?"""
        return self.n >= self.limit


def context_free_loss(p: np.ndarray, *, randomize_prob: float = 0., no_change_prob: float = 0.) -> float:
    """
    The loss of a model that sees the token itself at most, in nats per masked token; without the two fractions, that of
    `unigram` on the training text.

    * `p` are the frequencies of tokens, `[n_tokens]`, 0 if one is never masked
    * `randomize_prob` and `no_change_prob` are those of `MLM`
    """
    p = p[p > 0]
    entropy = -(p * np.log(p)).sum()
    # Of one token in place of another; what stands there by chance, and how probable it is that a token stands there
    other = randomize_prob / max(1, len(p))
    stands = no_change_prob * p + other
    same = p * (no_change_prob + other)
    loss = (1 - randomize_prob - no_change_prob) * entropy
    if no_change_prob + randomize_prob:
        loss -= (same * np.log(same / stands)).sum()
    if other:
        loss += other * (entropy + p * np.log(p) + (1 - p) * np.log(stands / other)).sum()
    return float(loss)


class StuckWarning(Writer):
    """
    Warns once of a run that is stuck: a writer of labml's tracker, as the losses of a GPU arrive late.

    * `causes` says in words what may be the cause, when it is needed
    """

    def __init__(self, plateau: Plateau, *, causes: Callable[[], str]):
        self.plateau = plateau
        self._causes = causes
        self._is_warned = False

    def write(self, *, global_step: int, indicators: dict):
        """Called by `tracker.save()`."""
        loss = indicators.get('loss.train')
        if self._is_warned or loss is None or loss.is_empty():
            return
        self.plateau.add(loss.get_mean())
        if self.plateau.is_stuck:
            self._is_warned = True
            logger.log(f'Is this run stuck? For {self.plateau.n:,} steps its loss has been that of a model that does '
                       f'not look at the context, {self.plateau.lowest:.2f} to {self.plateau.highest:.2f}. Likely '
                       f'causes, the likeliest first: {self._causes()}', Text.warning)

    def save_indicators(self, dot_indicators: dict, indicators: dict):
        """Nothing: it has one indicator."""

    def finish(self):
        """Nothing is left."""
