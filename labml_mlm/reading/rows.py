"""
# The rows of a file

A row is an object on a line of JSON, or a row of a table in CSV or TSV, whose first row names the columns.

In CSV, fields are quoted as spreadsheets and pandas do it. TSV knows no quotes, and most data sets in it have bare ones
in their texts; so only a field that is quoted as a whole, and whose other quotes are doubled, is taken as such.

Each reader comes twice: `stream_objects` and `stream_table` give what is wrong in place of a row, and go on behind it;
`read_objects` and `read_table` raise it.
"""
import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from labml_mlm.reading.files import expand_path, text_suffix
from labml_mlm.reading.lines import Wrong, decoded_lines, no_field, without_wrong

JSON_SUFFIXES = '.json', '.jsonl'
TABLES = '.csv', '.tsv'
# Characters: a quote that nothing closes does not read a whole file into memory
_MAX_FIELD = 1 << 27
# In place of the rows of a file without any
EMPTY = 0, Wrong('is empty', is_whole=True)
_QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with the number of its line. Raises `UserError` for any other line."""
    return without_wrong(path, stream_objects(expand_path(path)))


def read_table(path: Path, fields: dict[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """
    The rows of a table, each with the number of its first line. Raises `UserError` for what is wrong.

    * `fields` are the names of columns that there must be, by the items that name them
    """
    return without_wrong(path, stream_table(expand_path(path), fields))


def stream_objects(path: Path, *, decoding: str = 'strict') -> Iterator[tuple[int, dict[str, Any] | Wrong]]:
    """
    The objects of a file of JSON lines, each with the number of its line, and what is wrong with other lines.
    `decoding` is that of `decoded_lines`.
    """
    is_empty = True
    for row in objects_of(decoded_lines(path, decoding=decoding)):
        is_empty = False
        yield row
    if is_empty:
        yield EMPTY


def objects_of(lines: Iterable[tuple[int, str | Wrong]]) -> Iterator[tuple[int, dict[str, Any] | Wrong]]:
    """The objects of lines that are not blank, each with its number, and what is wrong with others."""
    for number, line in lines:
        if isinstance(line, Wrong):
            yield number, line
        elif line.strip():
            yield number, _object(line)


def _object(line: str) -> dict[str, Any] | Wrong:
    try:
        # Where files were joined, there may be byte order marks
        record = json.loads(line.removeprefix('\ufeff'))
    except (ValueError, RecursionError):
        return Wrong('is not JSON: there must be an object on each line (JSON lines)')
    if not isinstance(record, dict):
        return Wrong(f'is a JSON {type(record).__name__}: there must be an object on each line, such as '
                     '{"text": "…"}')
    return record


def stream_table(path: Path, fields: dict[str, str], *, decoding: str = 'strict') \
        -> Iterator[tuple[int, dict[str, str] | Wrong]]:
    """
    The rows of a table, each with the number of its first line, and what is wrong with others. `fields` are those of
    `read_table`, and `decoding` that of `decoded_lines`.
    """
    # Half a million characters in a field are fine
    csv.field_size_limit(_MAX_FIELD)
    is_tsv = text_suffix(path) == '.tsv'
    lines = _Lines(path, decoding)
    reader = csv.reader(lines, delimiter='\t', quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(lines, strict=True)
    header, line = None, 1
    while True:
        begin = line
        try:
            values = next(reader, None)
            wrong = lines.take_wrong()
        except csv.Error as e:
            values, wrong = [], lines.take_wrong() or Wrong(f'is not {"TSV" if is_tsv else "CSV"}: {e}')
        line = reader.line_num + 1
        if wrong is not None:
            # Without a header there are no columns
            yield begin, wrong._replace(is_whole=wrong.is_whole or header is None)
            if wrong.is_whole or header is None:
                return
        elif values is None:
            break
        elif not values or (header is None and not ''.join(values).strip()):
            continue
        else:
            if is_tsv:
                values = [_unquoted(value) for value in values]
            if header is None:
                header = values
                if what := _wrong_header(header, fields):
                    yield begin, Wrong(what, is_whole=True)
                    return
            elif len(values) != len(header):
                yield begin, Wrong(f'has {len(values):,} columns, and the header has {len(header):,}: '
                                   + ', '.join(map(repr, header)))
            else:
                yield begin, dict(zip(header, values, strict=True))
    if header is None:
        yield EMPTY


class _Lines:
    """The lines of a file, for a reader of rows, and what was wrong with those that it took since it was asked."""

    def __init__(self, path: Path, decoding: str):
        self._lines = decoded_lines(path, decoding=decoding)
        self._wrong: Wrong | None = None

    def __iter__(self) -> Iterator[str]:
        for _, line in self._lines:
            if isinstance(line, Wrong):
                self._wrong = self._wrong or line
                line = '\n'
            yield line

    def take_wrong(self) -> Wrong | None:
        """What was wrong with the last lines, if anything was."""
        wrong, self._wrong = self._wrong, None
        return wrong


def _wrong_header(header: list[str], fields: dict[str, str]) -> str:
    """What is wrong if a field is no column, or several; else empty."""
    for role, name in fields.items():
        if name not in header:
            return no_field(name, role, header) + ' The first row of a table names its columns'
        if header.count(name) > 1:
            return f'names {header.count(name)} columns `{name}` ({role})'
    return ''


def _unquoted(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    return quoted[1].replace('""', '"') if quoted else value
