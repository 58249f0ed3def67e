"""Runs of some steps, tokens, minutes, or a part of an epoch."""
import pytest
from labml.configs import option
from support.project import SMALL_VALUES

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.runs.checkpoint_folder import CheckpointFolder


class StepsConfigs(MLMConfigs):
    """Has a length of its own by default."""
    max_steps: int = 12


class Loader:
    """Batches of 5 windows."""

    def __init__(self, c):
        self.windows = c.train_tokens[:400].view(25, 16)

    def __len__(self):
        return 5

    def __iter__(self):
        return (self.windows[5 * i:5 * i + 5].T.long() for i in range(5))


class OwnConfigs(MLMConfigs):
    """With a loader of its own."""
    train_loader: Loader = 'own'


@option(OwnConfigs.train_loader, 'own')
def _own(c: OwnConfigs):
    return Loader(c)


@pytest.mark.parametrize('class_, given, steps, epochs', [
    # 31 steps in an epoch of 3960 tokens: 30 of 128, and one of 120
    (MLMConfigs, {'epochs': 0.5}, 16, 1), (MLMConfigs, {'epochs': 2.5}, 78, 3), (MLMConfigs, {'epochs': 1e-6}, 1, 1),
    (MLMConfigs, {'epochs': 2.0}, 62, 2), (MLMConfigs, {'max_tokens': 1}, 1, 1),
    (MLMConfigs, {'max_tokens': 1280}, 10, 1), (MLMConfigs, {'max_tokens': 1281}, 11, 1),
    (MLMConfigs, {'max_tokens': 3952}, 31, 1), (MLMConfigs, {'max_tokens': 3953}, 32, 2),
    (MLMConfigs, {'max_tokens': 1280, 'gradient_accumulation_steps': 4}, 10, 1),
    (MLMConfigs, {'max_minutes': 0.05}, 221, 8), (MLMConfigs, {'max_steps': 40}, 40, 2),
    (OwnConfigs, {'epochs': 2.5}, 12, 3), (OwnConfigs, {'max_minutes': 0.01}, 40, 8),
    # What is given, and not what stands in the class
    (StepsConfigs, {}, 12, 1), (StepsConfigs, {'epochs': 1}, 31, 1), (StepsConfigs, {'max_tokens': 1280}, 10, 1),
    (StepsConfigs, {'max_steps': None, 'epochs': 0.1}, 3, 1)])
def test_a_run_ends_at_its_last_step(build, tracked, fixed_speed, tmp_path, class_, given, steps, epochs):
    conf = build(class_, n_prompts=0, lr_warmup_steps=1, **given)
    assert conf._n_steps == steps
    conf.checkpointer.folder = tmp_path / 'checkpoints'
    conf.run()
    assert (conf.progress.steps, conf.progress.epoch, conf._is_complete) == (steps, epochs, True)
    # With a validation, a checkpoint, and the learning rate at its end
    assert conf.valid_metrics.loss is not None and len(tracked['loss.']) == steps + epochs
    last, _ = CheckpointFolder(tmp_path / 'checkpoints').last()
    assert last.metadata['progress']['steps'] == steps and last.metadata['valid']['loss'] == conf.valid_metrics.loss
    assert steps < 5 or tracked['lr'][-1] < 0.1 * max(tracked['lr'])
    assert conf.progress.fraction_done(conf.train_loader, **conf._run_length) == 1


def test_the_first_losses_do_not_depend_on_the_end(build, tracked):
    losses = []
    for given in ({'epochs': 1}, {'max_steps': 12}, {'epochs': 0.4}, {'max_tokens': 1500}):
        tracked.clear()
        build(lr_schedule='constant', n_prompts=0, **{'transformer.dropout': 0.2}, **given).run()
        losses.append(tracked['loss.'][:-1])
    assert [len(run) for run in losses] == [31, 12, 12, 12]
    assert losses[1] == losses[2] == losses[3] == losses[0][:12]


def test_tokens_are_those_that_were_trained_on(build, tracked, tmp_path):
    """Of packed documents, of a schedule of lengths, and between special tokens."""
    (tmp_path / 'paragraphs.txt').write_text('\n\n'.join('abcdefghijklmnopqrst '[:3 + i % 17] for i in range(400)))
    for values in ({'packing': 'documents', 'text_unit': 'paragraph', 'text_path': str(tmp_path / 'paragraphs.txt')},
                   {'seq_len_schedule': '4:0.3,16'},
                   {'seq_len_schedule': '4:0.3,16', 'is_token_budget_constant': False},
                   {'add_special_tokens': True, 'transformer': 'bert'}):
        conf = build(max_tokens=2000, n_prompts=0, lr_warmup_steps=2, **values)
        counted = []
        after = conf._after_step
        conf.trainer.after_step = lambda: (counted.append(conf.progress.tokens), after())  # noqa: B023
        conf.run()
        assert counted[-2] < 2000 <= counted[-1], values
        assert len(counted) == conf._end_step


@pytest.mark.parametrize('given, message', [
    ({'epochs': 2, 'max_steps': 5}, 'epochs=2 and max_steps=5: only one of epochs, max_steps, max_tokens, max_minutes'),
    ({'max_tokens': 2, 'max_minutes': 5.}, 'max_tokens=2 and max_minutes=5.0: only one'),
    ({'epochs': 1, 'max_steps': 3, 'max_tokens': 2}, 'epochs=1 and max_steps=3 and max_tokens=2: only one')])
def test_two_lengths_are_refused(build, given, message):
    with pytest.raises(UserError) as e:
        build(**given)
    assert message in str(e.value)


def test_two_lengths_as_attributes_are_refused(text_path):
    conf = MLMConfigs()
    conf._set_values({'text_path': text_path, 'max_steps': 5})
    conf.epochs = 2
    with pytest.raises(UserError, match='epochs=2 and max_steps=5: only one'):
        conf.init()


def test_runs_of_earlier_versions_may_have_both(tracked, text_path):
    for given, steps in (({'epochs': 1, 'max_steps': 50}, 31), ({'epochs': 2, 'max_steps': 40}, 40)):
        conf = MLMConfigs()
        conf._set_values({'text_path': text_path, **SMALL_VALUES, 'n_prompts': 0, **given})
        conf._resume_length(None)
        conf.run()
        assert conf._run_length == given and conf.progress.steps == conf._n_steps == steps and conf._is_complete


def test_tokens_of_a_loader_of_your_own_are_not_known(build):
    with pytest.raises(UserError, match='max_tokens is for the built-in training loader.* Give max_steps'):
        build(OwnConfigs, max_tokens=100)


@pytest.mark.parametrize('given', [{'epochs': 0.7}, {'max_tokens': 5000}, {'max_minutes': 0.015}])
@pytest.mark.parametrize('stops', [[(7,)], [(10, True)], [(21,), (22,)]])
def test_runs_resume(train, fixed_speed, tmp_path, given, stops):
    """Bit for bit, from steps and from within the last validation."""
    values = {'lr_warmup_steps': 3, 'transformer.dropout': 0.2, 'masking_schedule': 'linear', 'inner_iterations': 2,
              'seq_len_schedule': '4:0.3,16', **given}
    uninterrupted, conf = train(tmp_path / 'uninterrupted', values)
    assert 20 < conf.progress.steps == conf._n_steps
    resumed = {}
    for i, stop in enumerate([*stops, None]):
        tracks, conf = train(tmp_path / 'resumed', values, stop=stop, resume=i > 0)
        for name, found in tracks.items():
            resumed.setdefault(name, []).extend(found)
    assert resumed == uninterrupted


def test_a_longer_part_of_an_epoch_goes_on_where_the_shorter_ended(train, tmp_path):
    """Half an epoch, which is made 1, and that 1.5: each is longer by half an epoch, 16 steps."""
    steps = []
    for epochs in (0.5, 1, 1.5):
        _, conf = train(tmp_path / 'run', {'epochs': epochs, 'lr_warmup_steps': 1}, resume=bool(steps))
        steps.append(conf.progress.steps)
    assert steps == [16, 32, 48]
    assert conf.progress.left_out == 1.5 and conf._is_complete


def test_another_batch_size_on_resume_keeps_the_tokens(train, tmp_path):
    values = {'max_tokens': 3000, 'lr_warmup_steps': 1}
    train(tmp_path / 'run', values, stop=(10,))
    _, conf = train(tmp_path / 'run', {**values, 'batch_size': 4}, resume=True)
    # 10 steps of 128 tokens, and then of 64
    assert conf.progress.steps == 10 + 27 and 3000 <= conf.progress.tokens < 3064


def test_the_steps_are_part_of_the_snapshot(build, fixed_speed):
    snapshot = take_snapshot(build(max_minutes=0.01, n_prompts=0), experiment='test')
    assert snapshot['fitted'] == {'max_minutes': 0.01, 'max_steps': 40} and snapshot['given']['max_minutes'] == 0.01
    assert take_snapshot(build(max_steps=3, n_prompts=0), experiment='test')['fitted'] is None
