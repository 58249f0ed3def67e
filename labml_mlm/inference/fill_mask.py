"""
# Fill in masked tokens

    from labml_mlm import FillMask

    fill_mask = FillMask.load('8c5e022e')
    print(fill_mask('To be or n[MASK]t to be').filled)
    print(fill_mask.candidates('I love [MASK]', ['pizza', 'banana']).filled)
    print(fill_mask.joint('To be or [MASK][MASK][MASK] to be').filled)
"""
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

from labml_mlm.common.errors import UserError
from labml_mlm.inference.candidates import Candidates, Ranked
from labml_mlm.inference.joint import BEAM, Together, TogetherFilled
from labml_mlm.inference.loading import load
from labml_mlm.inference.masks import MaskedText, Masks
from labml_mlm.inference.pretrained import Pretrained


class Prediction(NamedTuple):
    """A token that may stand at a masked position, with its probability."""
    token: str
    probability: float


class Filled(NamedTuple):
    """A text whose masked positions were filled in."""
    text: str
    # With the most probable token at each position
    filled: str
    # The most probable tokens of each masked position, in the order of the text
    masks: list[list[Prediction]]
    # The parts of the text that are the unknown token for the model
    unknown: tuple[str, ...] = ()


class Separately:
    """
    ## Each mask by itself

    * `top` is the number of predictions for each position

    Each position is predicted independently, from everything that is not masked.
    """

    def __init__(self, masks: Masks, *, top: int):
        if top < 1:
            raise UserError(f'top={top}: it must be at least 1')
        self.masks = masks
        self.top = top

    def prepare(self, masked: MaskedText) -> MaskedText:
        """The text itself: each is possible."""
        return masked

    def fill(self, texts: Sequence[MaskedText]) -> list[Filled]:
        """The texts, in their order."""
        names = self.masks.pretrained.tokenizer.tokens
        top = min(self.top, int(self.masks.allowed.sum()))
        predicted: list[list[list[Prediction]]] = [[] for _ in texts]
        best: list[list[int]] = [[] for _ in texts]
        for numbers, _, log_p in self.masks.log_probabilities([masked.ids for masked in texts]):
            probabilities, tokens = log_p.exp().topk(top)
            for number, p, t in zip(numbers, probabilities.tolist(), tokens.tolist(), strict=True):
                predicted[number].append([Prediction(names[i], q) for q, i in zip(p, t, strict=True)])
                best[number].append(t[0])
        return [Filled(masked.text, self.masks.fill(masked, tokens), predictions, masked.unknown)
                for masked, tokens, predictions in zip(texts, best, predicted, strict=True)]


class FillMask:
    """
    ## Fills in `[MASK]`

    * `pretrained` is the model, with its tokenizer

    A mask is `[MASK]`, in any case, or the mask token of the model's own tokenizer. There are three ways: a call
    predicts each position by itself, `joint` all of them together, and `candidates` compares what is given. Each takes
    a text or several. They raise `UserError` for a text without a mask, for one longer than the model allows, and for
    text that is not in the vocabulary; where the model was trained with an unknown token, they warn of it instead.

    Raises `UserError` for a model without a head.
    """

    def __init__(self, pretrained: Pretrained):
        self.pretrained = pretrained
        self.masks = Masks(pretrained)

    @classmethod
    def load(cls, run: str | Path, **arguments) -> 'FillMask':
        """From a run, a checkpoint or a published encoder; the arguments are those of `labml_mlm.load`."""
        return cls(load(run, **arguments))

    @overload
    def __call__(self, texts: str, *, top: int = 5) -> Filled: ...

    @overload
    def __call__(self, texts: Sequence[str], *, top: int = 5) -> list[Filled]: ...

    def __call__(self, texts, *, top=5):
        """
        * `texts` is a text with `[MASK]` in it, or several
        * `top` is the number of predictions for each position

        A token that includes the space before it, as those of most tokenizers do, has it in the prediction, too.
        """
        return self._answer(Separately(self.masks, top=top), texts)

    @overload
    def candidates(self, texts: str, candidates: Sequence[str]) -> Ranked: ...

    @overload
    def candidates(self, texts: Sequence[str], candidates: Sequence[str]) -> list[Ranked]: ...

    def candidates(self, texts, candidates):
        """
        Which of `candidates`, of any number of tokens, stands best at the only mask; see
        `labml_mlm.inference.candidates`.
        """
        return self._answer(Candidates(self.masks, candidates), texts)

    @overload
    def joint(self, texts: str, *, top: int = 5, beam: int = BEAM) -> TogetherFilled: ...

    @overload
    def joint(self, texts: Sequence[str], *, top: int = 5, beam: int = BEAM) -> list[TogetherFilled]: ...

    def joint(self, texts, *, top=5, beam=BEAM):
        """
        The `top` fillings of all masks of a text together, by a beam search; see `labml_mlm.inference.joint`.
        """
        return self._answer(Together(self.masks, top=top, beam=beam), texts)

    def ids(self, text: str) -> Any:
        """Token ids of a text with `[MASK]` in it, `[seq_len]`; raises what a call does."""
        return self.masks.read(text).ids

    def _answer(self, way: Separately | Candidates | Together, texts: str | Sequence[str]) -> Any:
        masked = [self.masks.read(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if unknown := sorted({part for of_text in masked for part in of_text.unknown}):
            warnings.warn(unknown_text(self.pretrained, unknown), stacklevel=3)
        answers = way.fill([way.prepare(of_text) for of_text in masked])
        return answers[0] if isinstance(texts, str) else answers


def unknown_text(pretrained: Pretrained, unknown: Sequence[str]) -> str:
    """What becomes of unknown parts of a text, in words."""
    tokenizer = pretrained.tokenizer
    verb = 'is' if len(unknown) == 1 else 'are'
    return (f'{", ".join(map(repr, unknown))} {verb} not in the vocabulary, and {verb} '
            f'{tokenizer.tokens[tokenizer.special.unk]} for the model')
