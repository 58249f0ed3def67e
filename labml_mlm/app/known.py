"""
# What is known of the store already

Upstream loads a run, its project and its curves several times in a request, and all runs for their list; most of that
time goes into decoding texts that are as they were. `Known` keeps what came of them. It reads the texts each time, and
compares them, so that nothing it gives is ever out of date, whoever has written and whatever was rolled back.
"""
import collections
import hashlib
import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
from labml_db import Key

# Characters of decoded texts that are kept: what is made of them takes some times as many bytes
_MAX_TEXT = 2 ** 23
# What is computed of rows that are kept: the runs of a list
_MAX_RESULTS = 10_000
# Values that nobody changes
_FIXED = str, int, float, bool, type(None), Key


class Known:
    """
    ## Texts of the store, with what came of them

    * `decode` makes a value of a text
    """

    def __init__(self, connection: sqlite3.Connection, decode: Callable[[str], Any]):
        self._execute = connection.execute
        self._decode = decode
        # The text and its value by key, the one that was used last at the end
        self._values: collections.OrderedDict[str, tuple[str, Any]] = collections.OrderedDict()
        self._n_characters = 0
        # What was read, with a hash of its text, and what came of it, by name
        self._results: collections.OrderedDict[str, tuple[list, Any]] = collections.OrderedDict()
        self._reads: list[tuple[tuple[str, ...], bytes | None]] | None = None

    def read(self, *statement: str) -> str | None:
        """The text that an SQL statement finds with its arguments, if there is one."""
        row = self._execute(statement[0], statement[1:]).fetchone()
        text = row and row[0]
        if self._reads is not None:
            self._reads.append((statement, _digest(text)))
        return text

    def decoded(self, key: str, text: str) -> Any:
        """The value of the text under a key, for the caller alone."""
        before, value = self._values.get(key, (None, None))
        if text == before:
            self._values.move_to_end(key)
            return _copy(value)
        value = self._decode(text)
        self._n_characters += len(text) - len(before or '')
        self._values[key] = text, value
        self._values.move_to_end(key)
        while self._n_characters > _MAX_TEXT:
            _, (old, _) = self._values.popitem(last=False)
            self._n_characters -= len(old)
        return _copy(value)

    def result(self, name: str, compute: Callable[[], Any], *, is_kept: Callable[[Any], bool]) -> Any:
        """
        What `compute` returns, or what it has returned before, if all that it read by `read` is the same. Nobody may
        change it.

        * `name` tells it from others
        * `is_kept` says of a value whether it depends on nothing but the store
        """
        reads, value = self._results.get(name, (None, None))
        if reads is not None and all(_digest(self.read(*statement)) == digest for statement, digest in reads):
            self._results.move_to_end(name)
            return value
        self._results.pop(name, None)
        self._reads = []
        try:
            value = compute()
            if is_kept(value):
                self._results[name] = list(dict.fromkeys(self._reads)), value
                if len(self._results) > _MAX_RESULTS:
                    self._results.popitem(last=False)
            return value
        finally:
            self._reads = None


def _digest(text: str | bytes | None) -> bytes | None:
    """Texts of rows are too long to be kept."""
    data = text.encode() if isinstance(text, str) else text
    return data and hashlib.blake2b(data, digest_size=16).digest()


def _copy(value: Any) -> Any:
    """A value that may be changed while the other stays as it is."""
    kind = type(value)
    if kind is dict:
        return {key: inner if type(inner) in _FIXED else _copy(inner) for key, inner in value.items()}
    if kind in (list, tuple):
        return kind([inner if type(inner) in _FIXED else _copy(inner) for inner in value])
    return value.copy() if kind in (set, np.ndarray) else value
