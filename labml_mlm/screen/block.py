"""Names and values in aligned lines, in the width of a terminal."""
import textwrap
from collections.abc import Sequence

# Columns between a name and its value
_GAP = 2
# The narrowest column of values
_MIN_WIDTH = 10


def aligned(rows: Sequence[tuple[str, str]], *, width: int | None) -> list[tuple[str, str]]:
    """
    The lines of a block: the beginning of each, which is a name or empty, and the rest.

    * `width` is that of the longest line; values are wrapped by words. Without it each value is one line
    """
    indent = max(len(name) for name, _ in rows) + _GAP
    lines = []
    for name, value in rows:
        parts = [value] if width is None else textwrap.wrap(value, max(_MIN_WIDTH, width - indent),
                                                            break_on_hyphens=False)
        for i, part in enumerate(parts):
            lines.append(((name if i == 0 else '').ljust(indent), part))
    return lines
