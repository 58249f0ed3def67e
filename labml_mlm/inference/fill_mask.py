"""
# Fill in masked tokens

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
from labml_mlm.inference.pretrained import Pretrained, load

MASK_TEXT = '[MASK]'


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


class FillMask:
    """
    ## Fills in `[MASK]`

    * `pretrained` is the model, with its tokenizer

    Each position is predicted independently, from everything that is not masked. Raises `UserError` for a model without
    a head.
    """

    def __init__(self, pretrained: Pretrained):
        pretrained.require_head()
        self.pretrained = pretrained
        conf = pretrained.configs
        # Never predicted because never a label: special tokens, and ids beyond those of the tokenizer
        self._allowed = torch.ones(conf.n_tokens, dtype=torch.bool)
        self._allowed[conf._unmasked_tokens] = False
        self._allowed[len(pretrained.tokenizer.tokens):] = False

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

        A token that includes the space before it, as those of most tokenizers do, has it in the prediction, too. Raises
        `UserError` for a text without `[MASK]`, for one longer than the model allows, and for text that is not in the
        vocabulary.
        """
        if isinstance(texts, str):
            return self([texts], top=top)[0]
        if top < 1:
            raise UserError(f'top={top}: it must be at least 1')
        sequences = [self.ids(text) for text in texts]
        filled: list = [None] * len(sequences)
        for indices, x, padding_mask in self.pretrained.batches(sequences):
            probabilities, tokens = self._predict(x, padding_mask, top)
            # Masked positions in the order of texts, and in each from left to right
            columns = (x == self.pretrained.configs.mask_token).T.nonzero()[:, 0].tolist()
            of_columns = {column: [] for column in range(len(indices))}
            for column, p, t in zip(columns, probabilities.tolist(), tokens.tolist(), strict=True):
                of_columns[column].append([Prediction(self.pretrained.tokenizer.tokens[i], q)
                                           for q, i in zip(p, t, strict=True)])
            for column, i in enumerate(indices):
                filled[i] = self._filled(texts[i], of_columns[column])
        return filled

    @torch.no_grad()
    def _predict(self, x: Tensor, padding_mask: Tensor | None, top: int) -> tuple[Tensor, Tensor]:
        """
        * `x` and `padding_mask` have shape `[seq_len, batch_size]`

        Returns probabilities and token ids, `[n_masked, top]`, sequence by sequence.
        """
        model = self.pretrained.model
        # `[batch_size, seq_len, d_model]`, so that the positions of a sequence come one after the other
        hidden = model.encode(x, padding_mask).transpose(0, 1)
        # `[n_masked, n_tokens]`
        logits = model.generator(hidden[(x == self.pretrained.configs.mask_token).T])
        logits = logits.float().masked_fill(~self._allowed.to(x.device), -torch.inf)
        return logits.softmax(dim=-1).topk(min(top, int(self._allowed.sum())))

    def ids(self, text: str) -> Tensor:
        """Token ids of a text with `[MASK]` in it, `[seq_len]`; raises what a call does."""
        pieces = text.split(MASK_TEXT)
        if len(pieces) == 1:
            raise UserError(f'there is no {MASK_TEXT} in {text!r}')
        return self.pretrained.masked_ids(pieces)

    def _pieces(self, text: str) -> list[str]:
        """The text before, between and after the masks."""
        *before, last = text.split(MASK_TEXT)
        if self.pretrained.tokenizer.is_spaced:
            # The space is part of the token that stands there
            before = [piece.removesuffix(' ') for piece in before]
        return [*before, last]

    def _filled(self, text: str, masks: list[list[Prediction]]) -> Filled:
        pieces = self._pieces(text)
        best = [predictions[0].token for predictions in masks]
        if not pieces[0] and not text.startswith(' '):
            best[0] = best[0].removeprefix(' ')
        return Filled(text, ''.join(part for pair in zip(pieces, [*best, ''], strict=True) for part in pair), masks)
