"""
# A first pass over a text

Before a text is tokenized, one pass finds its characters, its SHA-256, and which of its documents are for validation.

A document is for validation by a hash of its content alone, so it stays on its side whatever other documents come or
go, and a copy of it is never on the other side. A text of a single document is cut instead.
"""
import array
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from labml_mlm.common.untrusted import is_integer
from labml_mlm.data.documents import Piece

_N_CODE_POINTS = 0x110000


class Corpus(NamedTuple):
    """The result of one pass over a text."""
    n_documents: int
    n_characters: int
    # Of the UTF-8 of a single document, or of the hashes of all documents
    sha256: str
    # All distinct ones, sorted
    characters: str


def from_json(found: Any) -> Corpus | None:
    """From the fields of one, by name; `None` for anything else."""
    is_one = isinstance(found, dict) and found.keys() == set(Corpus._fields) and all(
        is_integer(found[name]) and found[name] >= 0 for name in ('n_documents', 'n_characters')) and all(
        isinstance(found[name], str) for name in ('sha256', 'characters'))
    return Corpus(**found) if is_one else None


def scan(documents: Iterable[Piece], *, valid_fraction: float | None) -> tuple[Corpus, np.ndarray]:
    """
    Reads a text. Returns a summary, and for each document whether it is for validation, `[n_documents]`.

    * `documents` are pieces, each with whether it ends its document
    * `valid_fraction` is the fraction of documents for validation: at least one and not all, if two differ; `None` for
      no validation set
    """
    n_characters, n_documents, hashes = 0, 0, array.array('Q')
    seen, ascii_seen, whole, one = np.zeros(_N_CODE_POINTS, bool), b'', hashlib.sha256(), hashlib.sha256()
    for piece, is_last in documents:
        data = piece.encode('utf-8', 'surrogatepass')
        one.update(data)
        n_characters += len(piece)
        # Characters that are new, and those beyond ASCII: all bytes of a character or none
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
    return Corpus(n_documents, n_characters, sha256, characters), _select_validation(hashes, valid_fraction)


def _select_validation(hashes: array.array, fraction: float | None) -> np.ndarray:
    numbers = np.array(hashes, np.uint64)
    if fraction is None or len(numbers) < 2:
        return np.zeros(len(numbers), bool)
    # If all documents are equal, none is for validation; otherwise some are left to train on
    return ((numbers < np.float64(fraction) * 2. ** 64) | (numbers == numbers.min())) & (numbers != numbers.max())


def code_points(text: str) -> np.ndarray:
    """`uint32` of shape `[len(text)]`."""
    return np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), dtype='<u4')
