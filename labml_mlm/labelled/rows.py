"""
# Texts and their labels, as a file has them

`labml_mlm.reading.rows` reads JSON lines and tables. Labels stay as they are: in a table all of them are text, and only
`labels` says what they mean.
"""
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.reading.files import text_suffix
from labml_mlm.reading.lines import at_line, check_suffix, check_text, no_field
from labml_mlm.reading.rows import JSON_SUFFIXES, TABLES, read_objects, read_table

ROW_SUFFIXES = JSON_SUFFIXES + TABLES


class Row(NamedTuple):
    """A text and its label."""
    text: str
    # As found: in JSON of any type, in a table text; `None` if there are no labels
    label: Any
    # The second text of a pair
    pair: str | None = None
    # Its first line in the file, from 1
    line: int = 0

    @property
    def is_blank(self) -> bool:
        """Is its text, or either one of a pair, empty or white space alone?"""
        return not self.text.strip() or (self.pair is not None and not self.pair.strip())


class Rows(NamedTuple):
    """The rows of a file that have a text."""
    rows: list[Row]
    # Rows without text, which are left out
    n_empty: int
    # For messages
    path: Path


def read_rows(path: Path, *, text_field: str = 'text', label_field: str | None = 'label', pair_field: str = '',
              allow_empty_label: bool = False) -> Rows:
    """
    The rows of a file: JSON lines (`.jsonl`, `.json`), or a table with a header (`.csv`, `.tsv`), which may be
    compressed (`.gz`, `.zst`).

    * `text_field`, `label_field` and `pair_field` are the names of its fields. `label_field` is `None` if no labels are
      needed, and `pair_field` is empty if texts are no pairs
    * `allow_empty_label`: may a label be an empty text, as where a row of a table has none of several labels?

    Rows whose text, or either text of a pair, is empty or blank are left out and counted. Raises `UserError`, which
    names the line, for fields that there are not, for rows with more or fewer columns than the header, for what is not
    a text, for labels that are missing, and if no row is left.
    """
    rows, n_empty = [], 0
    for row in stream_rows(path, text_field=text_field, label_field=label_field, pair_field=pair_field,
                           allow_empty_label=allow_empty_label):
        if row.is_blank:
            n_empty += 1
        else:
            rows.append(row)
    if not rows:
        raise UserError(f'{path} has no rows with text: ' + (f'in all {n_empty:,} of them, it is empty' if n_empty else
                                                             'there is nothing after the header'))
    return Rows(rows, n_empty, Path(path))


def stream_rows(path: Path, *, text_field: str = 'text', label_field: str | None = 'label', pair_field: str = '',
                allow_empty_label: bool = False) -> Iterator[Row]:
    """The same rows one by one, as they are read, with those that are blank, whose labels are `None`."""
    path = Path(path)
    check_suffix(path, ROW_SUFFIXES)
    fields = {'text_field': text_field} | ({'label_field': label_field} if label_field is not None else {}) \
        | ({'pair_field': pair_field} if pair_field else {})
    for line, record in read_objects(path) if text_suffix(path) in JSON_SUFFIXES else read_table(path, fields):
        for role, name in fields.items():
            if name not in record:
                raise at_line(path, line, no_field(name, role, record))
        text = check_text(record[text_field], path=path, line=line, role='text_field')
        pair = check_text(record[pair_field], path=path, line=line, role='pair_field') if pair_field else None
        row = Row(text, None, pair, line)
        if label_field is not None and not row.is_blank:
            label = record[label_field]
            if what := _missing(label, allow_empty_label=allow_empty_label):
                raise at_line(path, line, f'has no label: its field `{label_field}` (label_field) is {what}')
            row = row._replace(label=label)
        yield row


def _missing(label: Any, *, allow_empty_label: bool) -> str:
    """What stands in place of a label; empty if there is one."""
    if label is None:
        return 'null'
    if isinstance(label, float) and math.isnan(label):
        return 'NaN'
    return 'empty' if isinstance(label, str) and not label.strip() and not allow_empty_label else ''
