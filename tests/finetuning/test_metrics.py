import math

import numpy as np
import pytest
import torch
from labml import tracker
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn import metrics as sk

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Columns
from labml_mlm.finetuning.heads import TaskOutput
from labml_mlm.finetuning.metrics import TaskMetrics, _of_all, metrics_of
from labml_mlm.labelled.examples import NO_LABEL

RNG = np.random.default_rng(5)
CLASSES = RNG.integers(0, 3, 40), RNG.integers(0, 3, 40)
SEVERAL = RNG.integers(0, 2, (40, 4)), RNG.integers(0, 2, (40, 4))
NUMBERS = RNG.normal(3, 2, 40), RNG.normal(2, 3, 40)
ENTITIES = 'B-A', 'I-A', 'B-B', 'I-B', 'O'


@pytest.fixture(autouse=True)
def tracked(monkeypatch):
    values = {}
    monkeypatch.setattr(tracker, 'add', values.__setitem__)
    return values


def validate(kind, true, predicted, *, names=(), batch_size=40, losses=None, best_by=None):
    """Metrics after a validation on labels, `[n, n_texts]`, in batches."""
    metrics = TaskMetrics(kind, names, best_by=best_by)
    metrics.on_epoch_start()
    true, predicted = (torch.as_tensor(part) for part in (true, predicted))
    for begin in range(0, true.shape[1], batch_size):
        labels = true[:, begin:begin + batch_size]
        loss = torch.tensor(float(labels.shape[1]) if losses is None else sum(losses[begin:begin + batch_size]))
        n_labels = (labels != NO_LABEL).sum()
        metrics.add(TaskOutput(loss / n_labels, loss, n_labels, n_labels, predicted[:, begin:begin + batch_size]),
                    labels, None)
    metrics.on_epoch_end()
    return metrics


@pytest.mark.parametrize('batch_size', [40, 7, 1])
def test_classes(batch_size):
    true, predicted = CLASSES
    found = validate('single', true[None], predicted[None], names=('a', 'b', 'c'), batch_size=batch_size).figures
    assert found == pytest.approx({'loss': 1., 'accuracy': sk.accuracy_score(true, predicted),
                                   'f1_macro': sk.f1_score(true, predicted, average='macro'),
                                   'matthews': sk.matthews_corrcoef(true, predicted)})


@pytest.mark.parametrize('batch_size', [40, 7, 1])
def test_any_labels(batch_size):
    true, predicted = SEVERAL
    found = validate('multiple', true.T, predicted.T, names=tuple('abcd'), batch_size=batch_size).figures
    # The loss is a mean over labels
    assert found == pytest.approx({'loss': 1 / 4, 'f1_micro': sk.f1_score(true, predicted, average='micro'),
                                   'f1_macro': sk.f1_score(true, predicted, average='macro'),
                                   'accuracy': sk.accuracy_score(true, predicted)})


@pytest.mark.parametrize('batch_size', [40, 7, 1])
def test_numbers(batch_size):
    true, predicted = NUMBERS
    found = validate('number', true[None], predicted[None], batch_size=batch_size).figures
    assert found == pytest.approx({'loss': 1., 'spearman': stats.spearmanr(true, predicted).statistic,
                                   'pearson': stats.pearsonr(true, predicted).statistic,
                                   'rmse': math.sqrt(((true - predicted) ** 2).mean())})


def tags(n=30):
    """Sentences of different lengths: true and predicted ids of each, and both as columns with padding between."""
    lengths = RNG.integers(1, 9, n)
    true, predicted = ([RNG.integers(0, 5, length) for length in lengths] for _ in range(2))
    # Words have two tokens, and the first one has the label
    columns = np.full((18, n), NO_LABEL), np.full((18, n), 3)
    for i, (ours, theirs) in enumerate(zip(true, predicted, strict=True)):
        columns[0][1:1 + 2 * len(ours):2, i], columns[1][1:1 + 2 * len(ours):2, i] = ours, theirs
    return true, predicted, columns


@pytest.mark.parametrize('batch_size', [30, 7, 1])
def test_entities(batch_size):
    true, predicted, columns = tags()
    found = validate('tags', *columns, names=ENTITIES, batch_size=batch_size).figures
    joined = np.concatenate(true), np.concatenate(predicted)
    named = ([[ENTITIES[i] for i in sentence] for sentence in part] for part in (true, predicted))
    assert found == pytest.approx({
        'loss': 30 / len(joined[0]), 'entity_f1': entity_f1(*named), 'accuracy': sk.accuracy_score(*joined),
        'f1_macro': sk.f1_score(*joined, average='macro')})
    assert 0 < found['entity_f1'] < 0.5


@pytest.mark.parametrize('scheme', ['BIOES', 'BIOLU'])
def test_entities_of_one_word_and_last_words(scheme):
    b, i, o, last, single = scheme
    names = (f'{b}-X', f'{i}-X', o, f'{last}-X', f'{single}-X')
    true, predicted = [4, 4, 2, 0, 1, 3, 0, 3], [4, 2, 2, 0, 1, 3, 0, 1]
    found = validate('tags', np.array(true)[:, None], np.array(predicted)[:, None], names=names, losses=[1.]).figures
    # Of four entities two are found, and a third one is too long, or has no end
    assert found['entity_f1'] == pytest.approx(entity_f1(
        [[f'{"BIOES"[i]}-X' if i != 2 else 'O' for i in true]], [[f'{"BIOES"[i]}-X' if i != 2 else 'O'
                                                                  for i in predicted]]))


def test_label_that_nothing_has_or_is_predicted_does_not_count():
    """As in scikit-learn, where labels are those of either side."""
    found = validate('single', [[0, 0, 1]], [[0, 1, 1]], names=('a', 'b', 'never')).figures
    assert found['f1_macro'] == pytest.approx(2 / 3)


@pytest.mark.parametrize('kind, names, expected', [
    ('single', ('a', 'b'), ['accuracy', 'f1_macro', 'matthews']),
    ('multiple', ('a', 'b'), ['f1_micro', 'f1_macro', 'accuracy']),
    ('number', (), ['spearman', 'pearson', 'rmse']),
    ('tags', ENTITIES, ['entity_f1', 'accuracy', 'f1_macro']),
    ('tags', ('B-LOC', 'U-LOC', 'O'), ['entity_f1', 'accuracy', 'f1_macro']),
    ('tags', ('NOUN', 'O', 'VERB'), ['accuracy', 'f1_macro']),
    ('tags', ('NP-B', 'O'), ['accuracy', 'f1_macro']),
])
def test_metrics_follow_the_labels_and_the_first_is_the_one_to_choose_by(kind, names, expected):
    assert list(metrics_of(kind, names)) == expected
    assert TaskMetrics(kind, names).best_by == expected[0]


def test_another_metric_is_refused_with_those_that_there_are():
    with pytest.raises(UserError) as e:
        TaskMetrics('single', ('a', 'b'), best_by='acuracy')
    assert str(e.value) == ('metric=acuracy: for these labels it must be accuracy, f1_macro, matthews or loss. '
                            'Did you mean `accuracy`?')
    with pytest.raises(UserError, match='metric=entity_f1: for these labels it must be accuracy, f1_macro or loss'):
        TaskMetrics('tags', ('NOUN', 'VERB'), best_by='entity_f1')


@pytest.mark.parametrize('kind, best_by, sign', [
    ('single', 'accuracy', -1), ('single', 'loss', 1), ('number', 'rmse', 1), ('number', 'pearson', -1)])
def test_best_is_the_highest_or_the_lowest(kind, best_by, sign):
    true, predicted = CLASSES if kind == 'single' else NUMBERS
    metrics = validate(kind, true[None], predicted[None], names=('a', 'b', 'c'), best_by=best_by)
    assert metrics.to_minimize == sign * metrics.figures[best_by]
    assert metrics.values == {**metrics.figures, 'best_by': best_by, 'is_best_highest': sign < 0}
    metrics.clear()
    assert metrics.to_minimize is metrics.values is metrics.loss is None


@pytest.mark.parametrize('true, predicted', [([1., 2., 3.], [2., 2., 2.]), ([1.], [2.]), ([1., 2.], [math.nan, 1.])])
def test_correlations_that_are_not_defined_are_nan(true, predicted, recwarn):
    found = validate('number', [true], [predicted]).figures
    assert math.isnan(found['spearman']) and math.isnan(found['pearson'])
    assert math.isnan(found['rmse']) == math.isnan(predicted[0])
    assert not recwarn


def test_all_figures_are_tracked(tracked):
    metrics = validate('single', CLASSES[0][None], CLASSES[1][None], names=('a', 'b', 'c'))
    assert tracked == {f'{name}.': value for name, value in metrics.figures.items()}
    assert list(metrics.summary) == ['Validation loss', 'accuracy', 'f1_macro', 'matthews']


def test_columns_of_all_ranks_make_a_batch():
    labels = torch.arange(15).view(3, 5)
    parts = labels[:, :2], labels[:, 2:5], labels[:, 5:]
    found = [_of_all(part, Columns(first, 5)) for part, first in zip(parts, (0, 2, 5), strict=True)]
    assert torch.equal(sum(found), labels)


def test_one_label_that_is_there_or_not():
    """What is not there is no label of its own."""
    metrics = metrics_of('multiple', ['spam'])
    true, predicted = [np.array([float(i)]) for i in (1, 0, 0, 0)], [np.array([0.])] * 4
    assert {name: metric.score(true, predicted, ['spam']) for name, metric in metrics.items()} == {
        'f1_micro': 0, 'f1_macro': 0, 'accuracy': 0.75}
    predicted = [np.array([float(i)]) for i in (1, 1, 0, 0)]
    assert metrics['f1_macro'].score(true, predicted, ['spam']) == pytest.approx(2 / 3)
