"""Rounds of training and validation: custom loaders, labml_helpers' state modules and trainer, and progress views."""
import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from labml.configs import option
from labml_helpers.metrics import StateModule
from labml_helpers.metrics.accuracy import Accuracy
from labml_helpers.train_valid import BatchIndex, Trainer

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.runs.checkpoint_folder import CheckpointFolder


class Plain:
    """A loader without a state."""

    def __init__(self, c):
        self.windows = c.train_tokens[:1600].view(100, 16)

    def __len__(self):
        return 30

    def __iter__(self):
        return (self.windows[3 * i:3 * i + 3].T.long() for i in range(30))


class Stateful(Plain):
    """A loader that draws its order and can start at a position, like torch's stateful loaders."""
    epoch, position = 0, 0

    def state_dict(self):
        return {'epoch': self.epoch, 'position': torch.tensor(self.position)}

    def load_state_dict(self, state):
        self.epoch, self.position = state['epoch'], state['position'].item()

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(30)
        for i in order[self.position:]:
            self.position += 1
            if self.position == 30:
                self.epoch, self.position = self.epoch + 1, 0
            yield self.windows[3 * i:3 * i + 3].T.long()


class LoaderConfigs(MLMConfigs):
    """With custom loaders."""
    train_loader: Plain = 'plain'
    valid_loader: Any = 'all_windows'


@option(LoaderConfigs.train_loader, 'plain')
def _plain(c: LoaderConfigs):
    return Plain(c)


@option(LoaderConfigs.train_loader, 'stateful')
def _stateful(c: LoaderConfigs):
    return Stateful(c)


@option(LoaderConfigs.train_loader, 'torch_shuffled')
def _torch_shuffled(c: LoaderConfigs):
    return torch.utils.data.DataLoader(Plain(c).windows, batch_size=3, shuffle=True,
                                       collate_fn=lambda windows: torch.stack(windows, dim=1).long())


@option(LoaderConfigs.train_loader, 'torch_in_order')
def _torch_in_order(c: LoaderConfigs):
    return torch.utils.data.DataLoader(Plain(c).windows, batch_size=3,
                                       collate_fn=lambda windows: torch.stack(windows, dim=1).long())


@pytest.mark.parametrize('train_loader', ['plain', 'stateful', 'torch_shuffled', 'torch_in_order'])
@pytest.mark.parametrize('stops', [[(7,)], [(15, True)], [(30, True)], [(44,), (45,)]])
def test_resume_with_custom_loaders(assert_resumes_identically, train_loader, stops):
    assert_resumes_identically({'train_loader': train_loader, 'transformer.dropout': 0.2}, stops, LoaderConfigs)


class Endless(Plain):
    """Draws batches without end; its length says how many make an epoch."""

    def __iter__(self):
        return (self.windows[i % 90:i % 90 + 3].T.long() for i in itertools.count())


class Short(Plain):
    """Has fewer batches than its length says."""

    def __iter__(self):
        return itertools.islice(super().__iter__(), 20)


class Empty(Plain):
    """Has no batches."""

    def __len__(self):
        return 0

    def __iter__(self):
        return iter(())


@option(LoaderConfigs.train_loader, 'endless')
@option(LoaderConfigs.valid_loader, 'endless')
def _endless(c: LoaderConfigs):
    return Endless(c)


class Stream:
    """Batches that are drawn as they come; it does not know how many they are."""

    def __init__(self, c):
        self.loader = Plain(c)

    def __iter__(self):
        order = torch.randperm(30)
        return (batch for _, batch in sorted(zip(order.tolist(), self.loader, strict=True), key=lambda pair: pair[0]))


class TorchStream(torch.utils.data.IterableDataset):
    """A stream for torch's loader, whose `len` is an error then."""

    def __init__(self, c):
        self.stream = Stream(c)

    def __iter__(self):
        return iter(self.stream)


@option(LoaderConfigs.train_loader, 'stream')
@option(LoaderConfigs.valid_loader, 'stream')
def _stream(c: LoaderConfigs):
    return Stream(c)


@option(LoaderConfigs.train_loader, 'torch_stream')
def _torch_stream(c: LoaderConfigs):
    return torch.utils.data.DataLoader(TorchStream(c), batch_size=None)


@option(LoaderConfigs.train_loader, 'once')
@option(LoaderConfigs.valid_loader, 'once')
def _once(c: LoaderConfigs):
    return iter(Plain(c))


@option(LoaderConfigs.train_loader, 'short')
def _short(c: LoaderConfigs):
    return Short(c)


@option(LoaderConfigs.train_loader, 'empty')
@option(LoaderConfigs.valid_loader, 'empty')
def _empty(c: LoaderConfigs):
    return Empty(c)


def test_epoch_of_an_endless_loader_is_its_length(build, tracked):
    conf = build(LoaderConfigs, train_loader='endless', valid_loader='endless', epochs=2, inner_iterations=2,
                 n_prompts=0)
    conf.run()
    assert (conf.progress.steps, conf.progress.epoch) == (60, 2)
    assert len(tracked['lr']) == 60 and len(tracked['loss.']) == 60 + 4


def test_loader_that_ends_early_is_an_error(build, tracked):
    conf = build(LoaderConfigs, train_loader='short', epochs=2, inner_iterations=2, n_prompts=0)
    with pytest.raises(UserError, match='the training loader ended after 20 batches, and its length is 30'):
        conf.run()
    assert conf.progress.steps == 20


@pytest.mark.parametrize('train_loader, max_steps', [
    ('stream', 70), ('torch_stream', 70), ('stream', 20), ('stateful', 70), ('shuffled_windows', 70),
    ('shuffled_windows', 31)])
@pytest.mark.parametrize('stops', [[(7,)], [(15, True)], [(20, True)], [(16,), (17,)]])
def test_runs_of_a_number_of_steps_resume(assert_ends_and_resumes, train_loader, max_steps, stops):
    """With any loader, whether it has a length or not; also if it is stopped before the last validation."""
    assert_ends_and_resumes(train_loader, max_steps, stops)


@pytest.fixture
def assert_ends_and_resumes(train, tmp_path):
    def check(train_loader, max_steps, stops):
        values = {'train_loader': train_loader, 'max_steps': max_steps, 'lr_warmup_steps': 5,
                  'masking_schedule': 'linear'}
        uninterrupted, conf = train(tmp_path / 'uninterrupted', values, LoaderConfigs)
        assert conf.progress.steps == max_steps and conf._is_complete
        assert len(uninterrupted['lr']) == max_steps
        # Schedules fit it
        rates, masked = uninterrupted['lr'], uninterrupted['masking_prob']
        assert max(rates) == rates[5] and 0 < rates[-1] < rates[5] / 20
        assert masked[0] == pytest.approx(0.3) and masked[-1] == pytest.approx(0.15 + 0.15 / max_steps)
        resumed = {}
        for i, stop in enumerate([*stops, None]):
            torch.rand(3)
            tracks, conf = train(tmp_path / 'resumed', values, LoaderConfigs, stop=stop, resume=i > 0)
            for name, tracked_values in tracks.items():
                resumed.setdefault(name, []).extend(tracked_values)
        assert resumed == uninterrupted
    return check


def test_a_run_ends_with_its_steps(build, tracked):
    # Also with more of them than the default number of epochs has
    for max_steps, epochs in ((150, 5), (40, 2), (7, 1)):
        conf = build(LoaderConfigs, train_loader='plain', n_prompts=0, max_steps=max_steps)
        conf.run()
        assert (conf.progress.steps, conf.progress.epoch, conf._n_steps) == (max_steps, epochs, max_steps)
        assert conf._n_epochs == pytest.approx(max_steps / 30) and conf._is_complete


def test_a_loader_without_a_length_needs_max_steps(build, tracked):
    for given in ({}, {'epochs': 1}, {'epochs': 0.5}):
        with pytest.raises(UserError, match='the training loader has no length.* give max_steps'):
            build(LoaderConfigs, train_loader='stream', n_prompts=0, **given).run()


def test_a_loader_that_can_be_iterated_over_only_once(build, tracked):
    conf = build(LoaderConfigs, train_loader='once', max_steps=30, n_prompts=0)
    conf.run()
    assert conf.progress.steps == 30
    conf = build(LoaderConfigs, train_loader='once', max_steps=31, n_prompts=0)
    with pytest.raises(UserError, match='the training loader has no further batches'):
        conf.run()
    with pytest.raises(UserError, match='valid_loader, a generator, can be iterated over only once'):
        build(LoaderConfigs, valid_loader='once', n_prompts=0).run()


def test_validation_with_a_loader_without_a_length(build, tracked):
    counted = []
    for valid_loader in ('stream', 'endless'):
        conf = build(LoaderConfigs, train_loader='plain', valid_loader=valid_loader, max_steps=3, n_prompts=0)
        conf.run()
        counted.append(len(conf.valid_metrics._outputs))
    assert counted == [30, 30]


def test_training_needs_batches(build, tracked):
    for given in ({'epochs': 1}, {'max_steps': 5}):
        conf = build(LoaderConfigs, train_loader='empty', n_prompts=0, **given)
        with pytest.raises(UserError, match='the training loader has no batches'):
            conf.run()


def test_validation_can_do_without_batches(build, tracked):
    conf = build(LoaderConfigs, valid_loader='empty', epochs=1, inner_iterations=2, n_prompts=0)
    conf.run()
    assert len(tracked['loss.']) == conf.progress.steps == 30
    assert conf.valid_metrics.values is None


class LongConfigs(LoaderConfigs):
    """Trains for more rounds than an epoch has."""

    def run_step(self):
        for _ in range(3):
            with self.mode.update(is_train=True):
                self.trainer()


def test_further_rounds_pass_over_the_loader_again(build, tracked):
    view = View()
    conf = build(LongConfigs, train_loader='plain', epochs=1, inner_iterations=1, n_prompts=0, is_track_time=True,
                 progress_view=view)
    conf.run()
    assert (conf.progress.steps, conf.progress.epoch) == (90, 1)
    assert view.calls == ['epoch 0', *3 * ['Train', *(i / 30 for i in range(31)), 'end of Train'], 'end']


class AccuracyConfigs(MLMConfigs):
    """With a metric of labml_helpers, which sums over an epoch."""
    accuracy: Accuracy = 'of_all'

    def init(self):
        self.state_modules = [self.accuracy]
        super().init()

    def step(self, batch: torch.Tensor, batch_idx: BatchIndex):
        super().step(batch, batch_idx)
        self.accuracy(torch.eye(3)[batch_idx.idx % 3][None], torch.tensor([0]))


@option(AccuracyConfigs.accuracy, 'of_all')
def _accuracy():
    return Accuracy()


def test_resume_with_metrics_of_labml_helpers(assert_resumes_identically, tracked):
    assert_resumes_identically({'inner_iterations': 1}, [(7,), (31,), (50,)], AccuracyConfigs)
    # Every third of 31 batches is right, and none of them is lost on resume
    assert pytest.approx(11 / 31) in tracked['accuracy.']


class Recorder(StateModule):
    """Records its calls. The state of the training loop is created first."""

    def __init__(self):
        super().__init__()
        self.new_states = iter(['train', 'valid'])
        self.state = None
        self.calls = []

    def create_state(self):
        return next(self.new_states)

    def set_state(self, data):
        if data != self.state:
            self.state = data
            self.record('set_state')

    def on_epoch_start(self):
        self.record('on_epoch_start')

    def on_epoch_end(self):
        self.record('on_epoch_end')

    def record(self, name):
        self.calls.append((name, self.state))


class RecordingConfigs(MLMConfigs):
    """With a state module that also records steps, and labml_helpers' `Trainer` as options."""

    def step(self, batch: torch.Tensor, batch_idx: BatchIndex):
        super().step(batch, batch_idx)
        for module in self.state_modules:
            module.record('step')


@option(RecordingConfigs.trainer, 'labml_helpers')
def _labml_trainer(c: RecordingConfigs):
    return Trainer(name='Train', mode=c.mode, data_loader=c.train_loader, inner_iterations=c.inner_iterations,
                   state_modules=c.state_modules, is_track_time=c.is_track_time, step=c.step)


@option(RecordingConfigs.validator, 'labml_helpers')
def _labml_validator(c: RecordingConfigs):
    def step(batch: torch.Tensor, batch_idx: BatchIndex):
        if batch_idx.idx == 0:
            # The same masks each time
            c.valid_mlm.generator.manual_seed(0)
        c.step(batch, batch_idx)

    return Trainer(name='Valid', mode=c.mode, data_loader=c.valid_loader, inner_iterations=1,
                   state_modules=[*c.state_modules, c.valid_metrics], is_track_time=c.is_track_time, step=step)


OURS = {'trainer': 'resumable', 'validator': 'all_windows'}
LABML_HELPERS = {'trainer': 'labml_helpers', 'validator': 'labml_helpers'}


@pytest.mark.parametrize('loops', [OURS, LABML_HELPERS])
def test_state_modules_see_their_own_state_in_training_and_validation(build, tracked, loops):
    recorder = Recorder()
    conf = build(RecordingConfigs, epochs=2, inner_iterations=2, n_prompts=0, state_modules=[recorder], **loops)
    conf.run()
    n_valid = len(conf.valid_loader)
    validation = [('set_state', 'valid'), ('on_epoch_start', 'valid'), *n_valid * [('step', 'valid')],
                  ('on_epoch_end', 'valid')]
    # An epoch of two rounds
    epoch = [('set_state', 'train'), ('on_epoch_start', 'train'), *15 * [('step', 'train')], *validation,
             ('set_state', 'train'), *16 * [('step', 'train')], ('on_epoch_end', 'train'), *validation]
    assert n_valid > 0 and recorder.calls == 2 * epoch


@pytest.mark.parametrize('inner_iterations', [1, 2])
def test_trainer_of_labml_helpers_tracks_the_same(build, tracked, inner_iterations):
    tracks = []
    for loops in (OURS, LABML_HELPERS):
        tracked.clear()
        # The learning rate decays, which depends on the number of steps so far
        conf = build(RecordingConfigs, epochs=2, inner_iterations=inner_iterations, n_prompts=0, lr_warmup_steps=5,
                     **loops)
        conf.run()
        tracks.append({name: list(values) for name, values in tracked.items() if name != 'tokens_per_second'})
    assert isinstance(conf.trainer, Trainer) and isinstance(conf.validator, Trainer)
    assert tracks[0] == tracks[1]
    # Those of training, and of each validation
    assert len(tracks[0]['lr']) == 62 and len(tracks[0]['loss.']) == 62 + 2 * inner_iterations


class BatchesConfigs(RecordingConfigs):
    """Records the batches of training."""
    batches: list = []

    def step(self, batch: torch.Tensor, batch_idx: BatchIndex):
        if self.mode.is_train:
            self.batches.append(batch.clone())
        super().step(batch, batch_idx)


@pytest.mark.parametrize('stop', [(40,), (31, True)])
def test_trainer_of_labml_helpers_resumes_the_order_of_the_epoch(train, tmp_path, stop):
    batches = {'uninterrupted': [], 'stopped': [], 'resumed': []}
    for name, found in batches.items():
        train(tmp_path / name.replace('resumed', 'stopped'), {**LABML_HELPERS, 'inner_iterations': 1, 'batches': found},
              BatchesConfigs, stop=stop if name == 'stopped' else None, resume=name == 'resumed')
    first, second = batches['uninterrupted'][:31], batches['uninterrupted'][31:]
    assert not torch.equal(first[0], second[0])
    for batch, expected in zip(batches['resumed'], second, strict=True):
        assert torch.equal(batch, expected)


def test_trainer_of_labml_helpers_saves_and_resumes_epochs(train, tmp_path, capsys):
    folder = tmp_path / 'run'
    # In the second epoch
    _, conf = train(folder, LABML_HELPERS, RecordingConfigs, stop=(40,))
    assert (conf.progress.steps, conf.progress.batches) == (40, 9)
    assert max(CheckpointFolder(folder).steps()) == conf.progress.tokens > 39 * 8 * 15
    tracks, conf = train(folder, LABML_HELPERS, RecordingConfigs, resume=True)
    assert 'cannot resume within an epoch: the epoch starts again' in capsys.readouterr().out
    assert (len(tracks['lr']), conf.progress.steps, conf.progress.epoch) == (31, 71, 2)


class View:
    """A progress view that records its calls."""

    def __init__(self):
        self.calls = []

    def epochs(self, first, end):
        for epoch in range(first, end):
            self.calls.append(f'epoch {epoch}')
            yield epoch
        self.calls.append('end')

    @contextlib.contextmanager
    def phase(self, name, *, is_track_time):
        assert is_track_time
        self.calls.append(name)
        yield
        self.calls.append(f'end of {name}')

    def update(self, fraction):
        self.calls.append(fraction)


def test_custom_progress_view(build, tracked):
    view = View()
    conf = build(epochs=2, inner_iterations=2, n_prompts=0, is_track_time=True, progress_view=view)
    conf.run()
    n_valid = len(conf.valid_loader)
    validation = ['Valid', *(i / n_valid for i in range(n_valid + 1)), 'end of Valid']
    rounds = ['Train', *(i / 31 for i in range(16)), 'end of Train', *validation,
              'Train', *(i / 31 for i in range(15, 32)), 'end of Train', *validation]
    assert view.calls == ['epoch 0', *rounds, 'epoch 1', *rounds, 'end']


def test_custom_progress_view_of_a_resumed_run(train, tmp_path):
    train(tmp_path / 'run', {}, stop=(40,))
    view = View()
    _, conf = train(tmp_path / 'run', {'progress_view': view, 'is_track_time': True}, resume=True)
    # 9 steps of the second epoch are done
    assert view.calls[:4] == ['epoch 1', 'Train', 9 / 31, 10 / 31]
    assert view.calls[-1] == 'end' and conf.progress.epoch == 2
