import threading
import time

import pytest
import torch
from support.stop import StopAt

from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint_folder import CheckpointFolder, remove
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.training.checkpointer import Checkpointer
from labml_mlm.training.metrics import ValidMetrics
from labml_mlm.training.signals import Stopped


@pytest.fixture
def conf(build, tracked, tmp_path):
    """62 steps in two epochs, with validations after 31 and 62."""
    conf = build(epochs=2, n_prompts=0, checkpoint_interval=10)
    conf.checkpointer.folder = tmp_path / 'run' / 'checkpoints'
    return conf


@pytest.fixture
def written(monkeypatch):
    """Optimizer steps and validation losses of the checkpoints that are written."""
    written = []
    write = CheckpointFolder.write

    def record(self, step, *, metadata, **arguments):
        written.append((metadata['progress']['steps'], metadata['valid'] and metadata['valid']['loss']))
        write(self, step, metadata=metadata, **arguments)

    monkeypatch.setattr(CheckpointFolder, 'write', record)
    return written


def wait_for_disk(conf):
    """Makes each step wait until its checkpoint is written: steps are shorter here than writes."""
    step, conf.checkpointer.step = conf.checkpointer.step, lambda c: (step(c), conf.checkpointer.finish())


def test_saves_at_every_interval_and_at_each_validation(conf, written):
    wait_for_disk(conf)
    conf.run()
    losses = [loss for steps, loss in written if loss is not None]
    assert [steps for steps, _ in written] == [10, 20, 30, 31, 40, 50, 60, 62]
    assert len(losses) == 2 and losses[-1] == conf.valid_metrics.loss
    assert list(CheckpointFolder(conf.checkpointer.folder).steps())[-1] == conf.progress.tokens
    assert conf.checkpointer.error is None


def test_saves_at_validations_only(build, tracked, tmp_path, written):
    conf = build(epochs=2, n_prompts=0, checkpoint_interval=None)
    conf.checkpointer.folder = tmp_path / 'checkpoints'
    conf.run()
    assert [steps for steps, _ in written] == [31, 62]


def test_the_last_and_the_best_are_kept(build, tracked, tmp_path, monkeypatch):
    losses = iter([3., 1., 2., 4., 2.5])
    monkeypatch.setattr(ValidMetrics, 'values', property(lambda self: {'loss': next(losses), 'accuracy': 0.}))
    conf = build(epochs=5, n_prompts=0, checkpoint_interval=None, keep_checkpoints=1)
    conf.checkpointer.folder = tmp_path / 'checkpoints'
    wait_for_disk(conf)
    conf.run()
    kept = [checkpoint.read(path) for path in CheckpointFolder(tmp_path / 'checkpoints').steps().values()]
    assert [found.valid['loss'] for found in kept] == [1., 2.5]


def test_a_save_is_a_copy(conf):
    """Further training does not change what is written."""
    begin = threading.Event()
    write = Checkpointer._write
    conf.checkpointer._write = lambda **save: (begin.wait(), write(conf.checkpointer, **save))
    conf.progress.steps, conf.progress.tokens = 1, 16
    conf.checkpointer.save(conf)
    before = {name: tensor.clone() for name, tensor in conf.model.state_dict().items()}
    with torch.no_grad():
        for parameter in conf.model.parameters():
            parameter.zero_()
    begin.set()
    conf.checkpointer.finish()
    saved = CheckpointFolder(conf.checkpointer.folder).last()[0].load_tensors('model')
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], before[name]) for name in before)


def test_training_does_not_wait_for_a_slow_disk(conf, monkeypatch, tracked):
    """The first write lasts until training is over."""
    is_over = threading.Event()
    steps = []
    write = CheckpointFolder.write

    def slow(self, step, *, metadata, **arguments):
        is_over.wait(60)
        steps.append(metadata['progress']['steps'])
        write(self, step, metadata=metadata, **arguments)

    monkeypatch.setattr(CheckpointFolder, 'write', slow)
    finish = conf.checkpointer.finish
    conf.checkpointer.finish = lambda: (is_over.set(), finish())
    conf.run()
    assert len(tracked['lr']) == 62
    # The one being written, and the last of those that waited in memory
    assert steps == [10, 62]
    assert conf.checkpointer.error is None


def test_save_that_is_due_waits_until_the_disk_is_free(conf, written):
    step = conf.checkpointer.step
    write = Checkpointer._write
    free = threading.Event()
    conf.checkpointer._write = lambda **save: (free.wait(), write(conf.checkpointer, **save))

    def step_and_free(c):
        step(c)
        if c.progress.steps >= 23:
            free.set()
            conf.checkpointer.finish()

    conf.checkpointer.step = step_and_free
    StopAt(conf, 25)
    with pytest.raises(Stopped):
        conf.run()
    assert [steps for steps, _ in written] == [10, 24, 25]


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), OSError(30, 'Read-only file system'),
                                   RuntimeError('no idea')])
def test_failed_save_does_not_end_the_run(conf, monkeypatch, tracked, capsys, error):
    write = CheckpointFolder.write
    failures = []

    def fail_twice(self, step, *, metadata, **arguments):
        if metadata['progress']['steps'] in (20, 30):
            failures.append(step)
            raise error
        write(self, step, metadata=metadata, **arguments)

    monkeypatch.setattr(CheckpointFolder, 'write', fail_twice)
    wait_for_disk(conf)
    conf.run()
    assert len(tracked['lr']) == 62 and len(failures) == 2
    # Reported once for several failures in a row
    message = f'Cannot save a checkpoint: {error}. The run continues, and retries later'
    assert capsys.readouterr().out.count(message) == 1
    assert conf.checkpointer.error is None
    assert list(CheckpointFolder(conf.checkpointer.folder).steps())[-1] == conf.progress.tokens


def test_state_that_cannot_be_packed_does_not_end_the_run(conf, tracked, capsys, monkeypatch):
    state_dict = conf.optimizer.state_dict
    monkeypatch.setattr(conf.optimizer, 'state_dict', lambda: {**state_dict(), 'mine': object()})
    conf.run()
    assert len(tracked['lr']) == 62
    assert capsys.readouterr().out.count('Cannot save a checkpoint: a checkpoint cannot hold mine, of type object') \
        == 1
    assert isinstance(conf.checkpointer.error, TypeError)


def test_nothing_is_saved_without_a_run(build, tracked, tmp_path):
    conf = build(epochs=1, n_prompts=0)
    assert conf.checkpointer.folder is None
    conf.run()
    assert conf.checkpointer._thread is None


def test_metrics_are_on_the_disk_before_the_checkpoint(conf, tmp_path, monkeypatch):
    log = conf.checkpointer.log = MetricsWriter(tmp_path / 'run' / 'log.jsonl')
    (tmp_path / 'run').mkdir()
    sizes = []
    write = CheckpointFolder.write

    def record(self, step, *, metadata, **arguments):
        sizes.append((metadata['log_bytes'], log.file_path.stat().st_size, step))
        write(self, step, metadata=metadata, **arguments)

    monkeypatch.setattr(CheckpointFolder, 'write', record)
    step = conf.checkpointer.step

    def step_and_track(c):
        # As if the step had tracked it
        log.indicators.setdefault('loss.train', []).append((c.progress.tokens, [1.]))
        step(c)
        conf.checkpointer.finish()

    conf.checkpointer.step = step_and_track
    conf.run()
    assert len(sizes) == 8
    data = log.file_path.read_bytes()
    for n_bytes, size, step in sizes:
        assert n_bytes <= size
        assert data[n_bytes - 1:n_bytes] == b'\n'
        # The last value up to there is that of the checkpoint's step
        assert data[:n_bytes].decode().splitlines()[-1].split(']]]')[0].endswith(f'[{step}, [1.0')


# The last quarter of 62 steps decays
WSD = {'lr_schedule': 'wsd', 'lr_warmup_steps': 4, 'lr_decay_fraction': 0.25, 'keep_checkpoints': 1}


def steps_before_decay(folder):
    """Optimizer steps of the marked checkpoints."""
    found = [checkpoint.read(path) for path in CheckpointFolder(folder).steps().values()]
    return [one.metadata['progress']['steps'] for one in found if one.is_before_decay]


@pytest.mark.parametrize('stops', [[], [(45,)], [(46,)], [(47,)], [(20,), (50,)]])
def test_checkpoint_before_the_decay_is_kept_also_of_a_resumed_run(train, tmp_path, stops):
    for i, stop in enumerate([*stops, None]):
        _, conf = train(tmp_path / 'run', WSD, stop=stop, resume=i > 0)
    assert conf._decay_begin == 46
    assert steps_before_decay(tmp_path / 'run') == [46]
    folder = CheckpointFolder(tmp_path / 'run')
    assert folder.before_decay().metadata['progress']['steps'] == 46
    assert folder.last()[0].metadata['progress']['steps'] == 62
    assert len(folder.steps()) <= 3


def test_run_from_before_the_decay_takes_the_same_steps(train, tmp_path):
    whole, _ = train(tmp_path / 'run', WSD)
    folder = CheckpointFolder(tmp_path / 'run')
    for path in folder.steps().values():
        if path != folder.before_decay().path:
            remove(path)
    rest, _ = train(tmp_path / 'run', WSD, resume=True)
    assert rest['lr'] == whole['lr'][46:] and len(rest['lr']) == 16
    # With the validation at the end
    assert rest['loss.'] == whole['loss.'][-17:]


@pytest.mark.parametrize('schedule', ['warmup_cosine', 'constant', 'inverse_sqrt'])
def test_other_schedules_have_no_checkpoint_before_a_decay(train, tmp_path, schedule):
    train(tmp_path / 'run', {**WSD, 'lr_schedule': schedule})
    assert CheckpointFolder(tmp_path / 'run').before_decay() is None


def test_validation_where_the_decay_begins_keeps_the_mark(train, tmp_path):
    # Half of 62 steps
    train(tmp_path / 'run', {**WSD, 'lr_decay_fraction': 0.5})
    assert steps_before_decay(tmp_path / 'run') == [31]
    assert CheckpointFolder(tmp_path / 'run').before_decay().valid is not None


def test_checkpoint_before_the_decay_is_not_replaced_while_the_disk_is_slow(train, tmp_path, monkeypatch):
    write = CheckpointFolder.write
    monkeypatch.setattr(CheckpointFolder, 'write', lambda *arguments, **options: (
        time.sleep(0.2), write(*arguments, **options)))
    # The validation after 62 steps, and saves at each step
    train(tmp_path / 'run', {**WSD, 'checkpoint_interval': 1, 'lr_decay_fraction': 2 / 62})
    assert steps_before_decay(tmp_path / 'run') == [60]


def test_the_best_is_not_replaced_while_the_disk_is_slow(build, tracked, tmp_path, monkeypatch):
    losses = iter([3., 1., 2., 2.5, 2.2])
    monkeypatch.setattr(ValidMetrics, 'values', property(lambda self: {'loss': next(losses), 'accuracy': 0.}))
    write = CheckpointFolder.write
    monkeypatch.setattr(CheckpointFolder, 'write', lambda *arguments, **options: (
        time.sleep(0.5), write(*arguments, **options)))
    conf = build(epochs=5, n_prompts=0, checkpoint_interval=None, keep_checkpoints=1)
    conf.checkpointer.folder = tmp_path / 'checkpoints'
    conf.run()
    assert CheckpointFolder(tmp_path / 'checkpoints').best().valid['loss'] == 1.
