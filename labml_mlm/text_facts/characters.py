"""
# Characters by script

Which letters a text has, by [UAX #24](https://www.unicode.org/reports/tr24/). What all scripts share is told apart by
what it is: white space, digits, punctuation and signs, and what cannot be seen.
"""
import unicodedata

import numpy as np
from fontTools import unicodedata as scripts

from labml_mlm.data.corpus import code_points

_N_CODE_POINTS = 0x110000
# Characters that are counted at once
_BUFFER = 1 << 20
_SHARED = {'Zyyy', 'Zinh'}
_KINDS = {'Z': 'white space', 'N': 'digits', 'M': 'combining marks', 'P': 'punctuation', 'S': 'signs', 'L': 'letters'}


class Characters:
    """
    ## Counts the characters of a text that comes in pieces
    """

    def __init__(self):
        self._counts = np.zeros(_N_CODE_POINTS, np.int64)
        self._waiting: list[str] = []
        self._n_waiting = 0

    def add(self, piece: str):
        """Adds a piece of the text."""
        self._waiting.append(piece)
        self._n_waiting += len(piece)
        if self._n_waiting >= _BUFFER:
            self._count()

    def _count(self):
        if self._n_waiting:
            self._counts += np.bincount(code_points(''.join(self._waiting)), minlength=_N_CODE_POINTS)
        self._waiting, self._n_waiting = [], 0

    @property
    def counts(self) -> dict[str, int]:
        """How often each character occurs, by code point."""
        self._count()
        return {chr(c): int(self._counts[c]) for c in np.flatnonzero(self._counts).tolist()}


def by_script(counts: dict[str, int]) -> dict[str, int]:
    """Counts of characters by their script, or by what they are where scripts share them; the most frequent first."""
    found: dict[str, int] = {}
    for c, n in counts.items():
        name = _name(c)
        found[name] = found.get(name, 0) + n
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _name(c: str) -> str:
    if c == '\N{REPLACEMENT CHARACTER}':
        return 'replacement characters (U+FFFD)'
    script, category = scripts.script(c), unicodedata.category(c)
    if script in _SHARED:
        # Line ends and tabs are control characters
        return 'white space' if c.isspace() else _KINDS.get(category[0], 'invisible characters')
    return 'unassigned or private' if script == 'Zzzz' else scripts.script_name(script)
