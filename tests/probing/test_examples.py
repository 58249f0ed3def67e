"""Which texts are held out, and which are left out."""
import collections
import random
from pathlib import Path

import pytest
from probing.conftest import sentences, write_rows

from labml_mlm.common.errors import UserError
from labml_mlm.probing.examples import read_examples

FIELDS = {'text_field': 'text', 'label_field': 'label', 'max_texts': 5000}


def texts(rows):
    return {row.text for row in rows}


def test_a_fifth_of_each_label_is_held_out_whatever_the_order(tmp_path):
    rows = [(f'{label} {i}', label) for label, n in (('a', 100), ('b', 25), ('c', 3)) for i in range(n)]
    found = read_examples(write_rows(tmp_path / 'a.jsonl', rows), **FIELDS)
    assert found.labels == ['a', 'b', 'c'] and found.notes == []
    assert collections.Counter(row.label for row in found.valid) == {'a': 20, 'b': 5}
    assert collections.Counter(row.label for row in found.train) == {'a': 80, 'b': 20, 'c': 3}
    random.Random(0).shuffle(rows)
    again = read_examples(write_rows(tmp_path / 'b.jsonl', rows), **FIELDS)
    assert [row[:2] for row in again.train] == [row[:2] for row in found.train]
    assert [row[:2] for row in again.valid] == [row[:2] for row in found.valid]


def test_equal_texts_are_on_one_side(tmp_path):
    rows = [(f'text {i % 40}', 'ab'[i % 3 == 0]) for i in range(200)]
    found = read_examples(write_rows(tmp_path / 'a.jsonl', rows), **FIELDS)
    assert not texts(found.train) & texts(found.valid)
    assert len(found.train) + len(found.valid) == 200


def test_of_too_many_texts_a_random_part_is_taken(tmp_path):
    path = write_rows(tmp_path / 'a.jsonl', [(f'text {i:04}', i % 2) for i in range(1000)])
    found = read_examples(path, **FIELDS | {'max_texts': 200})
    assert len(found.train) + len(found.valid) == 200
    assert found.notes == [f'{path} has 1,000 texts: 200 of them are taken']
    # From all over the file
    lines = sorted(row.line for row in found.train + found.valid)
    assert 350 < sum(lines) / len(lines) < 650
    assert found.labels == ['0', '1']


def test_a_file_of_texts_to_hold_out(tmp_path):
    train = write_rows(tmp_path / 'a.jsonl', sentences(30))
    valid = tmp_path / 'b.csv'
    valid.write_text('text,label\nnew fox,fox\nnew hen,none\n')
    found = read_examples(train, valid_path=valid, **FIELDS)
    assert len(found.train) == 30 and texts(found.valid) == {'new fox', 'new hen'}
    valid.write_text('text,label\nnew fox,fix\n')
    with pytest.raises(UserError, match="b.csv has labels that .*a.jsonl does not have: 'fix'"):
        read_examples(train, valid_path=valid, **FIELDS)


@pytest.mark.parametrize('rows, message', [
    ([('a', 'x'), ('b', 'x')] * 20, "has one label only, 'x': there is nothing to tell apart"),
    ([('a', 'x'), ('b', 'y')] * 20, 'has 40 texts, too few to learn from some of each label and hold out others'),
    ([(f'text {i}', i / 7) for i in range(9)], 'line 2 has the label 0.14285714285714285: a probe tells classes apart'),
    ([(f'text {i}', ['x']) for i in range(9)], r"line 1 has the label \['x'\]"),
    ([(f'text {i}', f'{i}.5') for i in range(9)], 'has 9 different labels in 9 rows: a probe tells classes apart'),
    ([('a', 'x'), ('b', None)], 'line 2 has no label')])
def test_what_cannot_be_probed_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_examples(write_rows(tmp_path / 'a.jsonl', rows), **FIELDS)
    with pytest.raises(UserError, match='cannot read'):
        read_examples(Path('missing.jsonl'), **FIELDS)
