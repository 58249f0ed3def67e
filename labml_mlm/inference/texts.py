"""
# Texts from a file or standard input

One at a time, so that there may be any number of them, for all commands that read texts.
"""
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.reading import fasta, parquet
from labml_mlm.reading.files import expand_path, text_suffix
from labml_mlm.reading.lines import Wrong, at_line, check_text, decode_lines, no_field, read_lines, without_wrong
from labml_mlm.reading.rows import JSON_SUFFIXES, TABLES, objects_of, read_objects, read_table
from labml_mlm.reading.texts import read_texts_of

# What means standard input, and what messages call it
STDIN = Path('-')
_STDIN_NAME = Path('standard input')
_FIELD = 'text'
_OPTION = '--field'


class Text(NamedTuple):
    """A text, and its first line in the file, from 1."""
    line: int
    text: str


def name_of(path: Path) -> Path:
    """What messages call a file, or standard input."""
    return _STDIN_NAME if path == STDIN else path


def read_texts(path: Path, *, field: str | None = None, default_field: str = _FIELD) -> Iterator[Text]:
    """
    The texts of a file, in order: one on each line, or in each row of JSON lines (`.jsonl`, `.json`), of a table with a
    header (`.csv`, `.tsv`) or of Parquet, or in each record of FASTA. It may be compressed (`.gz`, `.zst`).

    * `path` is `-` for standard input: a text on each line, or JSON lines if there is a `field`
    * `field` is the field of a row that holds the text, by default `default_field`

    Every line of a text file counts, empty ones, too, and so does null in Parquet, as an empty text. Raises
    `UserError`, which names the line, for what cannot be read, is not text, or has no such field.
    """
    path = expand_path(path)
    suffix = text_suffix(path)
    with_fields = JSON_SUFFIXES + TABLES + parquet.SUFFIXES
    if path == STDIN:
        return _lines_of(_read_stdin()) if field is None else _of_rows(_STDIN_NAME, field, read_json(path))
    if suffix not in with_fields:
        is_fasta = suffix in fasta.SUFFIXES
        if field is not None:
            raise UserError(f'{_OPTION} {field} is for files that end in {", ".join(with_fields)}, and {path} has a '
                            'text ' + ('in each record' if is_fasta else 'on each line'))
        return _of_records(path, _FIELD) if is_fasta else _lines_of(read_lines(path))
    field = field or default_field
    if suffix in parquet.SUFFIXES:
        return _of_records(path, field)
    return _of_rows(path, field, read_json(path) if suffix in JSON_SUFFIXES else read_table(path, {_OPTION: field}))


def read_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    The objects of JSON lines in a file, or in standard input, if `path` is `-`, each with the number of its line.
    Raises `UserError` for any other line, and if the file is empty.
    """
    return without_wrong(_STDIN_NAME, objects_of(_stdin_lines())) if path == STDIN else read_objects(path)


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
    return without_wrong(_STDIN_NAME, _stdin_lines())


def _stdin_lines() -> Iterator[tuple[int, str | Wrong]]:
    # It may be closed
    if sys.stdin is None:
        return
    # As text, whose bytes are kept: a signal that ends a read of bytes leaves a half-written output behind
    if hasattr(sys.stdin, 'reconfigure'):
        sys.stdin.reconfigure(encoding='utf-8', errors='surrogateescape', newline='\n')
    yield from decode_lines(line.encode('utf-8', 'surrogateescape') for line in sys.stdin)
