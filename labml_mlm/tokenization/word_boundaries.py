"""
# Word boundaries, token by token

Whole word masking needs to know which tokens make up a word. Two properties of each token are enough, whatever the
tokenizer: may a word continue *after* it, and may it continue a word *before* it? `ing` may do both, ` the` (with its
space) can only be continued, `,` neither. A token begins a word unless both hold at its place; so finding the words of
a batch takes two look-ups.

Letters, digits and `_` make words. Everything else stands alone, and so does each character of the scripts written
without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan). A combining character, or the
second byte of a character, continues whatever is before it.
"""
import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Scripts without spaces: first and last code points
_ALONE = ((0x0e00, 0x0fff), (0x1000, 0x109f), (0x1780, 0x17ff), (0x3040, 0x30ff), (0x3400, 0x4dbf), (0x4e00, 0x9fff),
          (0xf900, 0xfaff), (0x20000, 0x323af))


class WordBoundaries:
    """
    ## Word boundaries of a vocabulary

    * `texts` are the texts of the tokens, or their bytes where those need not be whole characters; with a space in
      front where the token includes it
    * `special_tokens` are the ids of tokens that are not text
    """

    def __init__(self, texts: Sequence[str | bytes], *, special_tokens: Sequence[int]):
        # `[n_tokens]`: 1 if a word may continue after the token
        self.opens = np.array([_is_open(text) for text in texts], np.uint8)
        # `[n_tokens]`: 1 if it may continue a word, 2 if it continues anything, 0 if neither
        self.continues = np.array([_continues(text) for text in texts], np.uint8)
        self.opens[list(special_tokens)] = self.continues[list(special_tokens)] = 0
        # By device
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def starts(self, x: Tensor) -> Tensor:
        """
        * `x` is a batch of token ids, `[seq_len, batch_size]` (or `[seq_len]`)

        Returns whether each begins a word, of the same shape; the first of a sequence always does. Ids beyond the
        vocabulary are not text.
        """
        if x.device not in self._tables:
            self._tables[x.device] = tuple(torch.from_numpy(np.append(table, np.uint8(0))).to(x.device)
                                           for table in (self.opens, self.continues))
        opens, continues = self._tables[x.device]
        x = x.clamp(max=len(opens) - 1)
        starts = x.new_ones(x.shape, dtype=bool)
        starts[1:] = opens[x[:-1]] + continues[x[1:]] < 2
        return starts


def _is_open(text: str | bytes) -> bool:
    if isinstance(text, bytes):
        # All that is known of a truncated character is that it continues
        text = text.decode('utf-8', 'surrogateescape')
    return bool(text) and (_is_byte(text[-1]) or (_is_of_word(text[-1]) and not _is_alone(text[-1])))


def _continues(text: str | bytes) -> int:
    if isinstance(text, bytes):
        text = text.decode('utf-8', 'surrogateescape')
    if not text:
        return 2
    if _is_byte(text[0]):
        byte = ord(text[0]) - 0xdc00
        # Inside a character, or the first half of a letter; the first third of one may be Chinese
        return 2 if byte < 0xc0 else int(byte < 0xe0)
    if unicodedata.category(text[0]).startswith('M'):
        return 2
    return int(_is_of_word(text[0]) and not _is_alone(text[0]))


def _is_byte(c: str) -> bool:
    """Does it stand for a byte that is not a character?"""
    return '\udc80' <= c <= '\udcff'


def _is_of_word(c: str) -> bool:
    return c.isalnum() or c == '_' or unicodedata.category(c).startswith('M')


def _is_alone(c: str) -> bool:
    return any(first <= ord(c) <= last for first, last in _ALONE)
