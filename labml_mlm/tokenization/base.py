"""
# Tokenizers

A tokenizer turns text into token ids and back. Of those that are made from a text the special tokens come first, in
BERT's order, whatever the text.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from labml_mlm.data.documents import Piece
from labml_mlm.tokenization.word_boundaries import Words

SPECIAL_TOKENS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


class Special(NamedTuple):
    """Ids of special tokens by what they are for."""
    pad: int
    # What is not in the vocabulary; `None` where there is nothing of that kind
    unk: int | None
    # Before a document, in a model of somebody else's
    cls: int | None
    # Between two documents
    sep: int
    mask: int
    # Whatever others there are
    others: tuple[int, ...] = ()

    @property
    def all(self) -> list[int]:
        """Each once, sorted."""
        return sorted({token for token in (*self[:5], *self.others) if token is not None})


class Tokenizer(Protocol):
    """What every tokenizer has."""
    # In `to_dict`
    kind: str
    special: Special
    # What each id stands for in a text, with the space before it if it brings one; special tokens by their names
    tokens: list[str]
    # Do tokens bring the space before them?
    is_spaced: bool
    # What belongs to it as files, by name
    files: dict[str, str]

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""

    @property
    def words(self) -> Words:
        """Which tokens begin words."""

    def to_dict(self) -> dict:
        """With `files`, all that it takes to build it again; for JSON. Equal ones are equal tokenizers."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `[n]`, of any type of whole numbers."""

    def encode_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, bool]]:
        """Token ids of documents that come in pieces, each with whether it ends its document."""

    def encode_masked(self, pieces: Sequence[str]) -> np.ndarray:
        """Token ids of the pieces of a text, with that of `[MASK]` between each two."""

    def unknown(self, text: str) -> list[str]:
        """What in `text` is not in the vocabulary, sorted, each once."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names."""


def files_of(tokenizer: Any) -> dict[str, str]:
    """What belongs to a tokenizer as files; nothing if it is of a kind that knows of none."""
    return getattr(tokenizer, 'files', {})

