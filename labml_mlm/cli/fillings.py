"""How texts that were filled in are shown: as wide as the terminal, with spaces that can be seen."""
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labml_mlm.inference.candidates import Ranked
    from labml_mlm.inference.fill_mask import Filled
    from labml_mlm.inference.joint import TogetherFilled

# What stands for a space: the first that is nowhere in the text
_SPACES = '␣⍽⎵▁'


def print_predictions(filled: 'Filled'):
    """A row of predictions for each mask, numbered if there are several."""
    show = _shower(filled.text, (token for mask in filled.masks for token, _ in mask))
    heads = [f'{i:>{len(str(len(filled.masks)))}}' for i in range(1, len(filled.masks) + 1)] \
        if len(filled.masks) > 1 else ['']
    print(filled.filled)
    _print_rows(heads, [[(show(token), f'{probability:.3f}') for token, probability in mask] for mask in filled.masks])


def print_together(filled: 'TogetherFilled'):
    """A row for each filling: its probability and its tokens."""
    show = _shower(filled.text, (token for filling in filled.fillings for token in filling.tokens))
    heads = [_number(filling.probability) for filling in filled.fillings]
    width = max(map(len, heads))
    print(filled.filled)
    _print_rows([head.rjust(width) for head in heads],
                [[(show(token), '') for token in filling.tokens] for filling in filled.fillings])


def print_candidates(ranked: 'Ranked'):
    """A row for each candidate."""
    show = _shower(ranked.text, (text for found in ranked.candidates for text in (found.candidate, *found.tokens)))
    rows = [('candidate', 'per token', 'log p', 'tokens')]
    rows += [(show(found.candidate), _number(found.per_token), f'{found.log_probability:.2f}',
              ' '.join(map(show, found.tokens))) for found in ranked.candidates]
    names, means, sums = (max(map(_width, column)) for column in list(zip(*rows, strict=True))[:3])
    print(ranked.filled)
    for name, mean, log_p, tokens in rows:
        print(_cut(f'  {_padded(name, names)}  {mean:>{means}}  {log_p:>{sums}}  {tokens}'))


def _print_rows(heads: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]):
    """Rows of texts with numbers, in columns; those that are too long for the terminal go on below."""
    indent = f'  {" " * _width(heads[0])}  '
    widths = [max(_width(text) for text, _ in column) for column in zip(*rows, strict=True)]
    # Numbers of a table are equally long
    number = max((len(number) for row in rows for _, number in row), default=0)
    room, gap = _columns() - len(indent), 2 + bool(number) + number
    n = len(widths)
    if sum(widths) + gap * len(widths) - 2 > room:
        # All are as wide as the widest
        widths = [max(widths)] * len(widths)
        n = max(1, (room + 2) // (widths[0] + gap))
    for head, row in zip(heads, rows, strict=True):
        cells = [_padded(text, width) + f' {number}' * bool(number) for (text, number), width
                 in zip(row, widths, strict=True)]
        for i in range(0, len(cells), n):
            print(((indent if i else f'  {head}  ') + '  '.join(cells[i:i + n])).rstrip(' '))


def _shower(text: str, others: Iterable[str]) -> Callable[[str], str]:
    """Shows a token on one line, where its spaces can be told from what is in the text and in other tokens."""
    used = set(text).union(*others)
    space = next((mark for mark in _SPACES if mark not in used), _SPACES[0])

    def show(token: str) -> str:
        shown = ''.join(space if c == ' ' else repr(c)[1:-1] for c in token)
        # A mark needs a letter to stand on
        return f'\N{DOTTED CIRCLE}{shown}' if unicodedata.category(shown[:1] or ' ').startswith('M') else shown
    return show


def _number(probability: float) -> str:
    return f'{probability:.3f}' if probability >= 0.0005 else f'{probability:.1e}'


def _columns() -> float:
    """Of the terminal; what is read by a program is not cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else float('inf')


def _cut(line: str) -> str:
    """A line, as far as the terminal shows it."""
    columns = _columns()
    if _width(line) <= columns:
        return line
    while _width(line) >= columns:
        line = line[:-1]
    return f'{line}…'


def _padded(text: str, width: int) -> str:
    return text + ' ' * (width - _width(text))


def _width(text: str) -> int:
    """Columns of a terminal: Chinese characters take two, and marks none."""
    return sum(0 if unicodedata.category(c) in ('Mn', 'Me', 'Cf') else
               2 if unicodedata.east_asian_width(c) in 'WF' else 1 for c in text)
