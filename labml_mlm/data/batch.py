"""
# A batch

A *window* is `seq_len` tokens in a row; a batch is `batch_size` windows, sequence first as everywhere in labml:
`[seq_len, batch_size]`.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.distributed.process_group import Ranks


class Columns(NamedTuple):
    """The columns of a batch that are here, if several ranks share it."""
    first: int
    # Number of columns of all ranks
    total: int


class Batch(NamedTuple):
    """
    A batch with more than tokens; all tensors have shape `[seq_len, batch_size]`. `BatchReader` says what else
    a loader of your own may give.
    """
    # Token ids
    tokens: Tensor
    # True at padding, which is never attended to
    padding_mask: Tensor | None = None
    # Which document of its window a token belongs to; it attends to tokens of the same one
    document_ids: Tensor | None = None
    # If several ranks share the batch: the columns that are here, and the number of tokens of all ranks
    columns: Columns | None = None
    n_global_tokens: int | None = None
    # The tokens to predict, `padding_token` elsewhere, if `tokens` are masked already
    labels: Tensor | None = None
    # From a loader of your own: are all tensors `[batch_size, seq_len]`? By default, as the item `batch_first` says
    batch_first: bool | None = None

    def to(self, device: torch.device) -> 'Batch':
        """The same on a device. Copies to a GPU are asynchronous, from pinned memory."""
        # To count there would be to wait for the GPU
        counted = self._replace(n_global_tokens=self.n_tokens)
        if device.type != 'cuda':
            return counted.map(lambda part: part.to(device))
        return counted.map(lambda part: (part.pin_memory() if part.device.type == 'cpu' else part).to(
            device, non_blocking=True))

    def shard(self, ranks: Ranks) -> 'Batch':
        """A rank's columns of a batch that all ranks have; the batch itself if it is a shard already."""
        if ranks.size == 1 or self.columns is not None:
            return self
        n, mine = self.tokens.shape[1], ranks.shard(self.tokens.shape[1])
        return self.map(lambda part: part[:, mine])._replace(columns=Columns(mine.start, n),
                                                              n_global_tokens=self.n_tokens)

    def split(self, seq_len: int, *, keep_all: bool) -> 'Batch':
        """
        The same as shorter sequences of `seq_len`, which divides the present length. With `keep_all` the batch size
        grows by as much, parts of a sequence side by side; otherwise only the first part of each sequence is kept.
        """
        n = len(self.tokens) // seq_len if keep_all else 1
        return self.map(lambda part: part[:n * seq_len].unflatten(0, (n, seq_len)).permute(1, 2, 0).flatten(1))

    def unmasked(self, padding_token: int) -> Tensor:
        """The tokens before they were masked."""
        return self.tokens if self.labels is None else self.labels.where(self.labels != padding_token, self.tokens)

    def map(self, function: Callable[[Tensor], Tensor]) -> 'Batch':
        """The same with a function applied to all tensors."""
        return self._replace(**{name: function(part) for name, part in zip(self._fields, self, strict=True)
                                if isinstance(part, Tensor)})

    @property
    def key_padding(self) -> Tensor | None:
        """The padding mask if there is padding: without a mask attention is faster, and training may be compiled."""
        return self.padding_mask if self.n_tokens < self.n_positions else None

    @property
    def n_tokens(self) -> int:
        """Tokens of all ranks, without padding."""
        if self.n_global_tokens is not None:
            return self.n_global_tokens
        return self.tokens.numel() if self.padding_mask is None else int((~self.padding_mask).sum())

    @property
    def n_positions(self) -> int:
        """Tokens of all ranks, with padding."""
        return len(self.tokens) * (self.columns.total if self.columns else self.tokens.shape[1])
