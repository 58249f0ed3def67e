"""
# Lines, and what is repeated

Each line, and each document, has a hash of 64 bits. Those that were seen are kept up to some number; then half of all
possible hashes are left out, which is a sample of the distinct lines, each with how often it occurs (as in
[Gibbons 2001](https://www.vldb.org/conf/2001/P541.pdf)). So the share of repeated lines is exact for a text of up to
some 260,000 distinct ones, and within 0.2% beyond, in the same memory for every text.
"""
import hashlib
from typing import NamedTuple

import numpy as np

# Distinct hashes that are kept
_MOST = 1 << 18
# Line lengths from here on are counted together
_LONGEST = 1 << 16


class Repeats:
    """
    ## The share of what comes again
    """

    def __init__(self, most: int = _MOST):
        self._most = most
        # By hash, of those that are a multiple of this
        self._counts: dict[int, int] = {}
        self._every = 1

    def add(self, digest: bytes):
        """Adds something, by a hash of 8 bytes."""
        key = int.from_bytes(digest, 'little')
        if key % self._every:
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        if len(self._counts) > self._most:
            self._every *= 2
            self._counts = {key: n for key, n in self._counts.items() if key % self._every == 0}

    @property
    def is_exact(self) -> bool:
        """Or is it a sample?"""
        return self._every == 1

    @property
    def share(self) -> float:
        """The fraction that is the same as something before it."""
        n = sum(self._counts.values())
        return 1 - len(self._counts) / n if n else 0.


class LineFacts(NamedTuple):
    """The lines of a text."""
    n: int
    n_blank: int
    # Of those that are not blank
    repeated_share: float
    is_exact: bool
    # Their lengths in characters: of the line in the middle, of one that 95% are not longer than, and of the longest
    median: int
    percentile_95: int
    longest: int


class Lines:
    """
    ## Counts the lines of documents that come in pieces

    A line ends at a line end, or with its document.
    """

    def __init__(self):
        self._n = self._n_blank = self._longest = 0
        self._lengths = np.zeros(_LONGEST + 1, np.int64)
        self._repeats = Repeats()
        # The line that continues: its hash, its length, and has it anything but white space?
        self._hash, self._length, self._is_blank = _new_hash(), 0, True

    def add(self, piece: str, *, is_last: bool):
        """Adds a piece of a document, and whether it is the last one."""
        *whole, rest = piece.split('\n')
        for line in whole:
            self._go_on(line)
            self._end()
        self._go_on(rest)
        # After a line end there is no line
        if is_last and self._length:
            self._end()

    def facts(self) -> LineFacts:
        """What there is."""
        counts = np.cumsum(self._lengths)
        middle, high = (int(np.searchsorted(counts, share * counts[-1])) for share in (0.5, 0.95))
        return LineFacts(self._n, self._n_blank, self._repeats.share, self._repeats.is_exact, middle, high,
                         self._longest)

    def _go_on(self, part: str):
        if part:
            self._hash.update(part.encode('utf-8', 'surrogatepass'))
            self._length += len(part)
            self._is_blank = self._is_blank and part.isspace()

    def _end(self):
        self._n += 1
        if self._is_blank:
            self._n_blank += 1
        else:
            self._repeats.add(self._hash.digest())
            self._lengths[min(self._length, _LONGEST)] += 1
            self._longest = max(self._longest, self._length)
        if self._length:
            self._hash, self._length, self._is_blank = _new_hash(), 0, True


def _new_hash():
    return hashlib.blake2b(digest_size=8)
