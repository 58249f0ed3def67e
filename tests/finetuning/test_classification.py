import json
import random

import numpy as np
import pytest
import torch
from support.labelled import animal, several, share, texts, write_rows

from labml_mlm.common.errors import UserError
from labml_mlm.finetuning.heads import AnyLabels, Number, OneLabel


def write(tmp_path, labels, **more):
    """Texts with these labels, and perhaps more fields."""
    return str(write_rows(tmp_path / 'given.jsonl', [
        {'text': text, 'label': label, **{name: values[i] for name, values in more.items()}}
        for i, (text, label) in enumerate(zip(texts(len(labels)), labels, strict=True))]))


@pytest.mark.parametrize('label, kind, names, criterion', [
    (animal, 'single', ('fox', 'none'), OneLabel), (lambda text: len(text) % 3, 'single', ('0', '1', '2'), OneLabel),
    (lambda text: 'fox' in text, 'single', ('false', 'true'), OneLabel),
    (several, 'multiple', ('dog', 'fox', 'lazy'), AnyLabels), (share, 'number', (), Number)])
def test_task_follows_from_the_labels(fine_tune, label, kind, names, criterion):
    conf = fine_tune(label=label)
    assert (conf._labels.kind, conf._labels.names) == (kind, names)
    assert type(conf.model.criterion) is criterion
    assert conf.model.generator.output.out_features == max(1, len(names))


@pytest.mark.parametrize('task, label, kind', [
    ('regression', lambda text: len(text), 'number'), ('classification', lambda text: len(text) % 3, 'single'),
    ('multilabel', animal, 'multiple')])
def test_task_may_be_given(fine_tune, task, label, kind):
    assert fine_tune(label=label, task=task)._labels.kind == kind


@pytest.mark.parametrize('values, message', [
    ({'task': 'regresion'}, 'task=regresion: it must be auto, classification, multilabel or regression. '
                            'Did you mean `regression`?'),
    ({'pooling': 'max'}, 'pooling=max: it must be mean or cls'),
    ({'pooling': 'cls'}, r'pooling=cls takes the hidden state of \[CLS\], and there is none before the texts'),
    ({'task': 'regression'}, r"line 1 has the label '(fox|none)', which is not a number"),
    ({'task': 'classification', 'label': several}, 'line 1 has a list of labels, .*: for several, use task=multilabel'),
    ({'pair_field': 'second'}, r'line 1 has no field `second` \(pair_field\)')])
def test_what_cannot_be_is_refused(fine_tune, values, message):
    with pytest.raises(UserError, match=message):
        fine_tune(**values)


def test_balanced_weights_are_those_of_the_rows_to_train_on(fine_tune, tmp_path):
    labels = ['rare'] * 10 + ['often'] * 30 + ['most'] * 60
    random.Random(0).shuffle(labels)
    conf = fine_tune(text_path=write(tmp_path, labels), class_weights='balanced')
    found = [row.label for row in conf._rows[0].rows]
    assert conf.model.criterion.weight.tolist() == pytest.approx(
        [len(found) / (3 * found.count(name)) for name in ('most', 'often', 'rare')])
    assert fine_tune(text_path=write(tmp_path, labels)).model.criterion.weight is None


def test_a_label_that_comes_once_has_a_weight(fine_tune, tmp_path):
    conf = fine_tune(text_path=write(tmp_path, ['once'] + ['a', 'b'] * 20), class_weights='balanced')
    assert conf.model.criterion.weight.isfinite().all()


@pytest.mark.parametrize('scale', [1e-6, 1., 1e30])
def test_regression_knows_mean_and_standard_deviation_of_training(fine_tune, tmp_path, scale):
    values = [scale * (100 + i ** 2 / 7) for i in range(60)]
    conf = fine_tune(text_path=write(tmp_path, values), task='regression')
    found = np.array([row.label for row in conf._rows[0].rows])
    criterion = conf.model.criterion
    assert criterion.mean.item() == pytest.approx(found.mean(), rel=1e-6)
    assert criterion.std.item() == pytest.approx(found.std(), rel=1e-6)
    batch = next(iter(conf.valid_loader))
    output = conf.model.eval()(batch.tokens, batch.labels, padding_mask=batch.key_padding)
    # About 1, as a new head predicts nearly the mean
    assert 0.1 < output.loss.item() < 10


def test_numbers_that_the_precision_cannot_tell_apart_are_refused(fine_tune, tmp_path):
    with pytest.raises(UserError, match='have the same number'):
        fine_tune(text_path=write(tmp_path, [1.7e9 + i / 100 for i in range(60)]))


def test_pairs_have_two_segments_and_order_matters(fine_tune, tmp_path):
    rows = write(tmp_path, [i % 2 for i in range(40)], second=texts(40, seed=9))
    conf = fine_tune(text_path=rows, pair_field='second', transformer='bert', seq_len=160)
    examples = conf.train_loader.windows
    batch = examples.batch(np.array([0]))
    row, special = conf._rows[0].rows[0], conf.tokenizer.special
    ids = batch.tokens[:, 0].tolist()
    first, second = (conf.tokenizer.encode(text).tolist() for text in (row.text, row.pair))
    assert ids == [special.cls, *first, special.sep, *second, special.sep]
    assert batch.segment_ids[:, 0].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    conf.model.eval()
    with_segments = conf.model.predict(batch.tokens, segment_ids=batch.segment_ids)
    assert not torch.allclose(with_segments, conf.model.predict(batch.tokens))


def test_transformer_without_segments_trains_on_pairs(fine_tune, tmp_path, tracked):
    rows = write(tmp_path, [i % 2 for i in range(40)], second=texts(40, seed=9))
    conf = fine_tune(text_path=rows, pair_field='second', epochs=1)
    assert conf.model.n_segments == 1
    conf.run()
    assert len(tracked['loss.']) == 5 + 1


@pytest.mark.parametrize('n, least', [(50, 0.4), (200, 0.8)])
def test_few_rows_are_enough_to_learn(fine_tune, n, least, tracked):
    """Which texts are about a fox, from random weights, in as many epochs as there are by default."""
    conf = fine_tune(n=n, tokenizer='basic_english', valid_fraction=0.3, **{'optimizer.learning_rate': 0.01})
    conf.run()
    assert tracked['matthews.'][-1] > least


def test_numbers_that_are_the_same_but_for_those_in_validation_are_refused(fine_tune, tmp_path):
    path = tmp_path / 'numbers.jsonl'
    path.write_text(''.join(json.dumps({'text': f'text {i}', 'label': 0.5 * (i == 0)}) + '\n' for i in range(20)))
    outcomes = set()
    for seed in range(30):
        try:
            conf = fine_tune(text_path=str(path), task='regression', seed=seed, tokenizer='character')
        except UserError as e:
            assert 'to train on have the same number, 0: there is nothing to learn' in str(e)
            outcomes.add('refused')
        else:
            assert conf.model.criterion.std > 0
            outcomes.add('built')
    assert outcomes == {'refused', 'built'}
