"""
# Documents in chunks

A long document is encoded in chunks, in parallel on all cores. Their tokens must be those of the whole. So a chunk ends
at the end of a line, before the line end and all white space around it: a tokenizer that splits a text at white space,
before or after it, begins a new token there in any case.
"""
import re
from collections.abc import Iterable, Iterator

import regex

from labml_mlm.data.blocks import Block, Piece, pieces_of

# Characters
CHUNK = 1 << 14
# A multiple of most numbers to 16: a line of tokens of one length goes on after a cut
LONGEST_LINE = 65_520
_NO_SPACE = re.compile(r'\S')


def split_chunks(pieces: Iterable[Piece], size: int = CHUNK) -> Iterator[Piece]:
    """
    Documents that come in pieces, in chunks of up to `size` characters or one line. A line that is longer, and has more
    than 65,520 characters, is cut at a space or, if it has none, between two graphemes.
    """
    longest = max(LONGEST_LINE, size)
    rest = ''
    for piece, is_last in pieces:
        text, begin = rest + piece, 0
        while len(text) - begin > min(size, LONGEST_LINE):
            cut = _before_line_end(text, begin, begin + size)
            if cut is None or cut - begin > longest:
                if len(text) - begin <= LONGEST_LINE:
                    break
                cut = _in_line(text, begin)
            elif len(text) - begin <= size:
                break
            yield text[begin:cut], False
            begin = cut
        rest = text[begin:]
        if is_last:
            yield rest, True
            rest = ''


def split_blocks(blocks: Iterable[Block], size: int = CHUNK) -> Iterator[Block]:
    """The same of documents in blocks; what need not be cut stays as it is."""
    blocks = iter(blocks)
    for block in blocks:
        if block.is_last and max(map(len, block.texts)) <= min(size, LONGEST_LINE):
            yield block
        else:
            for chunk, is_last in split_chunks(_to_document_end(block, blocks), size):
                yield Block([chunk], is_last)


def _to_document_end(block: Block, blocks: Iterator[Block]) -> Iterator[Piece]:
    """The pieces of a block and of those after it, up to one in which the document ends."""
    yield from pieces_of([block])
    while not block.is_last:
        block = next(blocks)
        yield from pieces_of([block])


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


def _in_line(text: str, begin: int) -> int:
    """A place in the line from `begin` with white space after it or, if it has none, between two graphemes."""
    first = _NO_SPACE.search(text, begin)
    end = (first.start() if first else begin) + LONGEST_LINE
    at = text.rfind(' ', first.end() if first else begin, end)
    while at > begin and text[at - 1].isspace():
        at -= 1
    if at > begin:
        return at
    *_, last = regex.finditer(r'\X', text, pos=max(begin, end - 100), endpos=end + 1)
    return last.start() if last.start() > begin else end
