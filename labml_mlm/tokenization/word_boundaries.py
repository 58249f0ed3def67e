r"""
# Word boundaries, token by token

Whole word masking needs to know which tokens make up a word. Two properties of each token are enough, whatever the
tokenizer: what may continue *after* it, and what it may continue *before* it? `ing` may do both, ` the` (with its
space) can only be continued, `,` neither. A token begins a word unless the two agree at its place; so finding the words
of a batch takes two look-ups.

Letters, digits and `_` make words. Everything else stands alone, and so does each character of the scripts written
without spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan).

Three rules of [UAX #29](https://unicode.org/reports/tr29/#Word_Boundary_Rules) are about what is seen as one character.
Combining marks, joiners, soft hyphens and skin tones continue whatever is before them (WB4); so do the second byte of a
character, and an emoji after a joiner (WB3c). Two regional indicators are a flag (WB15, WB16).

Other rules are left out on purpose: in `don't` and `3.14` UAX #29 sees one word, BERT three, and so do we; and it joins
a run of Katakana, which has no spaces between words.

Where single bytes are tokens, the first byte of a character says little. 0xe0 is taken as a letter of an Indic script;
from 0xe1 on, a byte begins a word: Chinese does, and Vietnamese vowels and joiners, if their bytes were never merged.
"""
from collections.abc import Sequence

import numpy as np
import regex
import torch
from torch import Tensor

# Scripts without spaces: first and last code points
_ALONE = ((0x0e00, 0x0fff), (0x1000, 0x109f), (0x1780, 0x17ff), (0x3040, 0x30ff), (0x3400, 0x4dbf), (0x4e00, 0x9fff),
          (0xf900, 0xfaff), (0x20000, 0x323af))
# What may continue: anything at all, a word, a joined emoji, a flag. Bits of both properties
_ANY, _WORD, _EMOJI, _FLAG = 1, 2, 4, 8
_EXTEND = regex.compile(r'[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]')
_PICTOGRAPHIC = regex.compile(r'\p{Extended_Pictographic}')
_REGIONAL = regex.compile(r'\p{Regional_Indicator}')
_JOINER = '\u200d'


class WordBoundaries:
    """
    ## Word boundaries of a vocabulary

    * `texts` are the texts of the tokens, or their bytes where those need not be whole characters; with a space in
      front where the token includes it
    * `special_tokens` are the ids of tokens that are not text
    """

    def __init__(self, texts: Sequence[str | bytes], *, special_tokens: Sequence[int]):
        texts = [text.decode('utf-8', 'surrogateescape') if isinstance(text, bytes) else text for text in texts]
        # `[n_tokens]`: what may continue after the token, and what it may continue
        self.opens = np.array([_opens(text) for text in texts], np.uint8)
        self.continues = np.array([_continues(text) for text in texts], np.uint8)
        self.opens[list(special_tokens)], self.continues[list(special_tokens)] = _ANY, 0
        self._has_flags = bool((self.opens & self.continues & _FLAG).any())
        # By device
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def starts(self, x: Tensor) -> Tensor:
        """
        * `x` is a batch of token ids, `[seq_len, batch_size]` (or `[seq_len]`)

        Returns whether each begins a word, of the same shape; the first of a sequence always does. Ids beyond the
        vocabulary are not text.
        """
        if x.device not in self._tables:
            self._tables[x.device] = tuple(torch.from_numpy(np.append(table, np.uint8(beyond))).to(x.device)
                                           for table, beyond in ((self.opens, _ANY), (self.continues, 0)))
        opens, continues = self._tables[x.device]
        x = x.clamp(max=len(opens) - 1)
        agreed = opens[x[:-1]] & continues[x[1:]]
        if self._has_flags:
            agreed = _pair_flags(agreed)
        starts = x.new_ones(x.shape, dtype=bool)
        starts[1:] = agreed == 0
        return starts


def _pair_flags(agreed: Tensor) -> Tensor:
    """`agreed` without every other join of a run of regional indicators: two of them are a flag."""
    is_flag = agreed == _FLAG
    index = torch.arange(len(agreed), device=agreed.device).view(-1, *[1] * (agreed.ndim - 1)).expand_as(agreed)
    # The last place before the run
    before = index.masked_fill(is_flag, -1).cummax(dim=0).values
    return agreed.masked_fill(is_flag & ((index - before) % 2 == 0), 0)


def _opens(text: str) -> int:
    if not text:
        return _ANY
    if _is_byte(text[-1]):
        # All that is known of a truncated character is that it continues
        return _ANY | _WORD
    is_joined = text[-1] == _JOINER
    base = next((c for c in reversed(text) if not _is_extending(c)), None)
    # Marks alone continue something, most likely a word
    is_open = base is None or _is_byte(base) or _is_of_word(base)
    return _ANY | _WORD * is_open | _EMOJI * is_joined | _FLAG * _is_odd_flag(text)


def _continues(text: str) -> int:
    if not text:
        return _ANY
    if _is_byte(text[0]):
        return _of_bytes(text)
    if _is_extending(text[0]):
        return _ANY
    return _WORD * _is_of_word(text[0]) | _EMOJI * bool(_PICTOGRAPHIC.match(text[0])) | _FLAG * _is_odd_flag(text)


def _of_bytes(text: str) -> int:
    """What a token may continue that begins with bytes of a character."""
    first = ord(text[0]) - 0xdc00
    if first < 0xc0:
        # Inside a character
        return _ANY
    size = 2 if first < 0xe0 else 3 if first < 0xf0 else 4
    known = bytes(ord(c) - 0xdc00 for c in text[:size] if _is_byte(c))
    if len(known) == 1:
        # Of two bytes: letters
        return _WORD * (first <= 0xe0)
    # The characters that begin so; most of them decide
    beginning = [(known + bytes([byte]) + b'\x80\x80')[:size].decode('utf-8', 'ignore') for byte in range(0x80, 0xc0)]
    letters = [c[0] for c in beginning if c and c[0].isalnum()]
    return _WORD * (2 * sum(map(_is_of_word, letters)) > len(letters))


def _is_odd_flag(text: str) -> bool:
    """Is it a single regional indicator, half a flag?"""
    return len(text) == 1 and bool(_REGIONAL.match(text))


def _is_byte(c: str) -> bool:
    """Does it stand for a byte that is not a character?"""
    return '\udc80' <= c <= '\udcff'


def _is_extending(c: str) -> bool:
    return bool(_EXTEND.match(c))


def _is_of_word(c: str) -> bool:
    return (c.isalnum() or c == '_') and not any(first <= ord(c) <= last for first, last in _ALONE)
