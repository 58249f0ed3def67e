"""Tables for people, and numbers in them."""
from collections.abc import Container, Sequence


def print_table(rows: Sequence[Sequence[str]], *, numbers: Container[int]):
    """Prints a table. Columns of `numbers` are aligned to the right, texts to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) if i in numbers else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        print('  '.join(cells).rstrip())


def size_text(n_bytes: int) -> str:
    """A number of bytes in words: 3.2 MB."""
    if n_bytes < 1000:
        return f'{n_bytes} bytes'
    size, units = n_bytes / 1000, ['kB', 'MB', 'GB', 'TB']
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f'{size:.1f} {units[0]}'
