from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.labelled.split import split_rows
from labml_mlm.labelled.tagged import Tagged, TaggedRow


def rows(pairs):
    return Rows([Row(text, label, None, i + 1) for i, (text, label) in enumerate(pairs)], 3, Path('a.csv'))


def split(pairs, valid_fraction=0.1, *, kind='single', seed=1):
    source = rows(pairs)
    parts = split_rows(source, labels=LabelSet.from_rows(source, kind), valid_fraction=valid_fraction, seed=seed)
    return [[(row.text, row.label) for row in part.rows] for part in parts]


MANY = [(f'text {i}', 'ab'[i % 2]) for i in range(200)]


@pytest.mark.parametrize('valid_fraction, n_valid', [(0.1, 20), (0.25, 50), (0.004, 1), (0.9, 180)])
def test_a_fraction_of_the_rows_is_for_validation(valid_fraction, n_valid):
    train, valid = split(MANY, valid_fraction)
    assert len(valid) == n_valid and sorted(train + valid) == sorted(MANY)
    # In the order of the file
    assert [row for row in MANY if row in set(train)] == train


def test_the_seed_determines_them():
    assert split(MANY) == split(MANY) != split(MANY, seed=2)


def test_rows_that_come_stay_where_they_are():
    """As few as there can be change sides when a file becomes longer."""
    before, after = set(split(MANY)[1]), set(split([*MANY, ('a new one', 'a')])[1])
    assert len(before ^ after) <= 2


@given(st.lists(st.tuples(st.sampled_from('uvwxyz'), st.sampled_from('abc')), min_size=2, max_size=30),
       st.floats(0.05, 0.95))
def test_no_text_is_on_both_sides_and_no_label_in_validation_alone(pairs, valid_fraction):
    if len({label for _, label in pairs}) < 2:
        return
    try:
        train, valid = split(pairs, valid_fraction)
    except UserError as e:
        assert 'leaves nothing to validate on' in str(e)
        return
    assert train and valid and sorted(train + valid) == sorted(pairs)
    assert not {text for text, _ in train} & {text for text, _ in valid}
    assert {label for _, label in train} == {label for _, label in pairs}


def test_a_label_that_comes_once_is_trained_on():
    rare = [(f'text {i}', f'label {i}') for i in range(200, 210)]
    for seed in range(9):
        train, valid = split(MANY + rare, seed=seed)
        assert len(valid) == 21 and set(rare) <= set(train)


def test_numbers_and_any_labels():
    numbers = [(f'text {i}', i / 7) for i in range(50)]
    assert len(split(numbers, kind='number')[1]) == 5
    several = [(f'text {i}', ['a'] * (i % 2) + ['b'] * (i % 3) + ['once'] * (i == 9)) for i in range(50)]
    for seed in range(9):
        train, valid = split(several, kind='multiple', seed=seed)
        assert len(valid) == 5 and 'once' in {name for _, names in train for name in names}


def test_words():
    sentences = [TaggedRow(['a', str(i)], ['O', 'B-X' if i else 'B-Y'], i + 1) for i in range(40)]
    tagged = Tagged(sentences, 0, Path('a.bio'))
    for seed in range(9):
        train, valid = split_rows(tagged, labels=LabelSet.from_tagged(tagged), valid_fraction=0.2, seed=seed)
        assert len(valid.rows) == 8 and tagged.rows[0] in train.rows


def test_rows_without_text_are_counted_once():
    train, valid = split_rows(rows(MANY), labels=LabelSet('single', ('a', 'b')), valid_fraction=0.1, seed=1)
    assert (train.n_empty, valid.n_empty) == (3, 0)


@pytest.mark.parametrize('pairs', [MANY[:4], [('same', 'a'), ('same', 'b')] * 20])
def test_too_few_are_refused(pairs):
    with pytest.raises(UserError) as e:
        split(pairs)
    assert str(e.value) == (f'a.csv: valid_fraction=0.1 of {len(pairs)} rows leaves nothing to validate on: give a '
                            'valid_path, or more rows')
