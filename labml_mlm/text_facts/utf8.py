"""Bytes of a file that are no UTF-8: how many places, and where the first is."""
import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from labml_mlm.reading import parquet
from labml_mlm.reading.files import open_text, text_suffix

_CHUNK = 1 << 22
_REPLACEMENT = '\N{REPLACEMENT CHARACTER}'


class Invalid(NamedTuple):
    """Where UTF-8 is invalid."""
    # Places in all files
    n: int
    # The first one: the file, the line from 1, and the byte there
    path: Path | None = None
    line: int = 0
    byte: int = 0


def find_invalid(paths: Sequence[Path]) -> Invalid:
    """
    Invalid UTF-8 in files of text, or of records in text. Parquet is not looked at: it has no other.

    Raises what `open_text` and reading do.
    """
    n, first = 0, None
    for path in paths:
        if text_suffix(path) in parquet.SUFFIXES:
            continue
        of_file = _count(path)
        if of_file and first is None:
            first = path
        n += of_file
    return Invalid(n) if first is None else Invalid(n, first, *_find_first(first))


def _count(path: Path) -> int:
    """Places that are replaced, without U+FFFD that the file has itself."""
    decoder, genuine, n, tail = codecs.getincrementaldecoder('utf-8')('replace'), _REPLACEMENT.encode(), 0, b''
    with open_text(path) as f:
        while chunk := f.read(_CHUNK):
            n += decoder.decode(chunk).count(_REPLACEMENT) - (tail + chunk).count(genuine)
            # One may be in two chunks
            tail = (tail + chunk)[1 - len(genuine):]
    return n + decoder.decode(b'', final=True).count(_REPLACEMENT)


def _find_first(path: Path) -> tuple[int, int]:
    """The line and the byte."""
    decoder, line = codecs.getincrementaldecoder('utf-8')(), 1
    with open_text(path) as f:
        while True:
            chunk = f.read(_CHUNK)
            before = decoder.getstate()[0]
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as e:
                return line + (before + chunk)[:e.start].count(b'\n'), e.object[e.start]
            line += chunk.count(b'\n')
