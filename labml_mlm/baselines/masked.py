"""Masked tokens, and the neighbours that are seen of them."""
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Masked tokens that guesses are measured on: the first ones
_MAX_MASKED = 1 << 17


class Masked(NamedTuple):
    """Masked tokens, `[n]`, and their neighbours to the left and to the right; -1 for one that is not seen."""
    tokens: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def of_batch(cls, tokens: Tensor, labels: Tensor, *, padding_token: int, is_neighbour: Tensor,
                 document_ids: Tensor | None = None) -> 'Masked':
        """
        Those of a batch. A neighbour is not seen if it is masked itself, in another document, or beyond the window.

        * `tokens` are those before masking, and `labels` those to be predicted, `padding_token` elsewhere; `[seq_len,
          batch_size]` each
        * `is_neighbour` says which tokens are neighbours, `[n_tokens]`: not padding, and nothing that was put around
          the text
        * `document_ids` are those of `Batch`
        """
        tokens, labels = tokens.cpu(), labels.cpu()
        is_masked = labels != padding_token
        seen = tokens.masked_fill(is_masked | ~is_neighbour[tokens], -1)
        left, right = torch.full_like(seen, -1), torch.full_like(seen, -1)
        left[1:], right[:-1] = seen[:-1], seen[1:]
        if document_ids is not None:
            is_other = document_ids[1:].cpu() != document_ids[:-1].cpu()
            left[1:].masked_fill_(is_other, -1)
            right[:-1].masked_fill_(is_other, -1)
        return cls(*(part[is_masked].numpy() for part in (labels, left, right)))


class MaskedTokens:
    """
    ## The masked tokens of a validation, batch by batch

    Those of the first batches of a large one, until there are enough.
    """

    def __init__(self):
        self._parts: list[Masked] = []
        self._n = 0

    @property
    def is_enough(self) -> bool:
        """Are further batches left out?"""
        return self._n >= _MAX_MASKED

    def add(self, masked: Masked):
        """Adds those of a batch."""
        if not self.is_enough:
            self._parts.append(masked)
            self._n += len(masked.tokens)

    @property
    def all(self) -> Masked:
        """All of them."""
        return Masked(*map(np.concatenate, zip(*self._parts, strict=True))) if self._parts else _NONE


def every(masked: Masked, n: int) -> Masked:
    """At most `n` of some masked tokens, from all over them."""
    if len(masked.tokens) <= n:
        return masked
    at = np.linspace(0, len(masked.tokens) - 1, n).astype(np.int64)
    return Masked(*(part[at] for part in masked))


def is_neighbour(n_tokens: int, excluded: Iterable[int]) -> Tensor:
    """Which of `n_tokens` are neighbours: all but some."""
    found = torch.ones(n_tokens, dtype=torch.bool)
    found[list(excluded)] = False
    return found


_NONE = Masked(*(np.zeros(0, np.int64),) * 3)
