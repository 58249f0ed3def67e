"""TODO."""
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_mlm.distributed.process_group import Ranks


class Columns(NamedTuple):
    """Which columns of a batch are here, where several ranks share one."""
    first: int
    # Number of columns of all ranks
    total: int


class Batch(NamedTuple):
    """
    A batch that is more than tokens; all of shape `[seq_len, batch_size]`. A loader of your own may also give a tensor
    of tokens, or a tuple `(tokens, key_padding)`.
    """
    # Token ids
    tokens: Tensor
    # True where that is padding, which is never attended to
    key_padding: Tensor | None = None
    # Which document of its window a token is of; it attends to those of the same number
    document: Tensor | None = None
    # Which columns of a batch these are, and how many tokens that has without padding, if several ranks share it
    columns: Columns | None = None
    n_shared: int | None = None

    @classmethod
    def of(cls, batch: Any, *, padding_token: int, is_padded: bool = False) -> 'Batch':
        """
        What a loader gives, with `padding_token` wherever there is padding. If it does not tell that, and `is_padded`,
        that is where `padding_token` is.
        """
        batch = cls(batch) if isinstance(batch, Tensor) else cls(*batch)
        if batch.key_padding is not None:
            return batch._replace(tokens=batch.tokens.masked_fill(batch.key_padding, padding_token))
        return batch._replace(key_padding=batch.tokens == padding_token) if is_padded else batch

    def to(self, device: torch.device) -> 'Batch':
        """The same on a device; a GPU copies it by itself, and is not waited for."""
        if device.type != 'cuda':
            return self._each(lambda part: part.to(device))
        return self._each(lambda part: part.pin_memory().to(device, non_blocking=True))

    def of_rank(self, ranks: Ranks) -> 'Batch':
        """A rank's columns of a batch that all of them have; of one that is shared already, all that it has."""
        if ranks.size == 1 or self.columns is not None:
            return self
        n, mine = self.tokens.shape[1], ranks.share(self.tokens.shape[1])
        return self._each(lambda part: part[:, mine])._replace(columns=Columns(mine.start, n), n_shared=self.n_tokens)

    def cut(self, seq_len: int, *, is_all: bool) -> 'Batch':
        """
        The same as sequences of `seq_len`, which divides what they have: all of what they are cut into, side by side,
        with as many times the batch size, or else the first of each.
        """
        n = len(self.tokens) // seq_len if is_all else 1
        return self._each(lambda part: part[:n * seq_len].unflatten(0, (n, seq_len)).permute(1, 2, 0).flatten(1))

    def _each(self, function: Callable[[Tensor], Tensor]) -> 'Batch':
        return self._replace(**{name: function(part) for name, part in zip(self._fields, self, strict=True)
                                if isinstance(part, Tensor)})

    @property
    def n_tokens(self) -> int:
        """Tokens without padding, those of other ranks included."""
        if self.n_shared is not None:
            return self.n_shared
        return self.tokens.numel() if self.key_padding is None else int((~self.key_padding).sum())

    @property
    def n_places(self) -> int:
        """The same with padding."""
        return len(self.tokens) * (self.columns.total if self.columns else self.tokens.shape[1])
