"""
# Documents in chunks

A long document is encoded in chunks, in parallel on all cores. Their tokens must be those of the whole. So a chunk ends
at the end of a line, before the line end and all white space around it: a tokenizer that splits a text at white space,
before or after it, begins a new token there in any case.
"""
import re
from collections.abc import Iterable, Iterator

from labml_mlm.data.documents import Piece

# Characters
CHUNK = 1 << 14
_LONGEST = 1 << 23
_NO_SPACE = re.compile(r'\S')


def split_chunks(pieces: Iterable[Piece], size: int = CHUNK) -> Iterator[Piece]:
    """
    Documents that come in pieces, in chunks of up to `size` characters or one line. A line of millions of characters is
    cut at a space or, if it has none, anywhere.
    """
    rest = ''
    for piece, is_last in pieces:
        text, begin = rest + piece, 0
        while len(text) - begin > size:
            cut = _before_line_end(text, begin, begin + size)
            if cut is None:
                break
            yield text[begin:cut], False
            begin = cut
        rest = text[begin:]
        if not is_last and len(rest) > _LONGEST:
            cut = len(rest[:max(rest.rfind(' '), 0)].rstrip()) or len(rest)
            yield rest[:cut], False
            rest = rest[cut:]
        if is_last:
            yield rest, True
            rest = ''


def _before_line_end(text: str, begin: int, end: int) -> int | None:
    """The last place between `begin` and `end` where a line ends, or the first after `end`; `None` if there is none."""
    # White space alone is not a chunk
    first = _NO_SPACE.search(text, begin)
    if first is None:
        return None
    at = text.rfind('\n', first.end(), end)
    if at < 0:
        at = text.find('\n', max(first.end(), end))
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return None if at < 0 else at
