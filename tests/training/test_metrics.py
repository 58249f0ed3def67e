"""Metrics of steps whose values arrive late, as they do from a GPU, which is simulated here."""
import pytest
import torch
from labml import tracker
from labml.internal.tracker import Writer, tracker_singleton

from labml_mlm.training import metrics
from labml_mlm.training.metrics import StepMetrics


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
        monkeypatch.setattr(metrics, '_copy', self.copy)
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


def test_values_on_the_cpu_are_tracked_at_once(recorder):
    step_metrics = StepMetrics()
    for i in range(1, 6):
        step(step_metrics, i)
        assert sorted(recorder.values) == expected(i)


@pytest.mark.parametrize('work_every', [1, 2, 100])
def test_values_on_a_gpu_are_tracked_late_at_their_own_step(recorder, monkeypatch, work_every):
    gpu, step_metrics = Gpu(monkeypatch), StepMetrics(max_late=2)
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
