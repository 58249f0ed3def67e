"""A token for each character."""
import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import PairTemplate, Template
from labml_mlm.data.blocks import Block, Piece
from labml_mlm.data.corpus import code_points
from labml_mlm.tokenization.base import SPECIAL_TOKENS, SpecialTokens
from labml_mlm.tokenization.encoded import Encoded
from labml_mlm.tokenization.word_boundaries import WordBoundaries


class CharacterTokenizer:
    """
    ## One token per character

    * `characters` is the vocabulary, without special tokens

    Ids are those of the special tokens, then of the characters in the given order.
    """
    kind = 'character'
    special = SpecialTokens(*range(5))
    template = Template((special.cls,), (special.sep,))
    pair_template = PairTemplate((special.cls,), (special.sep,), (special.sep,))
    is_spaced = False
    files: dict[str, str] = {}

    def __init__(self, characters: Iterable[str]):
        self.tokens = SPECIAL_TOKENS + list(characters)
        points = np.array([ord(c) for c in self.tokens[len(SPECIAL_TOKENS):]], dtype=np.int64)
        # The id of each code point: encoding is one look-up. A small type, to stay in the processor's cache
        self._ids = np.full(0x110000, self.special.unk, np.min_scalar_type(len(self.tokens) - 1))
        self._ids[points] = np.arange(len(SPECIAL_TOKENS), len(self.tokens))

    @classmethod
    def from_characters(cls, characters: str) -> 'CharacterTokenizer':
        """The tokenizer of a text with these characters, sorted. Raises `UserError` if there are fewer than two."""
        distinct = sorted(set(characters))
        if len(distinct) < 2:
            raise UserError(f'the text has {len(distinct)} distinct characters: there is nothing to predict with fewer '
                            f'than 2')
        return cls(distinct)

    @classmethod
    def from_dict(cls, saved: dict) -> 'CharacterTokenizer':
        """The tokenizer that returned `saved` from `to_dict`."""
        return cls(saved['characters'])

    def to_dict(self) -> dict:
        """All it takes to build the tokenizer again, for JSON."""
        return {'kind': self.kind, 'characters': ''.join(self.tokens[len(SPECIAL_TOKENS):])}

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self.tokens)

    @functools.cached_property
    def words(self) -> WordBoundaries:
        """Which tokens begin words."""
        return WordBoundaries(self.tokens, special_tokens=self.special.all)

    def encode(self, text: str) -> np.ndarray:
        """
        Token ids, `[len(text)]`, of the smallest type that holds the vocabulary; `[UNK]` for unknown characters.
        """
        # Two bytes per character are half the work, and enough unless there is an emoji or the like
        units = np.frombuffer(text.encode('utf-16-le', 'surrogatepass'), '<u2')
        # `clip` avoids a check of indices that are in range anyway
        return np.take(self._ids, units if len(units) == len(text) else code_points(text), mode='clip')

    def encode_blocks(self, blocks: Iterable[Block]) -> Iterator[Encoded]:
        """Token ids of documents that come in blocks."""
        for texts, is_last in blocks:
            yield Encoded.of_texts(self.encode(''.join(texts)), list(map(len, texts)), is_last=is_last)

    def encode_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, bool]]:
        """Token ids of documents that come in pieces, each with whether it ends its document."""
        for piece, is_last in pieces:
            yield self.encode(piece), is_last

    def encode_masked(self, pieces: Sequence[str]) -> np.ndarray:
        """Token ids of the pieces of a text, with `[MASK]` between every two."""
        mask = np.array([self.special.mask])
        return np.concatenate([part for piece in pieces for part in (mask, self.encode(piece))][1:])

    def unknown(self, text: str) -> list[str]:
        """The characters of `text` that are not in the vocabulary, sorted, each once."""
        points = code_points(text)
        return [chr(c) for c in np.unique(points[self._ids[points] == self.special.unk])]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names."""
        return ''.join(self.tokens[i] for i in ids)
