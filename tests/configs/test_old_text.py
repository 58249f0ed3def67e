"""Old text: a second validation, and windows among those of the training text."""
import contextlib
import json

import numpy as np
import pytest
import torch
from labml.configs import option
from support.project import assert_clean_failure, values_of

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.data.replay import MixedWindows

OLD = 'pack my box with five dozen liquor jugs\n' * 60


@pytest.fixture
def old_path(tmp_path):
    """A folder of two documents."""
    folder = tmp_path / 'old'
    folder.mkdir()
    for i in range(2):
        (folder / f'{i}.txt').write_text(OLD[i:])
    return str(folder)


def validate(conf, validator):
    # labml shows it in a loop only
    for _ in conf.progress_view.epochs(0, 1):
        with conf.mode.update(is_train=False):
            validator()


def test_validation_on_old_text_is_that_of_valid_path(build, tracked, old_path):
    conf, twin = build(old_path=old_path), build(valid_path=old_path)
    for one in (conf, twin):
        one.model.load_state_dict(conf.model.state_dict())
    validate(twin, twin.validator)
    validate(conf, conf.validator)
    of_new = conf.valid_metrics.values
    for _ in range(2):
        # The same masks each time
        validate(conf, conf.old_validator)
        assert conf.old_metrics.values == twin.valid_metrics.values
    # And those of the new text do not depend on it
    assert conf.valid_metrics.values == of_new != conf.old_metrics.values
    validate(conf, conf.validator)
    assert conf.valid_metrics.values == of_new


def test_training_does_not_depend_on_old_text_that_it_is_validated_on(build, tracked, old_path):
    losses = []
    for values in ({}, {'old_path': old_path}):
        tracked.clear()
        conf = build(epochs=2, n_prompts=0, **{**values, 'transformer.dropout': 0.2})
        conf.run()
        # At each validation, `loss.valid` and then `loss.old`
        losses.append([loss for i, loss in enumerate(tracked['loss.']) if i not in (32, 65)] if values else
                      list(tracked['loss.']))
        assert len(tracked['loss.']) == 2 * (32 + bool(values))
    assert losses[0] == losses[1]
    assert conf.old_metrics.loss == tracked['loss.'][-1] != conf.valid_metrics.loss == tracked['loss.'][-2]


def test_without_old_text_there_is_no_second_validation(build):
    conf = build()
    assert conf.old_validator is None and conf.old_loader is None and conf.old_metrics.values is None
    assert not isinstance(conf.train_loader.windows, MixedWindows)


def tokens_of(loader, epoch):
    batches = [batch if isinstance(batch, torch.Tensor) else batch.tokens for batch in loader.batches(epoch)]
    return torch.cat(batches, 1)


@pytest.mark.parametrize('packing', ['stream', 'documents'])
def test_replay_mixes_windows_of_old_text_into_each_epoch(build, old_path, packing):
    plain, conf = build(packing=packing), build(packing=packing, replay_path=old_path, replay_fraction=0.25)
    n_main, n = len(plain.train_loader.windows), conf.train_loader.n_windows
    assert n == n_main + round(n_main / 3)
    # The new text is a single document, and a ring
    ring = bytes(conf.train_tokens.tolist()) * 2
    windows = [bytes(column[column != conf.padding_token].tolist()) for column in tokens_of(conf.train_loader, 0).T]
    assert sum(window in ring for window in windows) == n_main
    assert isinstance(conf.train_loader.windows.replay, PackedDocuments) == (packing == 'documents')


def test_without_replay_batches_are_as_ever(build):
    conf = build()
    twin = TrainLoader(conf.packing('train'), batch_size=8, seed=1)
    assert torch.equal(tokens_of(conf.train_loader, 3), tokens_of(twin, 3))


@contextlib.contextmanager
def refused(message):
    with pytest.raises((UserError, OSError), match=message):
        yield


class OwnLoader(MLMConfigs):
    train_loader = 'own'


@option(OwnLoader.train_loader, 'own')
def _own(c: OwnLoader):
    return TrainLoader(c.packing('train'), batch_size=8, seed=1)


def test_what_is_wrong_is_refused(build, tmp_path, old_path):
    with refused('replay_fraction=0.2 is for a replay_path, and there is none'):
        build(replay_fraction=0.2)
    for name in ('old_path', 'replay_path'):
        with refused('none.txt cannot be read: No such file or directory'):
            build(**{name: str(tmp_path / 'none.txt')})
    with refused('replay_path is for the built-in training loader, and yours would ignore it'):
        build(OwnLoader, replay_path=old_path)
    (tmp_path / 'short.txt').write_text('the fox')
    with refused('the text of replay_path is too short: it has less than seq_len=16 tokens'):
        build(replay_path=str(tmp_path / 'short.txt'))
    # It is one window of a validation
    assert len(build(old_path=str(tmp_path / 'short.txt')).old_loader) == 1
    (tmp_path / 'other.txt').write_text('eee')
    with refused('the text of old_path has no token that can be masked'):
        build(old_path=str(tmp_path / 'other.txt'), no_mask_tokens=np.arange(5, 13).tolist())


def test_run_with_old_texts(project, old_path):
    """Its screen, its log and its checkpoints; a resumed run must have the same texts."""
    arguments = ['old_path=old', 'replay_path=old', 'replay_fraction=0.5', 'epochs=2']
    result = project.train(*arguments, env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    [folder] = project.runs
    values = values_of(folder / 'log.jsonl')
    for name in ('loss.old', 'accuracy.old'):
        # At the steps of the validations
        assert [step for step, _ in values[name]] == [step for step, _ in values[name.replace('old', 'valid')]]
    [last] = [line for line in result.stdout.splitlines() if line.startswith('Validation loss ')]
    assert f'on old text {values["loss.old"][-1][1]:.4f} and {values["accuracy.old"][-1][1]:.4f}' in last
    assert result.stdout.count('loss.old: ') == 2
    assert 'An epoch reads the text of replay_path ' in result.stdout
    metadata = [json.loads(path.read_text()) for path in folder.glob('checkpoints/*/checkpoint.json')]
    assert {one['valid']['loss'] for one in metadata} == {value for _, value in values['loss.valid']}
    snapshot = json.loads((folder / 'configs.json').read_text())
    assert snapshot['given']['old_path'] == snapshot['given']['replay_path'] == old_path

    result = project.run('--resume', 'feed', 'epochs=3')
    assert result.returncode == 0, result.stderr
    assert len(values_of(folder / 'log.jsonl')['loss.old']) == 3
    (project.path / 'old/0.txt').write_text('another text, which is not the one that there was')
    result = project.run('--resume', 'feed', 'epochs=4')
    assert_clean_failure(result, 2, 'the text of old_path is not that of the run')
