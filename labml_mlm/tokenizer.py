"""
# Tokenizers

A tokenizer turns text into token ids and back. The special tokens come first, in BERT's order, whatever the text.
"""
from collections.abc import Iterable, Sequence

import numpy as np

from labml_mlm.corpus import code_points
from labml_mlm.errors import UserError

SPECIAL_TOKENS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
PAD, UNK, CLS, SEP, MASK = range(5)


class CharacterTokenizer:
    """
    ## One token a character

    * `characters` is the vocabulary, without special tokens

    Ids are those of the special tokens, then of the characters in the order given.
    """

    # In `to_dict`
    kind = 'character'

    def __init__(self, characters: Iterable[str]):
        self.tokens = SPECIAL_TOKENS + list(characters)
        points = np.array([ord(c) for c in self.tokens[len(SPECIAL_TOKENS):]], dtype=np.int64)
        # The id of each code point: encoding is one look-up
        self._ids = np.full(0x110000, UNK, dtype=np.int32)
        self._ids[points] = np.arange(len(SPECIAL_TOKENS), len(self.tokens))

    @classmethod
    def from_characters(cls, characters: str) -> 'CharacterTokenizer':
        """That of a text with these characters, sorted. Raises `UserError` if there are fewer than two."""
        distinct = sorted(set(characters))
        if len(distinct) < 2:
            raise UserError(f'the text has {len(distinct)} distinct characters: there is nothing to predict; '
                            f'it takes 2 at least')
        return cls(distinct)

    @classmethod
    def from_dict(cls, saved: dict) -> 'CharacterTokenizer':
        """The tokenizer that gave `to_dict`. Raises `UserError` if it is of another kind."""
        if saved.get('kind') != cls.kind:
            raise UserError(f'a tokenizer of the kind {saved.get("kind")} is none that is known here')
        return cls(saved['characters'])

    def to_dict(self) -> dict:
        """All that it takes to build it again, for JSON."""
        return {'kind': self.kind, 'characters': ''.join(self.tokens[len(SPECIAL_TOKENS):])}

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `int32` of shape `[len(text)]`; `[UNK]` for characters out of the vocabulary."""
        return self._ids[code_points(text)]

    def unknown(self, text: str) -> list[str]:
        """The characters of `text` that are not in the vocabulary, sorted, each once."""
        points = code_points(text)
        return [chr(c) for c in np.unique(points[self._ids[points] == UNK])]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names."""
        return ''.join(self.tokens[i] for i in ids)
