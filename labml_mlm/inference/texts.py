"""Texts from a file or standard input, one at a time, so that there may be any number of them."""
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.reading import fasta, parquet
from labml_mlm.reading.files import expand_path, text_suffix
from labml_mlm.reading.lines import Wrong, at_line, check_text, no_field, read_lines, without_wrong
from labml_mlm.reading.rows import JSON_SUFFIXES, TABLES, read_objects, read_table
from labml_mlm.reading.texts import read_texts_of

# The name of standard input
STDIN = Path('-')
_FIELD = 'text'
_OPTION = '--field'


class Text(NamedTuple):
    """A text, and its first line in the file, from 1."""
    line: int
    text: str


def read_texts(path: Path, *, field: str | None = None) -> Iterator[Text]:
    """
    The texts of a file, in order: one on each line, or in each row of JSON lines (`.jsonl`, `.json`), of a table with a
    header (`.csv`, `.tsv`) or of Parquet, or in each record of FASTA. It may be compressed (`.gz`, `.zst`).

    * `path` is `-` for standard input: a text on each line
    * `field` is the field of a row that holds the text, by default `text`

    Every line of a text file counts, empty ones, too, and so does null in Parquet, as an empty text. Raises
    `UserError`, which names the line, for what cannot be read, is not text, or has no such field.
    """
    path = expand_path(path)
    suffix = text_suffix(path)
    with_fields = JSON_SUFFIXES + TABLES + parquet.SUFFIXES
    if suffix not in with_fields:
        is_fasta = suffix in fasta.SUFFIXES
        if field is not None:
            raise UserError(f'{_OPTION} {field} is for files that end in {", ".join(with_fields)}, and '
                            f'{"standard input" if path == STDIN else path} has a text '
                            + ('in each record' if is_fasta else 'on each line'))
        if is_fasta:
            return _of_records(path, _FIELD)
        return _lines_of(_read_stdin() if path == STDIN else read_lines(path))
    field = field or _FIELD
    if suffix in parquet.SUFFIXES:
        return _of_records(path, field)
    return _of_rows(path, field, read_objects(path) if suffix in JSON_SUFFIXES else
                    read_table(path, {_OPTION: field}))


def _lines_of(lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    for line, text in lines:
        yield Text(line, text.rstrip('\r\n'))


def _of_rows(path: Path, field: str, rows: Iterable[tuple[int, dict]]) -> Iterator[Text]:
    for line, record in rows:
        if field not in record:
            raise at_line(path, line, no_field(field, _OPTION, record))
        yield Text(line, check_text(record[field], path=path, line=line, role=_OPTION))


def _of_records(path: Path, field: str) -> Iterator[Text]:
    """The texts of records that are none of rows in a text file."""
    pieces = []
    entries = ((line, (text, is_last)) for line, text, is_last in read_texts_of(path, field=field, role=_OPTION))
    for line, (text, is_last) in without_wrong(path, entries):
        if isinstance(text, Wrong):
            raise at_line(path, line, text.what)
        pieces.append(text or '')
        if is_last:
            yield Text(line, ''.join(pieces))
            pieces = []


def _read_stdin() -> Iterator[tuple[int, str]]:
    if sys.stdin is None:
        return
    if hasattr(sys.stdin, 'reconfigure'):
        sys.stdin.reconfigure(encoding='utf-8-sig', errors='strict', newline='\n')
    line = 0
    try:
        for line, text in enumerate(sys.stdin, start=1):
            yield line, text
    except UnicodeDecodeError:
        raise UserError(f'standard input is not UTF-8, after line {line:,}') from None
