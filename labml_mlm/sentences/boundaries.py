"""
# Where sentences end

By the sentence boundaries of Unicode ([UAX #29](https://unicode.org/reports/tr29/#Sentence_Boundaries)), which need no
spaces: a full stop, an ideographic one, a question mark or a line end closes a sentence, and `3.4`, `e.g. this` or a
closing quotation mark after it do not. Where a text has one sentence a line, only lines count.

White space after a sentence goes to the next one, as most tokenizers put the space before a word into its token. What
has no letter and no digit, such as a rule of dashes, belongs to the sentence before it. So the sentences of a document,
one after the other, are the document.
"""
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.data.blocks import Piece

# Characters of a sentence that comes as a whole
_LONGEST = 1 << 20
_PACKAGE = 'unicode-segmentation-rs'


class SentenceRule:
    """
    ## Cuts documents into sentences

    * `name` is `unicode` or `line`

    Raises `UserError` if it is another one.
    """

    def __init__(self, name: str):
        if name not in _RULES:
            raise UserError(f'sentence_rule={name}: it must be {" or ".join(_RULES)}.{did_you_mean(name, _RULES)}')
        self.name = name
        self._sentences = _RULES[name]

    @property
    def identity(self) -> list[str]:
        """What the sentences of a text depend on, for JSON."""
        return [self.name, *[version(_PACKAGE)] * (self.name == 'unicode')]

    def split(self, text: str) -> list[str]:
        """The sentences of a text, one after the other; all of it, if there is no end of one within."""
        begins, end = [0], 0
        for sentence in self._sentences(text):
            start = text.index(sentence, end)
            # What is left out between two of them is the first one's, but for the white space before the second
            if end and (before := text[begins[-1]:start].rstrip()):
                begins.append(begins[-1] + len(before))
            end = start + len(sentence)
        return [text[begin:end] for begin, end in zip(begins, [*begins[1:], len(text)], strict=True)]

    def split_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, bool, bool]]:
        """
        Documents that come in pieces as sentences, which come in pieces, too, each with whether it ends its sentence,
        and whether it ends its document.
        """
        rest = ''
        for piece, is_last in pieces:
            # What follows may change where the last but one ends
            *whole, rest = self.split(rest + piece) if is_last else self._but_two(rest + piece)
            yield from ((sentence, True, False) for sentence in whole)
            if is_last:
                yield rest, True, True
                rest = ''
            elif len(rest) > _LONGEST:
                # No end in sight
                yield rest, False, False
                rest = ''

    def _but_two(self, text: str) -> list[str]:
        """The sentences of a text, the last two as one."""
        sentences = self.split(text)
        return [*sentences[:-2], ''.join(sentences[-2:])]


def _unicode(text: str) -> list[str]:
    """The sentences with a letter or a digit; what is between them is left out."""
    import unicode_segmentation_rs

    return unicode_segmentation_rs.unicode_sentences(text)


def _lines(text: str) -> list[str]:
    """The lines with something in them."""
    return [line for line in text.split('\n') if line.strip()]


_RULES: dict[str, Callable[[str], list[str]]] = {'unicode': _unicode, 'line': _lines}
