"""
# How windows are cut from a text

`Windows` cuts them from the stream of all documents. Where no window may span two of them, most documents do not fill
theirs. Rather than pad the rest, `PackedDocuments` puts other short documents there; as long as attention is confined
to each document, the model cannot tell ([Krell et al. 2021](https://arxiv.org/abs/2107.02027)).

A document gives as many whole windows as fit into it, and a shorter tail. Tails are packed by their lengths alone, the
longest first, each time with the longest that still fits (best fit decreasing). Which tail of a length is taken does
not matter, so the search is over a histogram of `seq_len` lengths rather than over documents.

Where an encoder has special tokens around each sequence, a `Template` puts them around each window, or each document of
one. They are part of its `seq_len`.
"""
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import NO_TEMPLATE, Batch, Template


class WindowSource(Protocol):
    """Windows by number."""
    seq_len: int
    # Number of offsets at which the first window may begin
    n_offsets: int

    def __len__(self) -> int:
        """Number of windows."""

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor | Batch:
        """Windows by their numbers, `[batch_size]`, as a batch, `[seq_len, batch_size]`."""

    def lengths(self, numbers: np.ndarray, offset: int = 0) -> np.ndarray:
        """Number of tokens of windows before their padding, without special ones around them; `[batch_size]`."""

    def n_special_tokens(self, numbers: np.ndarray, offset: int = 0) -> int:
        """Number of special tokens around the text of windows, or around its parts; of all of them together."""


class Windows:
    """
    ## A text cut into windows

    * `tokens` is the text, `[n]`, of any integer type; it may be mapped from a file
    * `seq_len` is the length of a window, with the special tokens that `template` puts around its text

    The text is taken as a ring, and may be cut from any offset. The rest, of less than a window, before that offset is
    in no window. Raises `UserError` if `template` leaves no room for text.
    """

    def __init__(self, tokens: Tensor | np.ndarray, *, seq_len: int, template: Template = NO_TEMPLATE):
        self.tokens = np.asarray(tokens)
        self.seq_len = seq_len
        self.template = template
        self.n_offsets = len(tokens)
        # Tokens of the text in a window
        self._length = template.text_length(seq_len)
        # `[length, 1]`; no window is longer than the text
        self._positions = np.arange(self._length if len(self) else 0)[:, None]

    def __len__(self) -> int:
        return len(self.tokens) // self._length

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Tensor | Batch:
        """
        Windows by their numbers, `[batch_size]`, where the first begins at `offset`: their tokens, `[seq_len,
        batch_size]`, or a batch if there is a template.
        """
        starts = offset + numbers * self._length
        starts[starts >= len(self.tokens)] -= len(self.tokens)
        # `[length, batch_size]`
        index = starts + self._positions
        if index[-1].max(initial=0) >= len(self.tokens):
            index[index >= len(self.tokens)] -= len(self.tokens)
        return self.template.batch(torch.from_numpy(self.tokens[index].astype(np.int64)))

    def lengths(self, numbers: np.ndarray, offset: int = 0) -> np.ndarray:
        """Number of tokens of windows, without special ones around them; `[batch_size]`."""
        return np.full(len(numbers), self._length)

    def n_special_tokens(self, numbers: np.ndarray, offset: int = 0) -> int:
        """Number of special tokens around these windows."""
        return len(numbers) * self.template.length


class PackedDocuments:
    """
    ## Windows with whole documents, or parts of one

    * `tokens` is the text, `[n]`, of any integer type
    * `ends` are the ends of its documents, ascending, `[n_documents]`
    * `padding_token` fills the rest of a window
    * `template` puts special tokens around each document, or part of one, in a window. A document that ends in the
      first of those after it, as in a `[SEP]`, does not get it twice: it counts as special then

    Every token is in one window. Takes up to 24 bytes of memory per document, and 32 with a template. Raises
    `UserError` if the last document does not end where the text does, and if `template` leaves no room for text.
    """
    # Windows have no offset
    n_offsets = 1

    def __init__(self, tokens: Tensor | np.ndarray, ends: Tensor | np.ndarray, *, seq_len: int, padding_token: int,
                 template: Template = NO_TEMPLATE):
        self.tokens = np.asarray(tokens)
        self.seq_len = seq_len
        self.padding_token = padding_token
        self.template = template
        # Tokens of the text in a whole window
        self._length = template.text_length(seq_len)
        self._ends = np.asarray(ends)
        if len(tokens) != (self._ends[-1] if len(self._ends) else 0):
            raise UserError('packing=documents needs the ends of documents, and the last one must be the end of the '
                            'text: tokens of your own need document ends of their own')
        lengths = np.diff(self._ends, prepend=0)
        if template.after:
            # A separator that is in the text already
            is_separated = np.zeros(len(lengths), bool)
            is_separated[lengths > 0] = self.tokens[self._ends[lengths > 0] - 1] == template.after[0]
            self._ends, lengths = self._ends - is_separated, lengths - is_separated
        # Whole windows up to the end of each document, `[n_documents]`
        self._windows = (lengths // self._length).cumsum()
        # The tail of each
        self._tails = (lengths % self._length).astype(np.int32)
        self._n_whole = int(self._windows[-1]) if len(self._windows) else 0
        # Documents by pack, `[n_tails]`, and where in that each pack begins, `[n_packs + 1]`
        self._members, self._begins = _pack(np.where(self._tails > 0, self._tails + template.length, 0), seq_len)

    def __len__(self) -> int:
        return self._n_whole + len(self._begins) - 1

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Batch:
        """Windows by their numbers, `[batch_size]`. The documents of each are numbered from 1."""
        columns, documents, starts, lengths = self._parts(numbers)
        sizes = lengths + self.template.length
        # The position of each part in its window, and of each token in its part
        before = np.cumsum(sizes) - sizes
        first = np.searchsorted(columns, columns)
        within = np.arange(sizes.sum()) - np.repeat(before, sizes)
        rows = within + np.repeat(before - before[first], sizes)
        columns = np.repeat(columns, sizes)
        x = np.full((self.seq_len, len(numbers)), self.padding_token, np.int64)
        document_ids = np.zeros_like(x, np.int32)
        x[rows, columns] = self._tokens_of_parts(within, starts, lengths)
        document_ids[rows, columns] = np.repeat(documents, sizes)
        document_ids = torch.from_numpy(document_ids)
        return Batch(torch.from_numpy(x), document_ids == 0, document_ids,
                     n_special_tokens=len(lengths) * self.template.length)

    def _tokens_of_parts(self, within: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The tokens of parts with the template around each; `within` are their positions in their parts, `[n]`."""
        if not self.template.length:
            return self.tokens[within + np.repeat(starts, lengths)]
        sizes = lengths + self.template.length
        # In the text of the part; negative or beyond its end in the template
        positions, ends = within - len(self.template.before), np.repeat(lengths, sizes)
        tokens = self.tokens[np.repeat(starts, sizes) + positions.clip(0, ends - 1)].astype(np.int64)
        for i, token in enumerate(self.template.before):
            tokens[within == i] = token
        for i, token in enumerate(self.template.after):
            tokens[positions == ends + i] = token
        return tokens

    def lengths(self, numbers: np.ndarray, offset: int = 0) -> np.ndarray:
        """Number of tokens of windows before their padding, without special ones around them; `[batch_size]`."""
        columns, _, _, lengths = self._parts(numbers)
        return np.bincount(columns, lengths, minlength=len(numbers)).astype(np.int64)

    def n_special_tokens(self, numbers: np.ndarray, offset: int = 0) -> int:
        """Number of special tokens around the documents of these windows."""
        return len(self._parts(numbers)[0]) * self.template.length

    def _parts(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Column, number in the window, first token and length of each part of the windows, column by column."""
        packs = numbers - self._n_whole
        is_pack = packs >= 0
        counts = np.ones(len(numbers), np.int64)
        counts[is_pack] = self._begins[packs[is_pack] + 1] - self._begins[packs[is_pack]]
        columns = np.repeat(np.arange(len(numbers)), counts)
        number = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        in_pack = is_pack[columns]
        starts, lengths = np.empty_like(columns), np.full(len(columns), self._length)
        members = self._members[self._begins[packs[columns[in_pack]]] + number[in_pack]]
        lengths[in_pack] = self._tails[members]
        starts[in_pack] = self._ends[members] - self._tails[members]
        whole = numbers[columns[~in_pack]]
        # Counted from the end of its document
        document = np.searchsorted(self._windows, whole, 'right')
        starts[~in_pack] = self._ends[document] - self._tails[document] \
            - (self._windows[document] - whole) * self._length
        return columns, number + 1, starts, lengths


def _pack(tails: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents by pack, and where each pack begins, by the lengths of their tails; 0 if they have none."""
    counts = np.bincount(tails, minlength=seq_len)
    by_length = np.argsort(tails, kind='stable').astype(np.int32)
    # The next document of each length
    following = np.cumsum(counts) - counts
    members, sizes = [], []
    for lengths, times in _combinations(counts.tolist()):
        columns = []
        for length in lengths:
            columns.append(by_length[following[length]:following[length] + times])
            following[length] += times
        members.append(np.stack(columns, axis=1).ravel())
        sizes.append(np.full(times, len(lengths)))
    empty = np.zeros(0, np.int32)
    return np.concatenate([empty, *members]), np.concatenate([[0], *sizes]).cumsum()


def _combinations(counts: list[int]) -> Iterator[tuple[list[int], int]]:
    """
    Lengths that share a window, and how many windows they do so in.

    * `counts` has the number of tails of each length, from 0 to `seq_len - 1`
    """
    seq_len, counts = len(counts), list(counts)
    for longest in range(seq_len - 1, 0, -1):
        while counts[longest]:
            lengths, room, used = [longest], seq_len - longest, {longest: 1}
            length = min(longest, room)
            while length:
                if counts[length] > used.get(length, 0):
                    lengths.append(length)
                    used[length] = used.get(length, 0) + 1
                    room -= length
                length = min(length, room) if counts[length] > used.get(length, 0) else min(length - 1, room)
            times = min(counts[length] // n for length, n in used.items())
            for length, n in used.items():
                counts[length] -= n * times
            yield lengths, times
