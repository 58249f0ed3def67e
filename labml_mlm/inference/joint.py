r"""
# Several masks together

The best token for each of two masks need not make the best pair: in `[MASK] [MASK]`, `New` and `Los` may be nearly the
same for the first, `Angeles` the best for the second, and `New Angeles` comes out. So masks are filled in one after the
other, and each is predicted from those before it. What comes first is where the model is most certain, where its best
token has the highest probability, as by [Mask-Predict](https://arxiv.org/abs/1904.09324) and
[Schick and Schütze 2021](https://arxiv.org/abs/2009.07118), section 3.1. Which place that is follows from the text so
far, so that each filling is reached in one way, by $p(\text{filling}) = \prod_i p(w_i \mid \text{text so far})$, and
these probabilities add up to 1 over all fillings.

There are too many to try all. A beam keeps the best partial fillings of each step. If it is as wide as the vocabulary,
two masks are filled in exactly; three, if it is as wide as its square.

**Work.** As many sequences as the beam is wide, for each mask.
"""
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.inference.masks import MaskedText, Masks

# Partial fillings that are kept by default
BEAM = 16
# A place is more certain by more than rounding: of equal ones, the first is filled in first
_TIE = 1e-5


class Filling(NamedTuple):
    """A token for each mask of a text, and the probability of all of them together."""
    filled: str
    tokens: list[str]
    probability: float


class TogetherFilled(NamedTuple):
    """A text whose masks were filled in together."""
    text: str
    # With the most probable filling
    filled: str
    # The most probable ones, the best first
    fillings: list[Filling]
    # The parts of the text that are the unknown token for the model
    unknown: tuple[str, ...] = ()


class _Partial(NamedTuple):
    """A text with some masks filled in, `[seq_len]`, and the log-probability of these."""
    ids: Tensor
    log_p: float


class Together:
    """
    ## Fills in all masks of a text together

    * `top` is the number of fillings
    * `beam` is the number of partial fillings that are kept

    Raises `UserError` if one of them is less than 1.
    """

    def __init__(self, masks: Masks, *, top: int, beam: int = BEAM):
        for name, value in (('top', top), ('beam', beam)):
            if value < 1:
                raise UserError(f'{name}={value}: it must be at least 1')
        self.masks = masks
        self.top = top
        self.beam = beam

    def prepare(self, masked: MaskedText) -> MaskedText:
        """The text itself: each is possible."""
        return masked

    def fill(self, texts: Sequence[MaskedText]) -> list[TogetherFilled]:
        """The texts, in their order."""
        beams = [[_Partial(masked.ids, 0.)] for masked in texts]
        for step in range(max((masked.n_masks for masked in texts), default=0)):
            open_ = [i for i, masked in enumerate(texts) if step < masked.n_masks]
            # After the last mask there is nothing to go on with
            widths = {i: self.top if step == texts[i].n_masks - 1 else self.beam for i in open_}
            choices = iter(self._choices([partial for i in open_ for partial in beams[i]], max(widths.values())))
            for i in open_:
                grown = ((partial, partial.log_p + log_p, position, token) for partial in beams[i]
                         for position, of_partial in [next(choices)] for log_p, token in of_partial)
                best = heapq.nlargest(widths[i], grown, key=lambda choice: choice[1])
                beams[i] = [_Partial(_with_token(partial.ids, position, token), log_p)
                            for partial, log_p, position, token in best]
        return [self._filled(masked, beam) for masked, beam in zip(texts, beams, strict=True)]

    def _choices(self, partials: Sequence[_Partial], n: int) -> list[tuple[int, list[tuple[float, int]]]]:
        """For each, its most certain position, and log-probabilities and ids of the `n` best tokens there."""
        # With the log-probability of the best
        best: list[tuple[float, int, Tensor, Tensor] | None] = [None] * len(partials)
        n = min(n, int(self.masks.allowed.sum()))
        for numbers, positions, log_p in self.masks.log_probabilities([partial.ids for partial in partials]):
            # `[n_masked, n]`
            values, tokens = (found.cpu() for found in log_p.topk(n))
            for row, (number, position) in enumerate(zip(numbers, positions, strict=True)):
                certainty = float(values[row, 0])
                if best[number] is None or certainty > best[number][0] + _TIE:
                    best[number] = certainty, position, values[row], tokens[row]
        return [(position, list(zip(values.tolist(), tokens.tolist(), strict=True)))
                for _, position, values, tokens in best]

    def _filled(self, masked: MaskedText, beam: Sequence[_Partial]) -> TogetherFilled:
        names = self.masks.pretrained.tokenizer.tokens
        is_masked = masked.ids == self.masks.pretrained.configs.mask_token
        fillings = []
        for ids, log_p in beam:
            tokens = ids[is_masked].tolist()
            fillings.append(Filling(self.masks.fill(masked, tokens), [names[i] for i in tokens], math.exp(log_p)))
        return TogetherFilled(masked.text, fillings[0].filled, fillings, masked.unknown)


def _with_token(ids: Tensor, position: int, token: int) -> Tensor:
    """A copy of ids, `[seq_len]`, with a token at a position."""
    ids = ids.clone()
    ids[position] = token
    return ids
