"""
# Batches of labelled texts

`Examples` are windows of different lengths, as loaders take them: a batch is padded to the longest of its own, so that
short texts cost little. Labels come with it.
"""
import copy
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import NO_TEMPLATE, Batch, PairTemplate, Template
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.rows import Rows
from labml_mlm.labelled.sequences import Encoded, PairEncoder, TextEncoder, WordEncoder
from labml_mlm.labelled.tagged import Tagged
from labml_mlm.tokenization.base import Tokenizer

# Where a token has no label, as in `torch.nn.functional.cross_entropy`
NO_LABEL = -100


class NoTokens(UserError):
    """A tokenizer finds no token in any text."""


class Counts(NamedTuple):
    """What became of the rows of a file."""
    # Rows, or sentences, with text
    n_rows: int
    # Rows without, which are left out
    n_blank: int
    # Those of whose text the tokenizer makes no token, which are left out, too
    n_without_tokens: int
    # Those that are longer than the longest sequence
    n_cut: int
    max_len: int
    # Tokens of texts, and how many of them are `[UNK]`
    n_tokens: int
    n_unknown: int
    # Words to label, and how many have no token, or none that is left
    n_words: int = 0
    n_words_lost: int = 0

    def messages(self) -> list[str]:
        """A sentence for each thing that was not as it should be."""
        return [text for n, text in (
            (self.n_blank, f'{self.n_blank:,} rows without text are left out'),
            (self.n_without_tokens, f'{self.n_without_tokens:,} of {self.n_rows:,} texts are left out: the tokenizer '
                                    'finds no token in them'),
            (self.n_cut, f'{self.n_cut:,} of {self.n_rows:,} texts are longer than {self.max_len} tokens, and are cut '
                         'at their end'),
            (self.n_words_lost, f'{self.n_words_lost:,} of {self.n_words:,} words are cut off, or have no token: '
                                'their labels are not used'),
            (self.n_unknown, f'{self.n_unknown:,} of {self.n_tokens:,} tokens are unknown to the tokenizer')) if n]


class Examples:
    """
    ## Sequences with labels, as windows for a loader

    `of_rows` and `of_tagged` make them.

    * `seq_len` is the longest that a sequence may be, with special tokens
    * `rows` are the numbers of the rows that they come from, `[n]`: a row without tokens gives none
    * `labels` is what labels mean, and `targets` are their values as `LabelSet.encode` gives them, one for each
      example; both are `None` without labels. Those of tags are in `batch` alone
    * `counts` tell what became of all rows
    """
    # Sequences have no offset
    n_offsets = 1

    def __init__(self, *, sequences: Iterable[Encoded], rows: np.ndarray, counts: Counts, padding_token: int,
                 n_special: int, labels: LabelSet | None, targets: np.ndarray | None, tags: list[np.ndarray] | None):
        sequences = list(sequences)
        self.rows = rows
        self.counts = counts
        self.seq_len = counts.max_len
        self.labels = labels
        self.targets = targets
        self._padding_token = padding_token
        self._n_special = n_special
        self._sizes = np.array([len(sequence.tokens) for sequence in sequences])
        self._begins = np.cumsum(self._sizes) - self._sizes
        # Of all sequences in a row, `[n_tokens]` each
        self._tokens = _in_a_row(sequences, 'tokens')
        self._segments = _in_a_row(sequences, 'segments')
        self._words = _in_a_row(sequences, 'words')
        self._tags = None
        if tags is not None:
            self._tags = np.concatenate([_at_firsts(sequence.words, of_words)
                                         for sequence, of_words in zip(sequences, tags, strict=True)])

    @classmethod
    def of_rows(cls, rows: Rows, tokenizer: Tokenizer, *, max_len: int, template: Template = NO_TEMPLATE,
                pair_template: PairTemplate | None = None, labels: LabelSet | None = None) -> 'Examples':
        """
        The examples of texts, or of pairs. Sequences have up to `max_len` tokens, with those of `template`, or of
        `pair_template`. Without `labels`, batches have none. Raises `NoTokens` if no text gives a token, `UserError` if
        there is no room for one, and what `LabelSet.encode` raises.
        """
        is_pair = rows.rows[0].pair is not None
        encoder = PairEncoder(tokenizer, max_len=max_len, template=pair_template) if is_pair else \
            TextEncoder(tokenizer, max_len=max_len, template=template)
        targets = labels.encode(rows) if labels else None
        return cls._encoded(rows, encoder, tokenizer, max_len=max_len, labels=labels, targets=targets)

    @classmethod
    def of_tagged(cls, tagged: Tagged, tokenizer: Tokenizer, *, max_len: int, template: Template = NO_TEMPLATE,
                  separator: str = ' ', labels: LabelSet | None = None) -> 'Examples':
        """The examples of words, with `separator` between every two. Raises as `of_rows` does."""
        encoder = WordEncoder(tokenizer, max_len=max_len, template=template, separator=separator)
        tags = labels.encode_tags(tagged) if labels else None
        return cls._encoded(tagged, encoder, tokenizer, max_len=max_len, labels=labels, tags=tags)

    @classmethod
    def _encoded(cls, source: Rows | Tagged, encoder: TextEncoder | PairEncoder | WordEncoder,
                 tokenizer: Tokenizer, *, max_len: int, labels: LabelSet | None, targets: np.ndarray | None = None,
                 tags: list[np.ndarray] | None = None) -> 'Examples':
        found = [encoder(row) for row in source.rows]
        rows = np.flatnonzero([not sequence.is_empty for sequence in found])
        if not len(rows):
            raise NoTokens(f'{source.path}: the tokenizer finds no token in any of {len(found):,} texts')
        kept = [found[i] for i in rows]
        is_words = kept[0].words is not None
        n_words = sum(len(row.words) for row in source.rows) if is_words else 0
        counts = Counts(
            n_rows=len(found), n_blank=source.n_empty, n_without_tokens=len(found) - len(kept),
            n_cut=sum(sequence.is_cut for sequence in kept), max_len=max_len,
            n_tokens=sum(len(sequence.tokens) - encoder.n_special for sequence in kept),
            n_unknown=sum(int((sequence.tokens == tokenizer.special.unk).sum()) for sequence in kept),
            n_words=n_words,
            n_words_lost=n_words - sum(int((sequence.words >= 0).sum()) for sequence in kept) if is_words else 0)
        return cls(sequences=kept, rows=rows, counts=counts, padding_token=tokenizer.special.pad,
                   n_special=encoder.n_special, labels=labels, targets=None if targets is None else targets[rows],
                   tags=None if tags is None else [tags[i] for i in rows])

    def __len__(self) -> int:
        return len(self._sizes)

    def batch(self, numbers: np.ndarray, offset: int = 0, *, length: int | None = None) -> Batch:
        """
        Examples by their numbers, `[batch_size]`, padded to the longest of them, or to `length`. Labels are ids,
        `[1, batch_size]`; for several, 1 or 0 for each, `[n_labels, batch_size]`; numbers, `[1, batch_size]`; and ids
        at the first token of each word and -100 elsewhere, `[seq_len, batch_size]`.
        """
        sizes = self._sizes[numbers]
        # `[seq_len, 1]`
        positions = np.arange(sizes.max(initial=0) if length is None else length)[:, None]
        is_padding = positions >= sizes
        index = np.where(is_padding, 0, self._begins[numbers] + positions)

        def of(values: np.ndarray, padding: int) -> torch.Tensor:
            # `[seq_len, batch_size]`
            return torch.from_numpy(np.where(is_padding, padding, values[index]).astype(np.int64))

        labels = None if self._tags is None else of(self._tags, NO_LABEL)
        if self.targets is not None:
            targets = torch.from_numpy(self.targets[numbers])
            labels = targets.T.contiguous() if targets.ndim == 2 else targets[None]
        return Batch(of(self._tokens, self._padding_token), torch.from_numpy(is_padding), labels=labels,
                     n_special_tokens=self.n_special_tokens(numbers),
                     segment_ids=None if self._segments is None else of(self._segments, 0))

    def by_length(self) -> 'Examples':
        """The same examples, the longest first: for validation and prediction, where order does not matter."""
        order = np.argsort(-self._sizes, kind='stable')
        ordered = copy.copy(self)
        ordered.rows, ordered._sizes, ordered._begins = self.rows[order], self._sizes[order], self._begins[order]
        ordered.targets = None if self.targets is None else self.targets[order]
        return ordered

    def longest(self, numbers: np.ndarray) -> int:
        """The length of the longest of some examples, with special tokens."""
        return int(self._sizes[numbers].max(initial=0))

    def lengths(self, numbers: np.ndarray, offset: int = 0) -> np.ndarray:
        """Number of tokens of examples, without special ones; `[batch_size]`."""
        return self._sizes[numbers] - self._n_special

    def n_special_tokens(self, numbers: np.ndarray, offset: int = 0) -> int:
        """Number of special tokens around these examples, and between the texts of pairs."""
        return len(numbers) * self._n_special

    def first_tokens(self, number: int) -> dict[int, int]:
        """Where the first token of each word stands in its sequence, by the number of the word; none of lost words."""
        begin = self._begins[number]
        words = self._words[begin:begin + self._sizes[number]]
        at = np.flatnonzero(words >= 0)
        return dict(zip(words[at].tolist(), at.tolist(), strict=True))


def _in_a_row(sequences: list[Encoded], name: str) -> np.ndarray | None:
    """One of the arrays of all sequences; `None` if they have none."""
    if getattr(sequences[0], name) is None:
        return None
    return np.concatenate([getattr(sequence, name) for sequence in sequences])


def _at_firsts(words: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """The tag of each word at its first token, and -100 elsewhere."""
    return np.where(words >= 0, tags[words], NO_LABEL)
