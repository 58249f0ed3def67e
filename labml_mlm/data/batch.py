"""
# A batch

A *window* is `seq_len` tokens in a row; a batch is `batch_size` windows, sequence first as everywhere in labml:
`[seq_len, batch_size]`.

Published encoders have seen every sequence as `[CLS] … [SEP]`, or with other special tokens around it; a `Template`
says which. They are no text: they are never masked, never predicted and never counted.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.process_group import Ranks


class Columns(NamedTuple):
    """The columns of a batch that are here, if several ranks share it."""
    first: int
    # Number of columns of all ranks
    total: int


class Batch(NamedTuple):
    """
    A batch with more than tokens; all tensors but one have shape `[seq_len, batch_size]`. `BatchReader` says what else
    a loader of your own may give.
    """
    # Token ids
    tokens: Tensor
    # True at padding, which is never attended to
    padding_mask: Tensor | None = None
    # Which document of its window a token belongs to; it attends to tokens of the same one
    document_ids: Tensor | None = None
    # If several ranks share the batch: the columns that are here, and `n_tokens`
    columns: Columns | None = None
    n_global_tokens: int | None = None
    # The tokens to predict, `padding_token` elsewhere, if `tokens` are masked already
    labels: Tensor | None = None
    # From a loader of your own: are all tensors `[batch_size, seq_len]`? By default, as the item `batch_first` says
    batch_first: bool | None = None
    # Tokens of all ranks that a `Template` has put around sequences
    n_special_tokens: int = 0
    # Which segment (token type) of its sequence a token belongs to, as in BERT's pairs; all to the first by default
    segment_ids: Tensor | None = None
    # Of pairs of spans, `[1, batch_size]`: is the second one not the next?
    pair_labels: Tensor | None = None
    # Tokens of the longest unit of masking, or more, if it is known
    longest_unit: int | None = None

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

        Raises `UserError` if there are special tokens around the sequences: most parts would be without.
        """
        if self.n_special_tokens:
            raise UserError('sequences with special tokens around them cannot be split into shorter ones')
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
        return self.padding_mask if self.n_tokens + self.n_special_tokens < self.n_positions else None

    @property
    def context(self) -> tuple[Tensor | None, ...]:
        """What a model needs besides tokens: `key_padding`, `document_ids`, `segment_ids` and `pair_labels`."""
        return self.key_padding, self.document_ids, self.segment_ids, self.pair_labels

    @property
    def n_tokens(self) -> int:
        """Tokens of all ranks, without padding, and without special tokens around sequences."""
        if self.n_global_tokens is not None:
            return self.n_global_tokens
        n_tokens = self.tokens.numel() if self.padding_mask is None else int((~self.padding_mask).sum())
        return n_tokens - self.n_special_tokens

    @property
    def n_positions(self) -> int:
        """Tokens of all ranks, with padding."""
        return len(self.tokens) * (self.columns.total if self.columns else self.tokens.shape[1])


class Template(NamedTuple):
    """Ids of the special tokens that stand around each sequence."""
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens that it adds to a sequence."""
        return len(self.before) + len(self.after)

    @property
    def ids(self) -> tuple[int, ...]:
        """Its tokens, in order."""
        return self.before + self.after

    def text_length(self, seq_len: int) -> int:
        """Tokens of the text in a sequence of `seq_len`. Raises `UserError` if there would be none."""
        if seq_len <= self.length:
            raise UserError(f'seq_len={seq_len} leaves no room for text: the special tokens around each window take '
                            f'{self.length}. Use a longer seq_len, or add_special_tokens=false')
        return seq_len - self.length

    def around(self, x: Tensor) -> Tensor:
        """Sequences, `[seq_len, …]`, with its tokens around each: `[length + seq_len, …]`."""
        if not self.length:
            return x
        before, after = (x.new_tensor(ids).view(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:]) for ids in self)
        return torch.cat([before, x, after])

    def batch(self, x: Tensor) -> Tensor | Batch:
        """Sequences, `[seq_len, batch_size]`, with its tokens around each; themselves if it has none."""
        return Batch(self.around(x), n_special_tokens=x.shape[1] * self.length) if self.length else x


NO_TEMPLATE = Template()


class PairTemplate(NamedTuple):
    """Ids of the special tokens around and between the two texts of a pair, as in `[CLS] A [SEP] B [SEP]`."""
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    # The segment of the second text and of what is after it; that of all others is 0
    second_segment: int = 1

    @property
    def length(self) -> int:
        """Number of tokens that it adds to a pair."""
        return sum(map(len, self[:3]))


def batches_by_length(sequences: Sequence[Tensor], *, padding_token: int,
                      n_tokens: int = 1 << 12) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
    """
    Sequences of token ids, `[seq_len]` each, in batches of similar lengths: their indices, their ids, `[seq_len,
    batch_size]`, and a padding mask of the same shape, or `None` if there is no padding. `n_tokens` is the most tokens
    of a batch with more than one sequence, padding included.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    while order:
        # The longest first: if memory is too small, that shows at once
        batch_size = max(1, n_tokens // len(sequences[order[-1]]))
        indices, order = order[-batch_size:], order[:-batch_size]
        x = torch.nn.utils.rnn.pad_sequence([sequences[i] for i in indices], padding_value=padding_token)
        padding_mask = torch.arange(len(x))[:, None] >= torch.tensor([len(sequences[i]) for i in indices])
        yield indices, x, padding_mask if padding_mask.any() else None
