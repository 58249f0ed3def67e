"""
# The texts of JSON lines, many at once

A block of lines is parsed by orjson. Whatever that refuses, and whatever has anything wrong or unusual in it, is read
line by line as `rows` does, which knows what to say of it.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from labml_mlm.reading.files import open_text
from labml_mlm.reading.lines import Wrong, decode_lines
from labml_mlm.reading.rows import EMPTY, objects_of

# Bytes of lines that are parsed at once
_BLOCK = 1 << 18


def stream_blocks(path: Path, field: str, *, decoding: str = 'strict') \
        -> Iterator[tuple[int, list[str] | str | None | dict[str, Any] | Wrong]]:
    """
    What `stream_objects` gives, with the texts in `field` in place of objects, many on lines that follow each other in
    a list, with the number of the first line. Blank texts, and null, stand alone. Line ends in texts are `\\n`.
    `decoding` is that of `decoded_lines`.
    """
    is_empty, number = True, 1
    with open_text(path) as f:
        while lines := f.readlines(_BLOCK):
            if (texts := _texts(lines, field)) is not None:
                is_empty = False
                yield from _without_blank(number, texts)
            else:
                for row in objects_of(decode_lines(lines, first=number, decoding=decoding)):
                    is_empty = False
                    yield row
                    if isinstance(row[1], Wrong) and row[1].is_whole:
                        return
            number += len(lines)
    if is_empty:
        yield EMPTY


def _texts(lines: list[bytes], field: str) -> list[str | None] | None:
    """The texts of lines, some of which may be null; `None` if there is anything to look at line by line."""
    if b'\0' in b''.join(lines):
        return None
    try:
        texts = [row[field] for row in map(orjson.loads, lines)]
        text = ''.join(texts if None not in texts else [text for text in texts if text is not None])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return [text and text.replace('\r\n', '\n').replace('\r', '\n') for text in texts] if '\r' in text else texts


def _without_blank(number: int, texts: list[str | None]) -> Iterator[tuple[int, list[str] | str | None]]:
    """The same texts, in lists but for the blank ones; `number` is the line of the first."""
    begin = 0
    for i in () if all(texts) and not any(map(str.isspace, texts)) else range(len(texts)):
        if texts[i] is None or not texts[i] or texts[i].isspace():
            if begin < i:
                yield number + begin, texts[begin:i]
            yield number + i, texts[i]
            begin = i + 1
    if begin < len(texts):
        yield number + begin, texts[begin:]
