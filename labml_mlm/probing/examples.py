"""
# Labelled texts for a probe

Which texts are held out, and which are left out if there are too many, is decided by the SHA-256 of a text: it is the
same on every machine, in whatever order the file is, and equal texts are always on one side.
"""
import collections
import hashlib
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.labelled.rows import Row, read_rows

# The part of the texts of each label that is held out
_HELD_OUT = 0.2
# Of so many texts of a label to learn from, one chooses the strength of regularization
INNER = 5
# Labels that a message names
_MAX_NAMED = 5


class Examples(NamedTuple):
    """Rows to learn from, and rows that are held out. Labels are texts."""
    train: list[Row]
    valid: list[Row]
    # Each once, sorted
    labels: list[str]
    # What was left out, in a sentence each
    notes: list[str]

    @property
    def sha256(self) -> str:
        """A fingerprint of texts and labels."""
        return hashlib.sha256(json.dumps([[(row.text, row.label) for row in rows] for rows in self[:2]]).encode()
                              ).hexdigest()


def read_examples(path: Path, *, text_field: str, label_field: str, valid_path: Path | None = None,
                  max_texts: int) -> Examples:
    """
    The labelled texts of a file, as `read_rows` reads them.

    * `valid_path` has those that are held out; without it, a fifth of the texts of each label is
    * `max_texts` is the most rows of each file; of more, a random part is taken

    Raises what `read_rows` does, and `UserError` if there are fewer than two labels, if they are no names, if a label
    has no text to learn from, and if none is held out.
    """
    notes: list[str] = []
    train = _read(path, text_field=text_field, label_field=label_field, max_texts=max_texts, notes=notes)
    if valid_path is None:
        train, valid = _split(train)
    else:
        valid = _read(valid_path, text_field=text_field, label_field=label_field, max_texts=max_texts, notes=notes)
    labels = sorted({row.label for row in train})
    if len(labels) < 2:
        raise UserError(f'{path} has one label only, {labels[0]!r}: there is nothing to tell apart')
    if unknown := sorted({row.label for row in valid} - set(labels)):
        raise UserError(f'{valid_path} has labels that {path} does not have: {_named(unknown)}')
    if not valid or max(collections.Counter(row.label for row in train).values()) < INNER:
        raise UserError(f'{path} has {len(train) + len(valid):,} texts, too few to learn from some of each label and '
                        'hold out others')
    return Examples(train, valid, labels, notes)


def _read(path: Path, *, text_field: str, label_field: str, max_texts: int, notes: list[str]) -> list[Row]:
    found = read_rows(path, text_field=text_field, label_field=label_field)
    if found.n_empty:
        notes.append(f'{path} has {found.n_empty:,} rows without text, which are left out')
    rows = sorted((row._replace(label=_label(row, path)) for row in found.rows), key=lambda row: _hash(row.text))
    n_labels = len({row.label for row in rows})
    if n_labels > max(2, len(rows) // 2):
        raise UserError(f'{path} has {n_labels:,} different labels in {len(rows):,} rows: a probe tells classes apart, '
                        f'and `{label_field}` (label_field) looks like numbers or texts')
    if len(rows) > max_texts:
        notes.append(f'{path} has {len(rows):,} texts: {max_texts:,} of them are taken')
    return rows[:max_texts]


def _label(row: Row, path: Path) -> str:
    label: Any = row.label
    if not isinstance(label, Hashable) or isinstance(label, float) and not label.is_integer():
        raise UserError(f'{path}, line {row.line:,} has the label {label!r}: a probe tells classes apart, whose labels '
                        'are texts or integers')
    # As a table has it
    return str(int(label)) if isinstance(label, float) else str(label)


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows to learn from, and a fifth of each label, which is held out; `rows` are in the order of hashes."""
    # A text with several labels counts for its first
    first_labels: dict[str, str] = {}
    for row in rows:
        first_labels.setdefault(row.text, row.label)
    of_labels: dict[str, list[str]] = collections.defaultdict(list)
    for text, label in first_labels.items():
        of_labels[label].append(text)
    held_out = {text for texts in of_labels.values() for text in texts[:int(len(texts) * _HELD_OUT)]}
    return [row for row in rows if row.text not in held_out], [row for row in rows if row.text in held_out]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _named(labels: Sequence[str]) -> str:
    more = f' and {len(labels) - _MAX_NAMED:,} more' if len(labels) > _MAX_NAMED else ''
    return ', '.join(map(repr, labels[:_MAX_NAMED])) + more
