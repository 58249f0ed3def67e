from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.labelled.labels import LabelSet, infer_kind
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.labelled.tagged import Tagged, TaggedRow

PATH = Path('a.csv')


def rows(*labels):
    return Rows([Row('a', label, None, i + 2) for i, label in enumerate(labels)], 0, PATH)


@pytest.mark.parametrize(['labels', 'kind', 'why'], [
    (['a', 'b'], 'single', 'names'),
    (['1', '2', 'a'], 'single', 'names'),
    ([True, False], 'single', 'names'),
    ([1, 2], 'single', 'whole numbers'),
    (['1', '2.0', '-3'], 'single', 'whole numbers'),
    ([1, 2.5], 'number', '2.5 in line 3'),
    (['1', '.5'], 'number', '.5 in line 3'),
    (['1e-3', '2'], 'number', '1e-3 in line 2'),
    (['1', 'nan'], 'number', 'nan in line 3'),
    (['eng', 'nan'], 'single', 'names'),
    (['1_0', '0.5'], 'single', 'names'),
    (['a', ['a', 'b'], []], 'multiple', 'line 3'),
])
def test_what_labels_mean_is_inferred_and_said(labels, kind, why):
    found = infer_kind(rows(*labels))
    assert found[0] == kind and why in found[1]


@pytest.mark.parametrize(['labels', 'names', 'ids'], [
    (['pos', 'neg', 'pos'], ('neg', 'pos'), [1, 0, 1]),
    (['10', '9', '-1'], ('-1', '9', '10'), [2, 1, 0]),
    ([10, 9, 10.], ('9', '10'), [1, 0, 1]),
    ([True, False], ('false', 'true'), [1, 0]),
    (['1', 1, '2'], ('1', '2'), [0, 0, 1]),
    (['nan', '1', '2'], ('1', '2', 'nan'), [2, 0, 1]),
])
def test_classes_have_names_in_order(labels, names, ids):
    found = LabelSet.from_rows(rows(*labels), 'single')
    assert found == LabelSet('single', names)
    assert found.encode(rows(*labels)).tolist() == ids and found.encode(rows(*labels)).dtype == np.int64


@given(st.lists(st.sets(st.sampled_from('abcd')).map(sorted), min_size=2).filter(
    lambda labels: len(set(map(tuple, labels))) > 1))
def test_several_labels_come_back(labels):
    of_lists, of_text = rows(*labels), rows(*(' | '.join(some) for some in labels))
    found = LabelSet.from_rows(of_lists, 'multiple')
    assert found == LabelSet.from_rows(of_text, 'multiple')
    has = found.encode(of_lists)
    assert has.dtype == np.float32 and has.tolist() == found.encode(of_text).tolist()
    assert [[found.names[i] for i in np.flatnonzero(row)] for row in has] == labels


def test_numbers_stay_what_they_are():
    found = LabelSet.from_rows(rows('1', ' -2.5', 3, 0.25), 'number')
    assert found == LabelSet('number') and found.encode(rows('1', ' -2.5', 3, 0.25)).tolist() == [1, -2.5, 3, 0.25]


def test_words():
    tagged = Tagged([TaggedRow(['a', 'b'], ['O', 'B-X'], 1), TaggedRow(['c'], ['O'], 4)], 0, PATH)
    found = LabelSet.from_tagged(tagged)
    assert found == LabelSet('tags', ('B-X', 'O'))
    assert [ids.tolist() for ids in found.encode_tags(tagged)] == [[1, 0], [1]]
    with pytest.raises(UserError, match=r"'B-x' \(line 4\). Known are 'B-X', 'O'. Did you mean `B-X`"):
        found.encode_tags(Tagged([TaggedRow(['c', 'd'], ['O', 'B-x'], 4)], 0, PATH))


def test_unknown_labels_are_named_with_their_lines():
    labels = LabelSet('single', ('negative', 'positive'))
    with pytest.raises(UserError, match=r"a.csv has labels .* in training: 'positiv' \(line 3\), 'x' \(line 5\). Known "
                                        "are 'negative', 'positive'. Did you mean `positive`"):
        labels.encode(rows('positive', 'positiv', 'positiv', 'x'))
    with pytest.raises(UserError, match=r"'4' \(line 6\) and 5 more"):
        labels.encode(rows(*range(10)))


@pytest.mark.parametrize(['labels', 'kind', 'message'], [
    (['a', 'a'], 'single', "all 2 rows of a.csv have the same label, 'a'"),
    ([['a'], ['a', 'a']], 'multiple', 'the same label'),
    (['', ''], 'multiple', 'the same label, none'),
    (['1', '1.0'], 'number', 'the same number, 1'),
    (['1', 'a'], 'number', "line 3 has the label 'a', which is not a number.*task=classification"),
    ([1, True], 'number', 'line 3 .* not a number'),
    (['1', 'nan'], 'number', 'line 3 .* finite'),
    ([1, float('inf')], 'number', 'line 3 .* finite'),
    ([1, 1e39], 'number', 'line 3 .* finite'),
    ([1, 10 ** 400], 'number', 'line 3 .* finite'),
    (['a', ['a']], 'single', 'line 3 has a list of labels, .*task=multilabel'),
    (['a', {'b': 1}], 'single', 'line 3 has the label {.*must be a text'),
    (['a', ['b', None]], 'multiple', 'line 3 has the label None'),
    (list(range(1001)) * 2, 'single', '1,001 different labels in 2,002 rows, .*task=regression.*another label_field'),
    ([str(i) for i in range(25)], 'single', '25 different labels in 25 rows'),
])
def test_labels_to_learn_nothing_from(labels, kind, message):
    with pytest.raises(UserError, match=message):
        LabelSet.from_rows(rows(*labels), kind)


def test_tags_to_learn_nothing_from():
    with pytest.raises(UserError, match="all words of a.csv have the same label, 'O'"):
        LabelSet.from_tagged(Tagged([TaggedRow(['a', 'b'], ['O', 'O'], 1)], 0, PATH))
    with pytest.raises(UserError, match='1,001 different labels'):
        LabelSet.from_tagged(Tagged([TaggedRow(['a'] * 1001, [str(i) for i in range(1001)], 1)], 0, PATH))


def test_few_rows_may_have_a_class_each():
    assert len(LabelSet.from_rows(rows(*range(19)), 'single').names) == 19
