"""
# Rows to train on, and rows for validation

At random, but two things must not happen: that a text is on both sides, as a validation must not count what was trained
on, and that a label is in validation alone, as nothing could predict it.
"""
import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.rows import Rows
from labml_mlm.labelled.tagged import Tagged


def split_rows(rows: Any, *, labels: LabelSet, valid_fraction: float, seed: int) -> tuple[Any, Any]:
    """
    `Rows` or `Tagged` to train on, and those for validation: `valid_fraction` of them, or fewer where the others would
    lack a label.

    Raises `UserError` if one of both has none.
    """
    # The numbers of rows with the same text
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows.rows):
        groups.setdefault(hashlib.sha256(json.dumps([seed, row[0]]).encode()).hexdigest(), []).append(i)
    of_rows = _labels_of_rows(rows, labels)
    n = len(rows.rows)
    n_valid, is_valid, left = round(n * valid_fraction), np.zeros(n, bool), Counter(i for ids in of_rows for i in ids)
    n_taken = 0
    for _, group in sorted(groups.items()):
        if n_taken >= n_valid:
            break
        taken = Counter(i for row in group for i in of_rows[row])
        if n_taken + len(group) < n and all(left[i] > count for i, count in taken.items()):
            is_valid[group] = True
            n_taken += len(group)
            left.subtract(taken)
    if not n_taken:
        raise UserError(f'{rows.path}: valid_fraction={valid_fraction} of {n:,} rows leaves nothing to validate on: '
                        'give a valid_path, or more rows')
    train, valid = ([row for row, is_of_part in zip(rows.rows, part, strict=True) if is_of_part]
                    for part in (~is_valid, is_valid))
    # What is left out is counted once
    return rows._replace(rows=train), rows._replace(rows=valid, n_empty=0)


def _labels_of_rows(rows: Rows | Tagged, labels: LabelSet) -> list[list[int]]:
    """The ids of each row's labels, each once; none where they are numbers."""
    if labels.kind == 'number':
        return [[] for _ in rows.rows]
    if labels.kind == 'tags':
        return [np.unique(ids).tolist() for ids in labels.encode_tags(rows)]
    ids = labels.encode(rows)
    return ids[:, None].tolist() if labels.kind == 'single' else [np.flatnonzero(has).tolist() for has in ids]
