r"""
# Bits per character

A loss in nats per token cannot be compared between tokenizers: the longer the tokens, the higher it is. What a
character costs can be:

$$\frac{1}{\ln 2} \cdot \frac{\text{nats of the masked tokens}}{\text{characters of the masked tokens}}$$

It is no compression rate: a model that predicts tokens from both sides at once cannot be used to write a text down.
Nor does it compare masking rates. And the characters are those of the tokens: what a tokenizer drops, as WordPiece
drops runs of spaces and line ends, costs nothing.
"""
import math
from typing import Any

import numpy as np


def bits_per_character(nats: float, n_characters: float) -> float | None:
    """The bits that a character costs; `None` without characters."""
    return nats / math.log(2) / n_characters if n_characters else None


def characters(tokenizer: Any, *, n_tokens: int) -> np.ndarray:
    """
    Characters of each token, with the space before it if the token includes it, `[n_tokens]`; 0 for special tokens and
    for ids that the tokenizer does not have.

    A character that is cut into several tokens counts where its first byte is.
    """
    found = np.zeros(n_tokens, np.int64)
    texts = getattr(tokenizer, 'texts', tokenizer.tokens)[:n_tokens]
    found[:len(texts)] = [len(text) if isinstance(text, str) else sum(byte & 0xc0 != 0x80 for byte in text)
                          for text in texts]
    found[[token for token in tokenizer.special.all if token < n_tokens]] = 0
    return found
