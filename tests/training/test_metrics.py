"""Metrics of steps whose values arrive late, as they do from a GPU, which is simulated here."""
import json
from types import SimpleNamespace

import pytest
import torch
from labml import tracker
from labml.internal.tracker import Writer, tracker_singleton
from torch._subclasses.fake_tensor import FakeTensorMode

from labml_mlm import MLMConfigs
from labml_mlm.model.transformer import MLMOutput
from labml_mlm.training import metrics
from labml_mlm.training.metrics import StepMetrics, ValidMetrics, late_copy


class Recorder(Writer):
    """Keeps what is tracked, as (name, step, value)."""

    def __init__(self):
        self.values = []

    def write(self, *, global_step, indicators):
        self.values += [(name, global_step, indicator.get_mean()) for name, indicator in indicators.items()
                        if not indicator.is_empty()]

    def save_indicators(self, dot_indicators, indicators):
        pass

    def finish(self):
        pass


@pytest.fixture
def recorder():
    tracker_singleton().reset_writers()
    recorder = Recorder()
    tracker_singleton().add_writer(recorder)
    tracker.set_global_step(0)
    yield recorder
    tracker_singleton().reset_writers()
    tracker.set_global_step(None)


class Gpu:
    """A simulated GPU: a copy arrives when `work` is called, or when it is waited for."""

    def __init__(self, monkeypatch):
        self.copies = []
        self.n_waits = 0
        monkeypatch.setattr(metrics, 'late_copy', self.copy)
        monkeypatch.setattr(torch.Tensor, 'is_cuda', True)

    def copy(self, values):
        copied = torch.full_like(values, float('nan'))
        gpu = self

        class Arrival:
            is_over = False

            def query(self):
                return self.is_over

            def synchronize(self):
                if not self.is_over:
                    gpu.n_waits += 1
                while not self.is_over:
                    gpu.work()

        arrival = Arrival()
        self.copies.append((copied, values.clone(), arrival))
        return copied, arrival

    def work(self):
        copied, values, arrival = self.copies.pop(0)
        copied.copy_(values)
        arrival.is_over = True


def step(step_metrics, i):
    tracker.add_global_step(10)
    with tracker.namespace('train'):
        # Tracked by other code
        tracker.add('mine', float(i))
        step_metrics.add({'loss.': torch.tensor(i / 8, requires_grad=True), 'accuracy.': torch.tensor(i / 16)})
        tracker.add('lr', i / 4)
        step_metrics.save()


def expected(n):
    return sorted((name, 10 * i, value) for i in range(1, n + 1)
                  for name, value in (('mine', i), ('lr', i / 4), ('loss.train', i / 8), ('accuracy.train', i / 16)))


def test_a_copy_ends_on_the_stream_of_its_own_gpu(monkeypatch):
    """That of another GPU knows nothing of it. With tensors that have no values."""
    recorded = []
    monkeypatch.setattr(torch.cuda, 'Event', lambda: SimpleNamespace(record=recorded.append))
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: f'stream of {device}')
    empty = torch.empty
    monkeypatch.setattr(torch, 'empty', lambda *shape, pin_memory, **kwargs: empty(*shape, **kwargs))
    with FakeTensorMode():
        values = empty(3, device='cuda:1')
        copied, _ = late_copy(values)
    assert recorded == ['stream of cuda:1'] and copied.device.type == 'cpu'


def test_a_validation_copies_its_sums_once(build, tracked, monkeypatch):
    """Each copy waits for the GPU."""
    n_copies, to_list = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, '__float__', lambda self: n_copies.append(self.numel()) or self.item())
    monkeypatch.setattr(torch.Tensor, 'tolist', lambda self: n_copies.append(self.numel()) or to_list(self))
    metrics = ValidMetrics()
    metrics.on_epoch_start()
    for n in range(1, 40):
        metrics.add(MLMOutput(torch.tensor(0.), torch.tensor(n / 3), torch.tensor(n), torch.tensor(1)))
    metrics.on_epoch_end()
    assert metrics.loss == pytest.approx(1 / 3) and metrics.accuracy == 39 / 780
    # Those of each sum, and the sums, which are on the CPU
    assert n_copies == [39] * 3 + [1] * 4


def test_values_on_the_cpu_are_tracked_at_once(recorder):
    step_metrics = StepMetrics()
    for i in range(1, 6):
        step(step_metrics, i)
        assert sorted(recorder.values) == expected(i)


@pytest.mark.parametrize('work_every', [1, 2, 100])
def test_values_on_a_gpu_are_tracked_late_at_their_own_step(recorder, monkeypatch, work_every):
    gpu, step_metrics = Gpu(monkeypatch), StepMetrics()
    for i in range(1, 9):
        step(step_metrics, i)
        assert len([name for name, *_ in recorder.values if name == 'loss.train']) >= i - 2
        assert tracker.get_global_step() == 10 * i
        if i % work_every == 0:
            gpu.work()
    assert (gpu.n_waits == 0) == (work_every == 1)
    # In another namespace than they were added in
    with tracker.namespace('valid'):
        step_metrics.finish()
    assert tracker.get_global_step() == 80
    assert sorted(recorder.values) == expected(8)
    steps = [step for name, step, _ in recorder.values if name == 'loss.train']
    assert steps == sorted(steps)
    step_metrics.finish()
    assert len(recorder.values) == 32


def add(step_metrics, loss, weight, n_sequences, *, is_last=False, **others):
    with tracker.namespace('train'):
        values = {'loss.': loss, **{f'{name}.': value for name, value in others.items()}}
        tracker.add_global_step(1)
        step_metrics.add({name: torch.tensor(value) for name, value in values.items()}, weight=torch.tensor(weight),
                         n_sequences=n_sequences, is_last=is_last)
        step_metrics.save()


def losses(recorder):
    return [value for name, _, value in recorder.values if name == 'loss.train']


def test_short_batch_at_the_end_of_an_epoch_is_averaged_with_the_step_before(recorder):
    step_metrics = StepMetrics()
    add(step_metrics, 5., 60, 8)
    add(step_metrics, 2., 60, 8, accuracy=0.5)
    add(step_metrics, 8., 20, 3, is_last=True, accuracy=0.9)
    # The next epoch does not begin with that
    add(step_metrics, 2.5, 60, 8)
    assert losses(recorder) == [5., 2., (2 * 60 + 8 * 20) / 80, 2.5]
    assert [value for name, _, value in recorder.values if name == 'accuracy.train'] == pytest.approx([0.5, 0.6])


@pytest.mark.parametrize('n_sequences, is_last', [(8, True), (3, False), (9, True)])
def test_other_batches_are_tracked_as_they_are(recorder, n_sequences, is_last):
    step_metrics = StepMetrics()
    add(step_metrics, 2., 60, 8)
    add(step_metrics, 8., 20, n_sequences, is_last=is_last)
    assert losses(recorder) == [2., 8.]
    # Epochs of one batch: each is as large as the one before
    for loss in (3., 4.):
        add(step_metrics, loss, 20, 5, is_last=True)
    assert losses(recorder)[3:] == [4.]


def test_short_batch_with_nothing_before_it(recorder):
    step_metrics = StepMetrics()
    add(step_metrics, 8., 20, 3, is_last=True)
    # A step of one's own that has no weight
    step_metrics.add({'loss.train': torch.tensor(1.)})
    step_metrics.save()
    add(step_metrics, 7., 20, 2, is_last=True)
    assert losses(recorder) == [8., 1., 7.]


def test_short_batch_after_a_resumption(recorder):
    step_metrics, resumed = StepMetrics(), StepMetrics()
    assert step_metrics.state_dict() is None
    add(step_metrics, 1 / 3, 60, 8)
    state = json.loads(json.dumps(step_metrics.state_dict()))
    resumed.load_state_dict(state, device=torch.device('cpu'))
    add(step_metrics, 8., 20, 3, is_last=True)
    add(resumed, 8., 20, 3, is_last=True)
    assert losses(recorder)[1] == losses(recorder)[2]
    resumed.load_state_dict(None, device=torch.device('cpu'))
    add(resumed, 8., 20, 2, is_last=True)
    assert losses(recorder)[3] == 8.


@pytest.mark.parametrize('work_every', [1, 100])
def test_short_batch_on_a_gpu_is_not_waited_for(recorder, monkeypatch, work_every):
    monkeypatch.setattr(StepMetrics, 'max_late', 9)
    gpu, step_metrics = Gpu(monkeypatch), StepMetrics()
    add(step_metrics, 2., 60, 8)
    add(step_metrics, 8., 20, 3, is_last=True)
    assert gpu.n_waits == 0
    step_metrics.finish()
    assert losses(recorder) == [2., 3.5]


def test_epochs_of_a_run_end_without_a_spike(build, tracked, monkeypatch):
    """The last batch has fewer windows than the others; training itself is the same."""
    added, add_to = [], StepMetrics.add

    def add_and_note(self, values, **kwargs):
        added.append((values['loss.'], kwargs))
        add_to(self, values, **kwargs)

    monkeypatch.setattr(StepMetrics, 'add', add_and_note)
    conf = build(epochs=2, n_prompts=0)
    conf.run()
    n = len(conf.train_loader)
    assert [i for i, (_, kwargs) in enumerate(added) if kwargs['is_last']] == [n - 1, 2 * n - 1]
    means = []
    for (before, a), (last, b) in ((added[i - 1], added[i]) for i in (n - 1, 2 * n - 1)):
        assert b['n_sequences'] < a['n_sequences'] == conf.batch_size
        means.append(float((before * a['weight'] + last * b['weight']) / (a['weight'] + b['weight'])))
    values = tracked['loss.']
    # After each epoch comes the loss of its validation
    assert [values[n - 1], values[2 * n]] == pytest.approx(means, rel=1e-6)
    assert values[:n - 1] + values[n + 1:2 * n] == [float(loss) for loss, kwargs in added if not kwargs['is_last']]


def test_configs_build_them_as_they_are():
    """labml gives itself to a class that takes an argument."""
    assert MLMConfigs().step_metrics.max_late == 2
