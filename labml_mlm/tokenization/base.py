"""
# The interface of tokenizers

A tokenizer turns text into token ids and back. In tokenizers built from a text, the special tokens come first, in
BERT's order, whatever the text.
"""
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from labml_mlm.data.batch import NO_TEMPLATE, PairTemplate, Template
from labml_mlm.data.blocks import Piece
from labml_mlm.tokenization.word_boundaries import WordBoundaries

SPECIAL_TOKENS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


class SpecialTokens(NamedTuple):
    """Ids of special tokens by role."""
    pad: int
    # For text that is not in the vocabulary; `None` if there is no such token
    unk: int | None
    # Before a sequence, in published encoders
    cls: int | None
    # Between two documents
    sep: int
    mask: int
    # All other special tokens
    others: tuple[int, ...] = ()

    @property
    def all(self) -> list[int]:
        """Each once, sorted."""
        return sorted({token for token in (*self[:5], *self.others) if token is not None})


class Tokenizer(Protocol):
    """The interface of every tokenizer."""
    # In `to_dict`
    kind: str
    special: SpecialTokens
    # The special tokens that stand around each sequence, for encoders with such
    template: Template
    # And around and between the two texts of a pair; `None` if it is not made for pairs
    pair_template: PairTemplate | None
    # The text of each id, with the space before it if the token includes it; special tokens by their names
    tokens: list[str]
    # Do tokens include the space before them?
    is_spaced: bool
    # Its files by name
    files: dict[str, str]

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""

    @property
    def words(self) -> WordBoundaries:
        """Which tokens begin words."""

    def to_dict(self) -> dict:
        """With `files`, all it takes to build the tokenizer again; for JSON. Equal ones are equal tokenizers."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `[n]`, of any integer type."""

    def encode_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, bool]]:
        """Token ids of documents that come in pieces, each with whether it ends its document."""

    # May have `encode_blocks`, too, which does the same for documents that come in blocks

    def encode_masked(self, pieces: Sequence[str]) -> np.ndarray:
        """
        Token ids of the pieces of a text, with `[MASK]` between every two. The space before one is part of the masked
        token, if tokens include the space before them.
        """

    def unknown(self, text: str) -> list[str]:
        """The parts of `text` that are not in the vocabulary, sorted, each once."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names."""


def tokenizer_files(tokenizer: Any) -> dict[str, str]:
    """The files of a tokenizer by name; none if it has no `files`."""
    return getattr(tokenizer, 'files', {})


def tokenizer_template(tokenizer: Any) -> Template:
    """The special tokens that a tokenizer has around each sequence; none if it has no `template`."""
    return getattr(tokenizer, 'template', NO_TEMPLATE)


def tokenizer_pair_template(tokenizer: Any) -> PairTemplate | None:
    """The special tokens around and between two texts; `None` if it has no `pair_template`."""
    return getattr(tokenizer, 'pair_template', None)


def mask_names(tokenizer: Any) -> list[str]:
    """What a mask in a text is called: by the tokenizer, as in `<mask>`, and by all of them."""
    return list(dict.fromkeys([tokenizer.tokens[tokenizer.special.mask], '[MASK]']))


def split_at_masks(text: str, tokenizer: Any) -> tuple[str, ...]:
    """What stands before, between and after the masks of a text; the text itself if there are none."""
    return tuple(re.split('|'.join(map(re.escape, mask_names(tokenizer))), text, flags=re.IGNORECASE))
