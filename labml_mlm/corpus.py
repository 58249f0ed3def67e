"""
# A text that was read once

Before a text becomes tokens it is read for what has to be known of it first: which characters it has, its SHA-256, and
which of its documents are for validation.

A document is for validation by its own content and nothing else: by a hash of it, so that it stays on its side whatever
other documents come or go, and a copy of it is never on the other one. A text of one document is cut instead.
"""
import array
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from labml_mlm.documents import Piece

_N_CODE_POINTS = 0x110000


class Corpus(NamedTuple):
    """What is known of a text."""
    n_documents: int
    n_characters: int
    # That of the UTF-8 of all documents, with a NUL between two
    sha256: str
    # All that are in it, sorted
    characters: str


def read(documents: Iterable[Piece], *, valid_share: float) -> tuple[Corpus, np.ndarray]:
    """
    Reads a text. Returns what is known of it, and of each document whether it is for validation, `[n_documents]`.

    * `documents` are pieces, each with whether it ends its document
    * `valid_share` is the share of documents that are for validation: one of them at least, and not all of them, if
      there are two that differ
    """
    n_characters, hashes = 0, array.array('Q')
    seen, ascii_seen, whole, one = np.zeros(_N_CODE_POINTS, bool), b'', hashlib.sha256(), _hash()
    is_begin = False
    for piece, is_last in documents:
        data = piece.encode('utf-8', 'surrogatepass')
        if is_begin:
            whole.update(b'\0')
        whole.update(data)
        one.update(data)
        n_characters += len(piece)
        if not piece.isascii():
            seen[code_points(piece)] = True
        elif new := data.translate(None, ascii_seen):
            ascii_seen += bytes(set(new))
        if is_last:
            hashes.append(int.from_bytes(one.digest(), 'little'))
            one = _hash()
        is_begin = is_last
    seen[list(ascii_seen)] = True
    characters = ''.join(map(chr, np.flatnonzero(seen).tolist()))
    return Corpus(len(hashes), n_characters, whole.hexdigest(), characters), _for_validation(hashes, valid_share)


def _for_validation(hashes: array.array, share: float) -> np.ndarray:
    numbers = np.array(hashes, np.uint64)
    is_valid = numbers < np.float64(share) * 2. ** 64
    if len(numbers) > 1:
        is_valid |= numbers == numbers.min()
        # If all were the same, none is left to train on
        is_valid &= numbers != numbers.max()
    else:
        is_valid[:] = False
    return is_valid


def code_points(text: str) -> np.ndarray:
    """`uint32` of shape `[len(text)]`."""
    return np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), dtype='<u4')


def _hash() -> Any:
    return hashlib.blake2b(digest_size=8)
