"""The speed of a run, measured before it."""
import itertools
import time

import pytest
import torch
from labml import tracker
from labml.configs import option
from labml_helpers.metrics.accuracy import Accuracy

from labml_mlm import MLMConfigs
from labml_mlm.budget import speed
from labml_mlm.budget.speed import Speed, measure, shown
from labml_mlm.common.errors import UserError
from labml_mlm.training.state import rng_state


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Few steps are enough to see what they change."""
    monkeypatch.setattr(speed, '_MOST_CALLS', 3)


@pytest.mark.parametrize('parts, seconds, n_steps', [
    ({}, 1.001, 100), ({}, 0.001, 1),
    # Epochs of 0.31 s, each with 2 validations of 0.1 s; in the last one there is time for 6 steps
    ({'validation': 0.1, 'epoch_length': 31, 'n_rounds': 2}, 19 * 0.51 + 0.265, 19 * 31 + 6),
    # A stream has one epoch
    ({'validation': 0.1, 'n_rounds': 2}, 10.001, 980),
    # 6 checkpoints by the number of steps, and one at the end
    ({'save': 0.5, 'save_interval': 100}, 10.001, 650),
    ({'validation': 100.}, 10., 1)])
def test_steps_in_some_time(parts, seconds, n_steps):
    found = Speed(0.01, **parts)
    assert found.steps_in(seconds) == n_steps
    assert found.seconds(n_steps + 1) > seconds and (n_steps == 1 or found.seconds(n_steps) <= seconds)


def test_seconds_are_shown_with_a_unit():
    assert [shown(s) for s in (0.0412, 0.00071, 0.234, 3.21, 75.)] == ['41 ms', '0.71 ms', '234 ms', '3.2 s', '75.0 s']


class Counting(torch.nn.Module):
    """Has a buffer that checkpoints do not hold."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer('calls', torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


def state(conf):
    """All that steps change."""
    generator = conf.mlm.generator
    return {'weights': {k: v.clone() for k, v in conf.model.state_dict().items()},
            'buffers': [b.clone() for b in conf.model.buffers()],
            'gradients': [p.grad for p in conf.model.parameters()],
            'optimizer': conf.optimizer.state_dict()['state'], 'masks': generator.get_state() if generator else None,
            'plain': str((conf.optimizer.state_dict()['param_groups'], rng_state(), conf.mlm.masking_prob,
                          conf.progress.state_dict(), conf.throughput.state_dict(), tracker.get_global_step(),
                          conf.model.training, vars(conf.valid_metrics)))}


@pytest.mark.parametrize('values', [
    {}, {'optimizer': 'muon'}, {'optimizer.optimizer': 'Adam'}, {'packing': 'documents'},
    {'masking_schedule': 'linear', 'seq_len_schedule': '4:0.5,16'}, {'gradient_accumulation_steps': 4},
    {'seq_len_schedule': '4:0.5,16', 'is_token_budget_constant': False}])
def test_nothing_of_the_run_changes(build, values):
    conf = build(**{'transformer.dropout': 0.2, 'n_prompts': 0, 'max_minutes': 1., **values})
    conf.model.encoder.norm = Counting(conf.model.encoder.norm)
    before = state(conf)
    found = measure(conf)
    after = state(conf)
    assert after.pop('plain') == before.pop('plain')
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert found.step > 0 and found.validation > 0 and found.epoch_length == len(conf.train_loader)


@pytest.mark.parametrize('values', [{}, {'optimizer': 'muon', 'masking_schedule': 'linear'},
                                    {'seq_len_schedule': '4:0.5,16', 'lr_schedule': 'wsd'}])
def test_losses_are_those_of_as_many_steps(build, tracked, values, monkeypatch):
    monkeypatch.setattr(Speed, 'steps_in', lambda self, seconds: 45)
    tracks = []
    for budget in ({'max_minutes': 2.}, {'max_steps': 45}):
        conf = build(**{'transformer.dropout': 0.2, 'lr_warmup_steps': 5, 'n_prompts': 1, **budget, **values})
        tracked.clear()
        conf.run()
        assert conf.progress.steps == 45 and conf._is_complete
        tracks.append({name: list(found) for name, found in tracked.items() if name != 'tokens_per_second'})
    assert tracks[0] == tracks[1] and len(tracks[0]['lr']) == 45


class Measured(MLMConfigs):
    """Counts its steps, and may take its time for the first ones, as a compiler does."""
    _n_taken = 0
    _slow = 0
    accuracy: Accuracy

    def init(self):
        self.state_modules = [self.accuracy]
        super().init()

    def training_step(self, batch):
        self._n_taken += 1
        self.accuracy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
        if self._n_taken <= self._slow:
            time.sleep(0.3)
        super().training_step(batch)


@option(Measured.accuracy)
def _accuracy():
    return Accuracy()


def test_steps_of_your_own_count_for_themselves(build, tracked, monkeypatch):
    monkeypatch.setattr(Speed, 'steps_in', lambda self, seconds: 7)
    conf = build(Measured, max_minutes=1., n_prompts=0)
    conf.run()
    assert conf._n_taken == 7


def test_the_first_steps_are_not_timed(build, monkeypatch):
    monkeypatch.setattr(speed, '_MOST_CALLS', 20)
    monkeypatch.setattr(Measured, '_slow', 2)
    assert measure(build(Measured, n_prompts=0, max_minutes=1.)).step < 0.2


class Own:
    """A loader that counts."""

    def __init__(self, windows):
        self.windows, self.n = windows, itertools.count()

    def __len__(self):
        return 5

    def __iter__(self):
        for i in range(5):
            next(self.n)
            yield self.windows[3 * i:3 * i + 3].T.long() + 0 * torch.randint(5, (1,))


class Once(Own):
    """Can be iterated over only once, and cannot be copied."""

    def __init__(self, windows):
        self.batches = (batch for batch in Own(windows))

    def __iter__(self):
        return self.batches


class OwnConfigs(MLMConfigs):
    """With loaders of its own."""
    train_loader: Own = 'own'


@option(OwnConfigs.train_loader, 'own')
def _own(c: OwnConfigs):
    return Own(c.train_tokens[:1600].view(100, 16))


@option(OwnConfigs.train_loader, 'once')
def _once(c: OwnConfigs):
    return Once(c.train_tokens[:1600].view(100, 16))


def test_a_loader_of_your_own_is_measured_by_a_copy(build):
    conf = build(OwnConfigs, n_prompts=0, max_minutes=1.)
    assert next(conf.train_loader.n) == 0 and conf._end_step > 0


def test_a_loader_that_cannot_be_copied_is_refused(build):
    with pytest.raises(UserError, match='training loader, and yours, a Once, cannot be copied .*: give max_steps'):
        build(OwnConfigs, train_loader='once', n_prompts=0, max_minutes=1.)
