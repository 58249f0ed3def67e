"""
# A trained model fills in what is masked

    from labml_mlm import FillMask

    fill_mask = FillMask.load('8c5e022e')
    print(fill_mask('To be or n[MASK]t to be').filled)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.inference.load import Pretrained, load

MASK_TEXT = '[MASK]'


class Prediction(NamedTuple):
    """A token that may stand at a masked place, with its probability."""
    token: str
    probability: float


class Filled(NamedTuple):
    """A text whose masked places were filled in."""
    text: str
    # With the most probable token at each place
    filled: str
    # The most probable tokens of each place, in the order of the text
    masks: list[list[Prediction]]


class FillMask:
    """
    ## Fills in `[MASK]`

    * `pretrained` is the model, with its tokenizer

    Every place is predicted on its own, from all that is not masked.
    """

    def __init__(self, pretrained: Pretrained):
        self.pretrained = pretrained
        conf = pretrained.configs
        # What was never a label is no answer: special tokens, and ids beyond those of the tokenizer
        self._answers = torch.ones(conf.n_tokens, dtype=torch.bool)
        self._answers[conf._unmasked_tokens] = False
        self._answers[len(pretrained.tokenizer.tokens):] = False

    @classmethod
    def load(cls, run: str | Path, **arguments) -> 'FillMask':
        """That of a run or a checkpoint; the arguments are those of `labml_mlm.load`."""
        return cls(load(run, **arguments))

    @overload
    def __call__(self, texts: str, *, top: int = 5) -> Filled: ...

    @overload
    def __call__(self, texts: Sequence[str], *, top: int = 5) -> list[Filled]: ...

    def __call__(self, texts, *, top=5):
        """
        * `texts` is a text with `[MASK]` in it, or several
        * `top` is the number of predictions for each place

        A token that brings the space before it, as those of most tokenizers do, has it in the prediction, too. Raises
        `UserError` for a text without `[MASK]`, for one that is longer than the model allows, and for characters that
        the tokenizer does not know.
        """
        if isinstance(texts, str):
            return self([texts], top=top)[0]
        if top < 1:
            raise UserError(f'top={top}: it has to be at least 1')
        sequences = [self.ids(text) for text in texts]
        filled: list = [None] * len(sequences)
        for indices, x, key_padding in self.pretrained.batches(sequences):
            probabilities, tokens = self._predict(x, key_padding, top)
            # Masked places in the order of texts, and in each from left to right
            columns = (x == self.pretrained.configs.mask_token).T.nonzero()[:, 0].tolist()
            of_columns = {column: [] for column in range(len(indices))}
            for column, p, t in zip(columns, probabilities.tolist(), tokens.tolist(), strict=True):
                of_columns[column].append([Prediction(self.pretrained.tokenizer.tokens[i], q)
                                           for q, i in zip(p, t, strict=True)])
            for column, i in enumerate(indices):
                filled[i] = self._filled(texts[i], of_columns[column])
        return filled

    @torch.no_grad()
    def _predict(self, x: Tensor, key_padding: Tensor | None, top: int) -> tuple[Tensor, Tensor]:
        """
        * `x` and `key_padding` have shape `[seq_len, batch_size]`

        Returns probabilities and token ids, `[n_masked, top]`, sequence by sequence.
        """
        model = self.pretrained.model
        # `[batch_size, seq_len, d_model]`, so that the places of a sequence come one after the other
        features = model.encode(x, key_padding).transpose(0, 1)
        # `[n_masked, n_tokens]`
        logits = model.generator(features[(x == self.pretrained.configs.mask_token).T])
        logits = logits.float().masked_fill(~self._answers.to(x.device), -torch.inf)
        return logits.softmax(dim=-1).topk(min(top, int(self._answers.sum())))

    def ids(self, text: str) -> Tensor:
        """Token ids of a text with `[MASK]` in it, `[seq_len]`; raises what a call does."""
        pieces = self._pieces(text)
        if len(pieces) == 1:
            raise UserError(f'there is no {MASK_TEXT} in {text!r}')
        return self.pretrained.masked_ids(pieces)

    def _pieces(self, text: str) -> list[str]:
        """What is before, between and after the masked places."""
        *before, last = text.split(MASK_TEXT)
        if self.pretrained.tokenizer.is_spaced:
            # The space is a part of the token that stands there
            before = [piece.removesuffix(' ') for piece in before]
        return [*before, last]

    def _filled(self, text: str, masks: list[list[Prediction]]) -> Filled:
        pieces = self._pieces(text)
        best = [predictions[0].token for predictions in masks]
        if not pieces[0] and not text.startswith(' '):
            best[0] = best[0].removeprefix(' ')
        return Filled(text, ''.join(part for pair in zip(pieces, [*best, ''], strict=True) for part in pair), masks)

