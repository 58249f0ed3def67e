"""
# From texts to sequences

A sequence is what a model sees of a row: the tokens of its text, or of a pair of texts, or of words, with special ones
around them, cut to the length that the model takes.

Of a pair, the longer text is cut, token by token, as long as there are too many; of two that are equally long it is the
second. So a short question stays whole beside a long answer.

Words get the tokens that they have in running text, where a space is between every two. Words are encoded one by one,
so no token belongs to two of them. The label of a word stands at its first token that is more than white space (Devlin
et al. 2018, section 5.3): in an alphabet of characters, and in some vocabularies of SentencePiece's, the space is a
token of its own.
"""
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import PairTemplate, Template
from labml_mlm.labelled.rows import Row
from labml_mlm.labelled.tagged import TaggedRow
from labml_mlm.tokenization.base import Tokenizer

# Different words whose tokens are kept
_MAX_KEPT = 1 << 18


class Encoded(NamedTuple):
    """The tokens of a row, `[length]`, with special ones; all other arrays have the same shape."""
    tokens: np.ndarray
    # Was a part of the text left out?
    is_cut: bool
    # Has a text no token at all?
    is_empty: bool
    # Of a pair: which text a token belongs to, as a template says
    segments: np.ndarray | None = None
    # Of words: which word the token is the first one of; -1 elsewhere
    words: np.ndarray | None = None


class TextEncoder:
    """
    ## Sequences of single texts

    * `max_len` is the length of the longest, with the special tokens that `template` puts around each

    Raises `UserError` if `template` leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_len: int, template: Template):
        self.tokenizer = tokenizer
        self.template = template
        self.n_special = template.length
        self._room = template.text_length(max_len)

    def __call__(self, row: Row) -> Encoded:
        """The sequence of a row's text."""
        ids = self.tokenizer.encode(row.text)
        return Encoded(_joined(self.template.before, ids[:self._room], self.template.after),
                       is_cut=len(ids) > self._room, is_empty=not len(ids))


class PairEncoder:
    """
    ## Sequences of pairs

    * `max_len` is the length of the longest, with the special tokens that `template` puts around and between texts

    Raises `UserError` if there is no template, or if it leaves no room for both texts.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_len: int, template: PairTemplate | None):
        if template is None:
            raise UserError('pair_field: the tokenizer has no special tokens to put between two texts')
        self.tokenizer = tokenizer
        self.template = template
        self.n_special = template.length
        self._room = max_len - template.length
        if self._room < 2:
            raise UserError(f'a length of {max_len} leaves no room for pairs: the special tokens around and between '
                            f'two texts take {template.length}')

    def __call__(self, row: Row) -> Encoded:
        """The sequence of a row's two texts."""
        first, second = self.tokenizer.encode(row.text), self.tokenizer.encode(row.pair)
        n_first, n_second = cut_pair(len(first), len(second), self._room)
        template = self.template
        tokens = _joined(template.before, first[:n_first], template.between, second[:n_second], template.after)
        segments = np.zeros(len(tokens), np.int8)
        segments[len(tokens) - n_second - len(template.after):] = template.second_segment
        return Encoded(tokens, is_cut=len(first) + len(second) > self._room,
                       is_empty=not (len(first) and len(second)), segments=segments)


class WordEncoder:
    """
    ## Sequences of words

    * `max_len` is the length of the longest, with the special tokens that `template` puts around each
    * `separator` is the text between two words: nothing for scripts without spaces, and where words have their own

    Raises `UserError` if `template` leaves no room for text.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_len: int, template: Template, separator: str = ' '):
        self.tokenizer = tokenizer
        self.template = template
        self.n_special = template.length
        self.separator = separator
        self._room = template.text_length(max_len)
        # The tokens of a word by its text, and the place of the first that is more than white space; -1 if it has none
        self._known: dict[str, tuple[np.ndarray, int]] = {}

    def __call__(self, row: TaggedRow) -> Encoded:
        """The sequence of a row's words."""
        of_words = [self._encode(self.separator * (i > 0) + word) for i, word in enumerate(row.words)]
        ids = np.concatenate([of_word for of_word, _ in of_words])
        begins = np.cumsum([0, *(len(of_word) for of_word, _ in of_words[:-1])])
        firsts = np.array([first for _, first in of_words])
        words = np.full(len(ids), -1, np.int32)
        words[(begins + firsts)[firsts >= 0]] = np.flatnonzero(firsts >= 0)
        # Nothing but white space is nothing
        is_empty = not (firsts >= 0).any()
        return Encoded(_joined(self.template.before, ids[:self._room], self.template.after),
                       is_cut=len(ids) > self._room, is_empty=is_empty,
                       words=_joined([-1] * len(self.template.before), words[:self._room],
                                     [-1] * len(self.template.after)))

    def _encode(self, text: str) -> tuple[np.ndarray, int]:
        if text not in self._known:
            if len(self._known) >= _MAX_KEPT:
                self._known.clear()
            ids = self.tokenizer.encode(text)
            first = next((i for i, token in enumerate(ids) if self.tokenizer.tokens[token].strip()), -1)
            self._known[text] = ids, first
        return self._known[text]


def cut_pair(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """How many tokens of each of two texts have room together, if the longer one is cut, token by token."""
    if n_first + n_second <= room:
        return n_first, n_second
    half = room // 2
    if n_first <= half:
        return n_first, room - n_first
    return (room - n_second, n_second) if n_second <= half else (room - half, half)


def _joined(*parts: Iterable[int]) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])
