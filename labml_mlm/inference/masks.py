"""
# Texts with masks in them, and what a model says of the masked places

A mask is `[MASK]`, in any case, or the mask token of the model's own tokenizer, such as `<mask>`. What is not in the
vocabulary becomes the unknown token, if the model was trained with that.
"""
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.tokenization.base import mask_names, split_at_masks

# Logits that are in memory at once
_LOGITS = 1 << 24


class MaskedText(NamedTuple):
    """A text with masks in it."""
    text: str
    # What stands before, between and after the masks
    pieces: tuple[str, ...]
    # Token ids, `[seq_len]`, with special tokens around the text if the run has them
    ids: Tensor
    # The parts that are the unknown token for the model
    unknown: tuple[str, ...]

    @property
    def n_masks(self) -> int:
        """How many there are."""
        return len(self.pieces) - 1


class Masks:
    """
    ## Reads masks, predicts what they stand for, and fills them in

    * `pretrained` is the model, with its tokenizer

    Raises `UserError` for a model without a head.
    """

    def __init__(self, pretrained: Pretrained):
        pretrained.require_head()
        self.pretrained = pretrained
        tokenizer, conf = pretrained.tokenizer, pretrained.configs
        # Never predicted because never a label: special tokens, and ids beyond those of the tokenizer
        self.allowed = torch.ones(conf.n_tokens, dtype=torch.bool)
        self.allowed[conf._unmasked_tokens] = False
        self.allowed[len(tokenizer.tokens):] = False
        # Its own, and the one that every model takes
        self.names = mask_names(tokenizer)

    def split(self, text: str) -> tuple[str, ...]:
        """What stands before, between and after the masks of a text; the text itself if there are none."""
        return split_at_masks(text, self.pretrained.tokenizer)

    def read(self, text: str) -> MaskedText:
        """
        Raises `UserError` for a text without a mask, for one longer than the model allows, and for text that is not in
        the vocabulary, unless the model was trained with an unknown token.
        """
        pieces = self.split(text)
        if len(pieces) == 1:
            raise UserError(f'there is no {" or ".join(self.names)} in {text!r}')
        ids = self.pretrained.masked_ids(pieces, is_unknown_allowed=self.pretrained.has_trained_unknown)
        return MaskedText(text, pieces, ids, self.pretrained.unknown_parts(pieces, ids))

    def fill(self, masked: MaskedText, tokens: Sequence[int]) -> str:
        """The text with a token at each mask, `[n_masks]`."""
        tokenizer = self.pretrained.tokenizer
        *before, last = masked.pieces
        if tokenizer.is_spaced:
            # The space is part of the token that stands there
            before = [piece.removesuffix(' ') for piece in before]
        parts, group = before[:1], []
        for token, piece in zip(tokens, [*before[1:], last], strict=True):
            group.append(token)
            # Tokens side by side may be parts of one character
            if piece:
                parts += [self._text_of(group), piece]
                group = []
        parts.append(self._text_of(group))
        if not masked.pieces[0] and getattr(tokenizer, 'adds_space', False):
            parts[1] = parts[1].removeprefix(' ')
        return ''.join(parts)

    def _text_of(self, tokens: Sequence[int]) -> str:
        text = ''.join(self.pretrained.tokenizer.tokens[i] for i in tokens)
        return self.pretrained.tokenizer.decode(tokens) if '\N{REPLACEMENT CHARACTER}' in text else text

    @torch.no_grad()
    def log_probabilities(self, sequences: Sequence[Tensor], *,
                          first_only: bool = False) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """
        What the model says of masked positions: all, or with `first_only` the first of each sequence.

        * `sequences` are token ids, `[seq_len]` each

        Yields, for some positions at a time, the numbers of their sequences and the positions, `n` each, and the
        log-probabilities of the vocabulary, `[n, n_tokens]`; those of a sequence come from left to right. What is never
        predicted has no probability.
        """
        model, conf = self.pretrained.model, self.pretrained.configs
        for indices, x, padding_mask in self.pretrained.batches(sequences):
            # `[batch_size, seq_len]`, so that the positions of a sequence come one after the other
            is_masked = (x == conf.mask_token).T
            if first_only:
                is_masked &= is_masked.cumsum(dim=1) == 1
            columns, positions = is_masked.nonzero(as_tuple=True)
            # `[n_masked, d_model]`
            hidden = model.encode(x, padding_mask).transpose(0, 1)[is_masked]
            for at in torch.arange(len(hidden), device=x.device).split(max(1, _LOGITS // conf.n_tokens)):
                logits = model.generator(hidden[at]).float().masked_fill(~self.allowed.to(x.device), -torch.inf)
                yield [indices[i] for i in columns[at].tolist()], positions[at].tolist(), logits.log_softmax(dim=-1)
