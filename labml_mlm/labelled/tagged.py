"""
# Words and their labels, as a file has them

Two formats are common. In the columns of CoNLL's shared tasks each line is a word, with the word in the first column
and its label in the last, and a blank line ends a sentence:

    EU      NNP  B-NP  B-ORG
    rejects VBZ  B-VP  O

Columns are separated by tabs if the line of the first word has one, and by white space otherwise. `-DOCSTART-` lines,
which begin a document, are no words. Before the first word of a sentence, a line that begins with `#` is a comment
(`# text = …`) if it has a column `=`, or not as many columns as words have; everywhere else `#` is a word. CoNLL-U,
which has the words in its second column and no labels in its last, is refused.

In JSON lines, each line is a sentence, with a list of words and one of as many labels.
"""
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.reading.files import text_suffix
from labml_mlm.reading.lines import at_line, check_suffix, check_text, no_field, read_lines
from labml_mlm.reading.rows import JSON_SUFFIXES, read_objects

_COLUMNS = '.bio', '.conll', '.tsv', '.txt'
TAGGED_SUFFIXES = JSON_SUFFIXES + _COLUMNS
# Sentences that tell whether the first column numbers words
_N_TELLING = 100


class TaggedRow(NamedTuple):
    """The words of a sentence and their labels."""
    words: list[str]
    # One for each word; none if there are no labels
    labels: list[str]
    # Its first line in the file, from 1
    line: int


class Tagged(NamedTuple):
    """The sentences of a file that have words."""
    rows: list[TaggedRow]
    # Sentences without words, which are left out; only JSON has such
    n_empty: int
    # For messages
    path: Path


def read_tagged(path: Path, *, text_field: str = 'words', label_field: str | None = 'labels') -> Tagged:
    """
    The sentences of a file: JSON lines (`.jsonl`, `.json`), or columns (`.conll`, `.bio`, `.tsv`, `.txt`), which may be
    compressed (`.gz`, `.zst`).

    * `text_field` and `label_field` are the fields of a JSON line with the words and with their labels, texts or whole
      numbers. `label_field` is `None` if no labels are needed; columns after the first are not read then

    Raises `UserError`, which names the line, for lines with other columns than the first, for words or labels that are
    empty or no text, for lists of different lengths, for fields that there are not, and if no sentence is left.
    """
    rows = [*stream_tagged(path, text_field=text_field, label_field=label_field)]
    with_words = [row for row in rows if row.words]
    if not with_words:
        raise UserError(f'{path} has no words')
    return Tagged(with_words, len(rows) - len(with_words), Path(path))


def stream_tagged(path: Path, *, text_field: str = 'words', label_field: str | None = 'labels') -> Iterator[TaggedRow]:
    """The same sentences one by one, as they are read, with those that have no words."""
    path = Path(path)
    check_suffix(path, TAGGED_SUFFIXES)
    if text_suffix(path) in JSON_SUFFIXES:
        return _read_json(path, text_field, label_field)
    return _without_numbers(_read_columns(path, is_labelled=label_field is not None), path)


def _without_numbers(rows: Iterable[TaggedRow], path: Path) -> Iterator[TaggedRow]:
    """The same rows. Raises `UserError` if their first column numbers words."""
    rows = iter(rows)
    first = [*itertools.islice(rows, _N_TELLING)]
    if any(len(row.words) > 1 for row in first) and all(row.words[0] in ('1', '1-2') for row in first):
        raise UserError(f'{path} seems to be CoNLL-U: its first column numbers words. The first must have words, and '
                        'the last their labels')
    yield from first
    yield from rows


def _read_columns(path: Path, *, is_labelled: bool) -> Iterator[TaggedRow]:
    """The sentences of a file with a word on each line."""
    lines = ((number, line.rstrip('\r\n')) for number, line in read_lines(path))
    # The first line that surely is a word tells what words look like
    before: list[tuple[int, str]] = []
    for number, line in lines:
        before.append((number, line))
        if not _is_between(line) and line[0] != '#':
            break
    else:
        return
    first = before[-1]
    separator = '\t' if '\t' in first[1] else None
    n_columns = len(first[1].split(separator))
    if is_labelled and n_columns == 1:
        raise at_line(path, first[0], 'has a word and no label: there must be a column for each')
    row = None
    for number, line in itertools.chain(before, lines):
        if _is_between(line):
            if row is not None:
                yield row
            row = None
            continue
        columns = line.split(separator)
        if row is None and line.startswith('#') and ('=' in line.split() or len(columns) != n_columns):
            # A comment
            continue
        if len(columns) != n_columns:
            raise at_line(path, number, f'has {len(columns):,} columns, and line {first[0]:,} has {n_columns:,}')
        if row is None:
            row = TaggedRow([], [], number)
        row.words.append(_checked(columns[0], path, number, 'word'))
        if is_labelled:
            row.labels.append(_checked(columns[-1], path, number, 'label'))
    if row is not None:
        yield row


def _is_between(line: str) -> bool:
    """Does the line end a sentence?"""
    return not line.strip() or line.startswith('-DOCSTART-')


def _read_json(path: Path, text_field: str, label_field: str | None) -> Iterator[TaggedRow]:
    """The sentences of a file with one on each line."""
    for number, record in read_objects(path):
        lists = []
        for role, name in (('text_field', text_field), ('label_field', label_field)):
            if name is None:
                continue
            if name not in record:
                raise at_line(path, number, no_field(name, role, record))
            if not isinstance(record[name], list):
                raise at_line(path, number, f'has no list in its field `{name}` ({role}), but a value of type '
                                            f'{type(record[name]).__name__}')
            lists.append([_checked(value, path, number, 'word' if role == 'text_field' else 'label')
                          for value in record[name]])
        words, labels = lists if len(lists) == 2 else (*lists, [])
        if label_field is not None and len(words) != len(labels):
            raise at_line(path, number, f'has {len(words):,} words in `{text_field}`, and {len(labels):,} labels in '
                                        f'`{label_field}`')
        yield TaggedRow(words, labels, number)


def _checked(value: Any, path: Path, line: int, what: str) -> str:
    """A word, or a label, which may be a whole number, too, as text."""
    if what == 'label' and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise at_line(path, line, f'has a {what} that is no text, but of type {type(value).__name__}')
    if not value.strip():
        raise at_line(path, line, f'has an empty {what}')
    return check_text(value, path=path, line=line, role='text_field')
