"""
# The texts of a file of records

Rows of JSON lines, tables and Parquet have their text in a field; sequences of FASTA are texts. Which of these a file
is, its suffix says.
"""
from collections.abc import Iterator
from pathlib import Path

from labml_mlm.reading import fasta, parquet
from labml_mlm.reading.files import text_suffix
from labml_mlm.reading.json_lines import stream_blocks
from labml_mlm.reading.lines import Wrong, checked_text, no_field
from labml_mlm.reading.rows import JSON_SUFFIXES, TABLES, stream_table

# Where its text is, what it is, and whether that is the end of it; `None` for a text that is blank
Entry = tuple[int, str | None | Wrong, bool]

# By what `text_format` calls it: suffixes of files of records. `plain` is what early versions read
RECORDS = {'auto': JSON_SUFFIXES + TABLES + parquet.SUFFIXES + fasta.SUFFIXES, 'plain': ('.jsonl',)}
# Those that a folder is searched for: a `.json` may be anything
OF_FOLDERS = {name: ('.txt', '.md', *(suffix for suffix in suffixes if suffix != '.json'))
              for name, suffixes in RECORDS.items()}


def has_records(path: Path, *, text_format: str = 'auto') -> bool:
    """Is a file, by its suffix, one of records? All others are a text each."""
    return text_suffix(path) in RECORDS[text_format]


def has_field(path: Path, *, text_format: str = 'auto') -> bool:
    """Does a file, by its suffix, have rows with fields?"""
    return has_records(path, text_format=text_format) and text_suffix(path) not in fasta.SUFFIXES


def read_texts_of(path: Path, *, field: str, role: str = 'text_field', decoding: str = 'strict',
                  text_format: str = 'auto') -> Iterator[Entry]:
    """
    The texts of a file of records, in pieces. Each comes with the number of its line (in Parquet: row) from 1, 0 for
    the file as a whole, and with whether it is the last piece. In place of a text there may be what is wrong with it,
    or `None` if it is null, empty, or white space alone.

    * `field` is the field of its text, and `role` the item that names it
    * `decoding` is `strict`, or `replace` for U+FFFD in place of invalid UTF-8
    * `text_format` is a key of `RECORDS`

    Raises `UserError` for Parquet without pyarrow, `OSError`, and what a decompressor raises.
    """
    for number, text, is_last in read_blocks_of(path, field=field, role=role, decoding=decoding,
                                                text_format=text_format):
        if isinstance(text, list):
            yield from ((i, one, True) for i, one in enumerate(text, start=number))
        else:
            yield number, text, is_last


def read_blocks_of(path: Path, *, field: str, role: str = 'text_field', decoding: str = 'strict',
                   text_format: str = 'auto') -> Iterator[Entry | tuple[int, list[str], bool]]:
    """The same, with a list of texts in place of many on lines that follow each other, and the number of the first."""
    suffix = text_suffix(path)
    if suffix in fasta.SUFFIXES:
        return fasta.stream_sequences(path, decoding=decoding)
    if suffix in parquet.SUFFIXES:
        texts = ((number, checked_text(text, role=role) if isinstance(text, str) else text)
                 for number, text in parquet.stream_column(path, field, role=role, decoding=decoding))
    else:
        rows = stream_table(path, {role: field}, decoding=decoding) if suffix in TABLES else \
            stream_blocks(path, field, decoding=decoding)
        texts = ((number, text_of_row(row, field, role, decoding) if isinstance(row, dict) else row)
                 for number, row in rows)
    # Early versions took white space for a text
    is_blank = (lambda text: not text) if text_format == 'plain' else (lambda text: not text.strip())
    return ((number, None if isinstance(text, str) and is_blank(text) else text, True) for number, text in texts)


def text_of_row(row: dict, field: str, role: str, decoding: str) -> str | None | Wrong:
    if field not in row:
        return Wrong(no_field(field, role, row))
    return None if row[field] is None else checked_text(row[field], role=role, decoding=decoding)
