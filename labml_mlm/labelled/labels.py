"""
# What labels mean

A file has texts, numbers and lists; a model has classes or numbers. There are four kinds of labels:

* `single`: each text is of one class. Names of classes are texts, whole numbers and truth values, all taken as text
* `multiple`: each text has any number of labels, also none. In JSON they are a list; a text has them separated by `|`
* `number`: each text has a number, a target of regression
* `tags`: each word is of one class

In tables everything is text, and `3` may be a class or a rating. `infer_kind` takes numbers for classes unless one has
a fractional part, and says so.
"""
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.labelled.tagged import Tagged
from labml_mlm.reading.lines import at_line

KINDS = 'single', 'multiple', 'number', 'tags'
# Between several labels in a text
SEPARATOR = '|'
# More classes than that are no classes, and so are those of which fewer than this have nearly a row each
_MAX_CLASSES, _FEW_CLASSES, _MOST_ROWS = 1000, 20, 0.8
# Labels that a message names
_MAX_NAMED = 5
_NUMBER = re.compile(r'\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan)\s*', re.IGNORECASE)


class LabelSet(NamedTuple):
    """
    ## The labels that a model knows

    * `kind` is one of `KINDS`
    * `names` are those of its classes, by their ids; none for numbers
    """
    kind: str
    names: tuple[str, ...] = ()

    @classmethod
    def from_rows(cls, rows: Rows, kind: str) -> 'LabelSet':
        """
        The labels of rows to train on; numbers in order, other names sorted. Raises `UserError` for labels that are not
        of this kind, if all rows have the same, and if there are so many that they cannot be classes.
        """
        if len(rows.rows) == 1:
            raise UserError(f'{rows.path} has a single row, and at least two labels are needed: there is nothing to '
                            'learn')
        if kind == 'number':
            # Different ones may be equal in the precision of a model
            values = {np.float32(_number(row, rows)) for row in rows.rows}
            if len(values) == 1:
                raise UserError(f'all {len(rows.rows):,} rows of {rows.path} have the same number, {values.pop():g}: '
                                'there is nothing to learn')
            return cls(kind)
        by_row = [_names(row, rows, kind) for row in rows.rows]
        if len({frozenset(names) for names in by_row}) == 1:
            raise UserError(f'all {len(by_row):,} rows of {rows.path} have the same label, '
                            f'{", ".join(map(repr, by_row[0])) or "none"}: there is nothing to learn')
        labels = cls(kind, _sorted({name for names in by_row for name in names}))
        n = len(labels.names)
        if n > _MAX_CLASSES or (kind == 'single' and n >= _FEW_CLASSES and n > _MOST_ROWS * len(by_row)):
            raise UserError(f'{rows.path} has {n:,} different labels in {len(by_row):,} rows, such as '
                            f'{labels.some()}: too many for classes. For numbers, use task=regression; or give '
                            'another label_field')
        return labels

    @classmethod
    def from_tagged(cls, tagged: Tagged) -> 'LabelSet':
        """The labels of words to train on, sorted. Raises `UserError` if there is only one, or too many for classes."""
        labels = cls('tags', _sorted({label for row in tagged.rows for label in row.labels}))
        if len(labels.names) == 1:
            raise UserError(f'all words of {tagged.path} have the same label, {labels.names[0]!r}: there is nothing '
                            'to learn')
        if len(labels.names) > _MAX_CLASSES:
            raise UserError(f'{tagged.path} has {len(labels.names):,} different labels, such as {labels.some()}: too '
                            'many for classes. Give another label_field')
        return labels

    def encode(self, rows: Rows) -> np.ndarray:
        """
        What a model is to predict for rows: ids, `int64` of shape `[n]`; for several labels which of them each row has,
        `float32` of shape `[n, n_labels]`; numbers, `float32` of shape `[n]`. Raises `UserError` for labels that are
        not in the set or not of its kind.
        """
        if self.kind == 'number':
            return np.array([_number(row, rows) for row in rows.rows], np.float32)
        ids = {name: i for i, name in enumerate(self.names)}
        by_row = [(row.line, _names(row, rows, self.kind)) for row in rows.rows]
        self._check_known(by_row, rows)
        if self.kind == 'single':
            return np.array([ids[names[0]] for _, names in by_row], np.int64)
        has = np.zeros((len(by_row), len(ids)), np.float32)
        for i, (_, names) in enumerate(by_row):
            has[i, [ids[name] for name in names]] = 1
        return has

    def encode_tags(self, tagged: Tagged) -> list[np.ndarray]:
        """The ids of the labels of each sentence, `int64` of shape `[n_words]`. Raises `UserError` for unknown ones."""
        ids = {name: i for i, name in enumerate(self.names)}
        self._check_known([(row.line, row.labels) for row in tagged.rows], tagged)
        return [np.array([ids[label] for label in row.labels], np.int64) for row in tagged.rows]

    def _check_known(self, by_row: Iterable[tuple[int, Iterable[str]]], source: Rows | Tagged):
        """Raises `UserError` for names that are not in the set, with the first line of each."""
        known, unknown = set(self.names), {}
        for line, names in by_row:
            for name in names:
                if name not in known:
                    unknown.setdefault(name, line)
        if unknown:
            named = ', '.join(f'{name!r} (line {line:,})' for name, line in list(unknown.items())[:_MAX_NAMED])
            more = f' and {len(unknown) - _MAX_NAMED:,} more' if len(unknown) > _MAX_NAMED else ''
            raise UserError(f'{source.path} has labels that were not there in training: {named}{more}. Known are '
                            f'{self.some()}.{did_you_mean(next(iter(unknown)), self.names)}')

    def some(self) -> str:
        """The first few of its names, for people."""
        more = f' and {len(self.names) - _MAX_NAMED:,} more' if len(self.names) > _MAX_NAMED else ''
        return ', '.join(map(repr, self.names[:_MAX_NAMED])) + more


def infer_kind(rows: Rows) -> tuple[str, str]:
    """The kind of labels, and why it is taken for that, for a message."""
    for row in rows.rows:
        if isinstance(row.label, list):
            return 'multiple', f'there are lists of labels, as in line {row.line:,}'
    values = [_value(row.label) for row in rows.rows]
    if any(value is None for value in values):
        return 'single', 'labels are names'
    for row, value in zip(rows.rows, values, strict=True):
        if not value.is_integer():
            return 'number', f'labels are numbers, and not all are whole, as {row.label} in line {row.line:,}'
    return 'single', 'labels are whole numbers, which are taken as names of classes'


def _value(label: Any) -> float | None:
    """A label as a number; `None` if it is none."""
    if isinstance(label, bool) or not isinstance(label, int | float | str):
        return None
    if isinstance(label, str) and not _NUMBER.fullmatch(label):
        return None
    try:
        return float(label)
    except OverflowError:
        return math.inf


def _number(row: Row, rows: Rows) -> float:
    """The number that is a row's label. Raises `UserError` if it is none, or not finite."""
    value = _value(row.label)
    if value is None:
        raise at_line(rows.path, row.line, f'has the label {row.label!r}, which is not a number. For classes, use '
                                           'task=classification')
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise at_line(rows.path, row.line, f'has the label {row.label!r}: it must be a finite number')
    return value


def _names(row: Row, rows: Rows, kind: str) -> list[str]:
    """The names of a row's labels, each once. Raises `UserError` if there is one that is no name."""
    labels = row.label
    if kind == 'multiple':
        if isinstance(labels, str):
            labels = [part for part in map(str.strip, labels.split(SEPARATOR)) if part]
        labels = labels if isinstance(labels, list) else [labels]
    elif isinstance(labels, list):
        raise at_line(rows.path, row.line, 'has a list of labels, where others have one: for several, use '
                                           'task=multilabel')
    else:
        labels = [labels]
    for label in labels:
        if not isinstance(label, str | int | float) or str(label).strip() == '' or _is_nan(label):
            raise at_line(rows.path, row.line, f'has the label {label!r}: it must be a text, a whole number or a truth '
                                               'value')
    return list(dict.fromkeys(map(_name, labels)))


def _name(label: Any) -> str:
    """The name of a class, without white space around it; truth values as in JSON, whole numbers without a point."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _is_nan(label: Any) -> bool:
    return isinstance(label, float) and math.isnan(label)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    values = [_value(name) for name in names]
    if all(value is not None and not math.isnan(value) for value in values):
        return tuple(sorted(names, key=lambda name: (_value(name), name)))
    return tuple(names)
