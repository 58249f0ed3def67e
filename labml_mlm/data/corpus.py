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
from typing import NamedTuple

import numpy as np

from labml_mlm.data.documents import Piece

_N_CODE_POINTS = 0x110000


class Corpus(NamedTuple):
    """What is known of a text."""
    n_documents: int
    n_characters: int
    # That of the UTF-8 of the one document, or that of those of all documents
    sha256: str
    # All that are in it, sorted
    characters: str


def read(documents: Iterable[Piece], *, valid_share: float | None) -> tuple[Corpus, np.ndarray]:
    """
    Reads a text. Returns what is known of it, and of each document whether it is for validation, `[n_documents]`.

    * `documents` are pieces, each with whether it ends its document
    * `valid_share` is the share of documents that are for validation: one of them at least, and not all of them, if
      there are two that differ; or `None` for none
    """
    n_characters, n_documents, hashes = 0, 0, array.array('Q')
    seen, ascii_seen, whole, one = np.zeros(_N_CODE_POINTS, bool), b'', hashlib.sha256(), hashlib.sha256()
    for piece, is_last in documents:
        data = piece.encode('utf-8', 'surrogatepass')
        one.update(data)
        n_characters += len(piece)
        # What is new, and what is not ASCII: all bytes of a character or none
        if rest := data.translate(None, ascii_seen):
            seen[code_points(rest.decode('utf-8', 'surrogatepass'))] = True
            ascii_seen = bytes(np.flatnonzero(seen[:128]).tolist())
        if is_last:
            n_documents += 1
            whole.update(one.digest())
            hashes.append(int.from_bytes(one.digest()[:8], 'little'))
            last, one = one, hashlib.sha256()
    sha256 = last.hexdigest() if n_documents == 1 else whole.hexdigest()
    characters = ''.join(map(chr, np.flatnonzero(seen).tolist()))
    return Corpus(n_documents, n_characters, sha256, characters), _for_validation(hashes, valid_share)


def _for_validation(hashes: array.array, share: float | None) -> np.ndarray:
    numbers = np.array(hashes, np.uint64)
    if share is None or len(numbers) < 2:
        return np.zeros(len(numbers), bool)
    # If all are the same, none is for validation; otherwise some are left to train on
    return ((numbers < np.float64(share) * 2. ** 64) | (numbers == numbers.min())) & (numbers != numbers.max())


def code_points(text: str) -> np.ndarray:
    """`uint32` of shape `[len(text)]`."""
    return np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), dtype='<u4')

