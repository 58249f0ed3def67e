"""Predictions of fine-tuned runs."""
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from support.labelled import animal, several, share, texts, write_rows, write_tagged, write_texts
from support.project import Project

from labml_mlm import load
from labml_mlm.common.errors import UserError
from labml_mlm.labelled.rows import read_rows
from labml_mlm.labelled.tagged import read_tagged
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

SCRIPT = 'from labml_mlm import {0}, train\n\ntrain({0}(), name="test")\n'
# Texts for validation are others than those to train on
LABELS = {'one': animal, 'several': several, 'number': share}
PAIRS = [{'text': first, 'second': second, 'label': 'same' if animal(first) == animal(second) else 'other'}
         for first, second in zip(texts(90), texts(90, seed=2), strict=True)]


@pytest.fixture(scope='session')
def project(fork_server, tmp_path_factory):
    """Runs by their kinds."""
    project = Project(tmp_path_factory.mktemp('fine_tuned'), fork_server)
    files = {name: (write_texts(project.path / f'{name}.jsonl', 60, label),
                    write_texts(project.path / f'{name}-valid.jsonl', 41, label, seed=7))
             for name, label in LABELS.items()}
    files['pairs'] = (write_rows(project.path / 'pairs.jsonl', PAIRS[:60]),
                      write_rows(project.path / 'pairs-valid.jsonl', PAIRS[60:]))
    files['tags'] = (write_tagged(project.path / 'tags.conll', 60),
                     write_tagged(project.path / 'tags-valid.conll', 41, seed=7))
    for name, (train, valid) in files.items():
        project.script.write_text(SCRIPT.format('TaggingConfigs' if name == 'tags' else 'ClassificationConfigs'))
        more = {'pairs': ['pair_field=second', 'transformer=bert', 'seq_len=160'],
                'one': ['add_special_tokens=true', 'pooling=cls', 'seq_len=40']}.get(name, ['seq_len=48'])
        result = project.run(
            f'text_path={train}', f'valid_path={valid}', 'transformer.n_layers=1', 'd_model=16',
            'transformer.n_heads=2', 'batch_size=8', 'valid_batch_size=7', 'epochs=6', 'optimizer.learning_rate=0.01',
            'tokenizer=character' if name == 'one' else 'tokenizer=basic_english', *more, env={'RUN_UUID': name})
        assert result.returncode == 0, result.stderr
    return project


@pytest.fixture
def trained(project):
    """A run, and the figures of its best checkpoint."""
    def trained(name):
        best = CheckpointFolder(project.path / f'logs/test/{name}/checkpoints').best()
        found = load(name, folder=project.path, device='cpu')
        assert found.checkpoint.path == best.path
        return found, best.valid
    return trained


def rows_of(project, name):
    return read_rows(project.path / f'{name}-valid.jsonl').rows


@pytest.mark.parametrize('name', ['one', 'several', 'number', 'pairs'])
def test_predictions_have_the_figures_of_the_validation(project, trained, name):
    classifier, figures = trained(name)
    if name == 'pairs':
        predicted = classifier.predict([(row['text'], row['second']) for row in PAIRS[60:]])
        labels = [row['label'] for row in PAIRS[60:]]
    else:
        rows = rows_of(project, name)
        predicted, labels = classifier.predict([row.text for row in rows]), [row.label for row in rows]
    found = [one.label for one in predicted]
    if name == 'number':
        assert figures['rmse'] == pytest.approx(metrics.root_mean_squared_error(labels, found), rel=1e-5)
        assert figures['pearson'] == pytest.approx(stats.pearsonr(labels, found).statistic, rel=1e-5)
        assert all(one.probabilities is None for one in predicted)
        return
    if name == 'several':
        has = [[[label in of_text for label in classifier.labels] for of_text in part] for part in (labels, found)]
        assert figures['accuracy'] == pytest.approx(metrics.accuracy_score(*map(np.array, has)))
        assert figures['f1_micro'] == pytest.approx(metrics.f1_score(*map(np.array, has), average='micro'))
        assert all({label for label, p in one.probabilities.items() if p > 0.5} == set(one.label) for one in predicted)
    else:
        assert figures['accuracy'] == metrics.accuracy_score(labels, found)
        assert figures['matthews'] == pytest.approx(metrics.matthews_corrcoef(labels, found))
        assert all(max(one.probabilities, key=one.probabilities.get) == one.label for one in predicted)
        assert all(sum(one.probabilities.values()) == pytest.approx(1) for one in predicted)
        likelihoods = [np.log(one.probabilities[label]) for one, label in zip(predicted, labels, strict=True)]
        assert figures['loss'] == pytest.approx(-np.mean(likelihoods), rel=1e-4)
    assert all(tuple(one.probabilities) == classifier.labels for one in predicted)


def test_tags_have_the_figures_of_the_validation(project, trained):
    tagger, figures = trained('tags')
    rows = read_tagged(project.path / 'tags-valid.conll').rows
    predicted = tagger.predict([row.words for row in rows])
    assert [len(one.label) for one in predicted] == [len(row.words) for row in rows]
    pairs = [(true, found) for row, one in zip(rows, predicted, strict=True)
             for true, found in zip(row.labels, one.label, strict=True) if found is not None]
    assert figures['accuracy'] == metrics.accuracy_score(*zip(*pairs, strict=True))
    assert all(1 / 3 <= p <= 1 for one in predicted for p in one.probabilities)


def test_longer_texts_are_cut_and_words_without_tokens_have_no_label(trained):
    classifier, _ = trained('one')
    long = 'the quick brown fox jumps over the lazy dog'
    # 40 tokens, two of which are special
    assert classifier.predict([long]) == classifier.predict([long[:38]]) != classifier.predict([long[:37]])
    tagger, _ = trained('tags')
    [one] = tagger.predict([['fox'] * 60])
    assert None not in one.label[:48] and set(one.label[48:]) == {None}


def test_order_and_number_of_texts_do_not_matter(project, trained):
    classifier, _ = trained('number')
    given = [row.text for row in rows_of(project, 'number')]
    together = [one.label for one in classifier.predict(given)]
    assert [one.label for one in classifier.predict(given[::-1])] == pytest.approx(together[::-1], rel=1e-5)
    assert [classifier.predict([text])[0].label for text in given[:5]] == pytest.approx(together[:5], rel=1e-5)
    assert classifier.predict([]) == []


@pytest.mark.parametrize('name, given, message', [
    ('one', 'a text', 'predict takes a list of texts'), ('one', [('a', 'b')], 'each text must be a string'),
    ('one', ['the fox', ''], 'finds no token'), ('pairs', ['a text'], 'trained on pairs of texts'),
    ('tags', ['some words'], 'each text must be a list of words'), ('tags', [[]], 'each text must be a list of words')])
def test_what_is_no_text_is_refused(trained, name, given, message):
    with pytest.raises(UserError, match=message):
        trained(name)[0].predict(given)


def test_there_is_no_head_for_tokens(trained):
    classifier, _ = trained('one')
    with pytest.raises(UserError, match='was fine-tuned for classification: it predicts labels, and no masked tokens'):
        classifier.require_head()
    assert classifier.encode(['the fox', 'a dog']).shape == (2, 16)
