"""Documents cut into segments whose tokens are those of the whole, so that they can be encoded side by side."""
from collections.abc import Iterable, Iterator

from labml_mlm.documents import Piece

# Characters
SEGMENT = 1 << 14


def segments(pieces: Iterable[Piece], size: int = SEGMENT) -> Iterator[Piece]:
    """
    Documents that come in pieces, in segments of some `size` characters each, cut where no token goes across: before
    the white space at the end of a line or, where there is none, of a word.
    """
    rest = ''
    for piece, is_last in pieces:
        text, begin = rest + piece, 0
        while len(text) - begin > size:
            cut = _cut(text, begin, begin + size)
            yield text[begin:cut], False
            begin = cut
        rest = text[begin:]
        if is_last:
            yield rest, True
            rest = ''


def _cut(text: str, begin: int, end: int) -> int:
    """The last place before `end` to cut at; `end` if there is none after `begin`."""
    for space in '\n', ' ':
        cut = text.rfind(space, begin + 1, end)
        while cut > begin and text[cut - 1].isspace():
            cut -= 1
        if cut > begin:
            return cut
    return end
