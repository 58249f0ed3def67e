"""
# A sample in lines

A text with blanks, what a model has put into them, and what was there, one under the other:

    masked  First Citizen:↵Before we ░░░░░░░ any further, hear me ░░░░░.
    filled  First Citizen:↵Before we have    any further, hear me speak.
    true    First Citizen:↵Before we proceed any further, hear me speak.

A blank is as wide as the widest of what may stand there, and of a mark that is nowhere in the text. Where the lines are
longer than the screen is wide, the part with the most blanks is shown.

**Width** is that of a terminal: two columns for a CJK character or an emoji, none for a combining mark. A mark that
stands alone in a blank, or after one, is shown on a dotted circle, as in Unicode's charts.

**Direction.** A terminal, or what its output is pasted into, may show Arabic and Hebrew from right to left, and what is
beside them goes along: so each line with such a text is an isolate
([UAX #9](https://www.unicode.org/reports/tr9/#Explicit_Directional_Isolates)), in the direction of its first letter.
"""
import bisect
import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from labml_mlm.runs.samples_log import MASK_TEXT, printable
from labml_mlm.screen.console import is_unicode

# Marks for blanks, the first that is not in a text
_BLANKS, _ASCII_BLANKS = '░▒▓▢◦▱◻', '_~^#*=%@+|&$!?'
_DOTTED_CIRCLE = '◌'
_LEFT_TO_RIGHT, _RIGHT_TO_LEFT, _END = '\u2066', '\u2067', '\u2069'
# The widest that a blank can be, in columns
_WIDEST = 40


class Part(NamedTuple):
    """A part of a line."""
    text: str
    # The number of the blank that it stands for
    blank: int | None = None


class _Column(NamedTuple):
    """What stands one under the other: something else in each line, or one text in all of them."""
    texts: Sequence[str]
    width: int
    blank: int | None = None


def sample_lines(tokens: Sequence[str], positions: Sequence[int], fillings: Sequence[Sequence[str]], *,
                 width: int) -> list[list[Part]]:
    """
    The masked text, the text with each of some fillings, and the text itself, each as the parts of a line.

    * `tokens` are those of the text, `[seq_len]`; `[MASK]` where the truth is not known
    * `positions` are the masked ones, `[n_masked]`
    * `fillings` are what was predicted there, `[n_masked]` each
    * `width` is the number of columns that a line may have
    """
    truths = [token if token != MASK_TEXT else '' for token in tokens]
    shown = {position: [*(printable(filling[i]) for filling in fillings), printable(truths[position])]
             for i, position in enumerate(positions)}
    context = [printable(token) for token in tokens]
    mark = _blank_mark(itertools.chain(context, *shown.values()))
    numbers = {position: i for i, position in enumerate(positions)}
    columns: list[_Column] = []
    for position, token in enumerate(context):
        if position in shown:
            columns.append(_blank(shown[position], mark, number=numbers[position]))
        else:
            _add_context(columns, token)
    ellipsis = '…' if is_unicode() else '...'
    begin, end = _window(columns, width, ellipsis=len(ellipsis))
    lines = [[Part(ellipsis)] * (begin > 0) for _ in range(len(fillings) + 2)]
    for column in columns[begin:end]:
        for i, line in enumerate(lines):
            line.append(Part(column.texts[i if column.blank is not None else 0], column.blank))
    for line in lines:
        line.extend([Part(ellipsis)] * (end < len(columns)))
    return _isolated([_joined(line) for line in lines], ''.join(tokens))


def _blank_mark(texts: Iterable[str]) -> str:
    """A character that is in none of the texts."""
    used = set().union(*texts)
    marks = _BLANKS + ''.join(map(chr, range(0x2500, 0x2580))) if is_unicode() else _ASCII_BLANKS
    return next((mark for mark in marks if mark not in used), marks[0])


def _blank(texts: Sequence[str], mark: str, *, number: int) -> _Column:
    """What stands at a blank: the mark, and the texts, filled up to the same width."""
    # A space in front is not a part of the word
    indent = ' ' * all(text[:1] == ' ' and len(text) > 1 for text in texts if text)
    texts = [_alone(text) if cell_len(text) <= _WIDEST else set_cell_size(text, _WIDEST) for text in texts]
    width = max(1, *map(cell_len, texts))
    return _Column([indent + mark * (width - len(indent)), *(text + ' ' * (width - cell_len(text)) for text in texts)],
                   width, number)


def _add_context(columns: list[_Column], token: str):
    """Adds a token that is not masked, by characters, each with its combining marks."""
    for c in token:
        if not _is_combining(c):
            columns.append(_Column([c], cell_len(c)))
        elif columns and columns[-1].blank is None:
            text = columns.pop().texts[0] + c
            columns.append(_Column([text], cell_len(text)))
        else:
            columns.append(_Column([_alone(c)], cell_len(_alone(c))))


def _alone(text: str) -> str:
    """A text as it can be shown after another one, without joining it."""
    return (_DOTTED_CIRCLE if is_unicode() else ' ') + text if text and _is_combining(text[0]) else text


def _is_combining(c: str) -> bool:
    return unicodedata.category(c).startswith('M') or cell_len(c) == 0


def _window(columns: Sequence[_Column], width: int, *, ellipsis: int) -> tuple[int, int]:
    """Which of the columns are shown: all if they fit, or else those around as many blanks as possible."""
    ends = [0, *itertools.accumulate(column.width for column in columns)]
    if ends[-1] <= width:
        return 0, len(columns)
    n_blanks = [0, *itertools.accumulate(column.blank is not None for column in columns)]
    width = max(1, width - 2 * ellipsis)
    # As long as possible, and at least one column
    windows = [(begin, max(begin + 1, bisect.bisect_right(ends, ends[begin] + width) - 1))
               for begin in range(bisect.bisect_left(ends, ends[-1] - width) + 1)]
    most = max(n_blanks[end] - n_blanks[begin] for begin, end in windows)
    best = [window for window in windows if n_blanks[window[1]] - n_blanks[window[0]] == most]
    # The first ones in a row, of which the one in the middle has text on both sides
    n_first = next((i for i, (begin, _) in enumerate(best) if begin != best[0][0] + i), len(best))
    return best[n_first // 2]


def _joined(line: Sequence[Part]) -> list[Part]:
    """The same line, with as few parts as possible."""
    return [Part(''.join(part.text for part in parts), blank)
            for blank, parts in itertools.groupby(line, key=lambda part: part.blank)]


def _isolated(lines: list[list[Part]], text: str) -> list[list[Part]]:
    """The same lines, isolated if any of them has letters that are written from right to left."""
    if not is_unicode() or not any(_is_right_to_left(c) for line in lines for part in line for c in part.text):
        return lines
    strong = next((c for c in text if unicodedata.bidirectional(c) in ('L', 'R', 'AL')), '')
    begin = _RIGHT_TO_LEFT if strong and _is_right_to_left(strong) else _LEFT_TO_RIGHT
    return [[Part(begin), *line, Part(_END)] for line in lines]


def _is_right_to_left(c: str) -> bool:
    return unicodedata.bidirectional(c) in ('R', 'AL')
