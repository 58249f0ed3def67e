"""A resumed run takes, bit for bit, the steps of an uninterrupted one."""
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from labml import tracker
from labml.configs import option
from labml_helpers.train_valid import BatchIndex

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.training import state
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import restore_state


# 31 batches an epoch, 15 in its first round and 16 in its second
@pytest.mark.parametrize('stops', [
    [(1,)], [(5,)], [(15,)], [(15, True)], [(16,)], [(31,)], [(31, True)], [(32,)], [(62, True)],
    [(3,), (4,), (14,), (15, True), (40,)],
])
def test_resume_continues_with_the_same_losses(assert_resumes_identically, stops):
    """Wherever the run stops: in a round, at its end, in a validation."""
    assert_resumes_identically({'transformer.dropout': 0.2}, [tuple(stop) for stop in stops])


@pytest.mark.parametrize('values', [
    {'optimizer.optimizer': name} for name in
    ['FusedAdamW', 'Muon', 'SGD', 'Adam', 'AdamW', 'RAdam', 'AdaBelief', 'Noam', 'AdamWarmupCosineDecay']
] + [{'lr_schedule': 'constant', 'optimizer.amsgrad': True}, {'optimizer.optimizer': 'Adam', 'optimizer.amsgrad': True},
     {'transformer.encoder_attn': 'relative', 'optimizer.weight_decay': 0.1},
     {'transformer.src_embed': 'learned_pos', 'transformer.encoder_attn': 'mha'},
     *({'optimizer.optimizer': name, 'transformer.n_layers': 2, 'transformer.dropout': 0.2, **values}
       for name in ('FusedAdamW', 'Muon') for values in ({'freeze': 'layers:1'}, {'lr_layer_decay': 0.5}))])
def test_resume_with_every_optimizer(assert_resumes_identically, values):
    assert_resumes_identically(values, [(9,), (33,)])


@pytest.mark.parametrize('values, lengths', [
    ({'masking_schedule': 'linear', 'seq_len_schedule': '4:0.2,8:0.5,16', 'lr_schedule': 'wsd', 'masking': 'word'},
     [4] * 13 + [8] * 18 + [16] * 31),
    ({'masking_schedule': 'cosine', 'seq_len_schedule': '4..16:0.75', 'is_token_budget_constant': False,
      'lr_schedule': 'inverse_sqrt', 'masking': 'span'}, [4] * 16 + [8] * 31 + [16] * 15),
])
def test_resume_with_every_schedule(assert_resumes_identically, train, tmp_path, values, lengths):
    assert_resumes_identically(values, [(7,), (15, True), (20,), (47,)])
    tracks, conf = train(tmp_path / 'again', values)
    assert tracks['seq_len'] == lengths
    assert tracks['masking_prob'][0] == 0.3
    assert tracks['masking_prob'] == sorted(tracks['masking_prob'], reverse=True)
    assert 0.15 < tracks['masking_prob'][-1] < 0.16
    n_windows = conf.train_loader.n_windows
    is_constant = values.get('is_token_budget_constant', True)
    assert conf.progress.tokens == (2 * n_windows * 16 if is_constant else
                                    sum(8 * length for length in lengths) - (8 - n_windows % 8) * (8 + 16))


class DrawingConfigs(MLMConfigs):
    """Draws from all global generators in a step."""

    def step(self, batch: torch.Tensor, batch_idx: BatchIndex):
        super().step(batch, batch_idx)
        tracker.add('drawn', random.random() + np.random.rand() + torch.rand(()).item())


def test_resume_restores_all_random_number_generators(train, tmp_path):
    def seed(number):
        random.seed(number)
        np.random.seed(number)

    seed(3)
    uninterrupted, _ = train(tmp_path / 'uninterrupted', {}, DrawingConfigs)
    seed(3)
    first, _ = train(tmp_path / 'resumed', {}, DrawingConfigs, stop=(10,))
    seed(4)
    second, _ = train(tmp_path / 'resumed', {}, DrawingConfigs, resume=True)
    assert first['drawn'] + second['drawn'] == uninterrupted['drawn']


class ExponentialConfigs(MLMConfigs):
    """With a schedule whose state is the learning rate."""
    scheduler: torch.optim.lr_scheduler.LRScheduler = 'exponential'


@option(ExponentialConfigs.scheduler, 'exponential')
def _exponential(c: ExponentialConfigs):
    return torch.optim.lr_scheduler.ExponentialLR(c.optimizer, gamma=0.97)


class MeanRate(torch.optim.lr_scheduler.ExponentialLR):
    """A schedule with a tensor in its state."""

    def __init__(self, *arguments, **options):
        self.total = torch.zeros(())
        super().__init__(*arguments, **options)

    def step(self, *arguments):
        super().step(*arguments)
        self.total += self.get_last_lr()[0]


@option(ExponentialConfigs.scheduler, 'mean_rate')
def _mean_rate(c: ExponentialConfigs):
    return MeanRate(c.optimizer, gamma=0.97)


def test_resume_with_a_schedule_whose_state_is_the_rate(assert_resumes_identically):
    conf = assert_resumes_identically({}, [(20,)], ExponentialConfigs)
    assert conf.optimizer.param_groups[0]['lr'] == pytest.approx(2e-3 * 0.97 ** 62)


def test_resume_with_a_schedule_that_has_a_tensor_in_its_state(assert_resumes_identically):
    conf = assert_resumes_identically({'scheduler': 'mean_rate'}, [(20,)], ExponentialConfigs)
    # The rate at the start, and after each step
    assert conf.scheduler.total.item() == pytest.approx(sum(2e-3 * 0.97 ** i for i in range(63)), rel=1e-5)


def test_resume_with_more_epochs_has_the_rate_of_the_longer_run(build, train, tmp_path):
    _, short = train(tmp_path / 'run', {'lr_warmup_steps': 5}, stop=(20,))
    longer = build(epochs=4, inner_iterations=2, n_prompts=0, lr_warmup_steps=5)
    restore_state(longer, CheckpointFolder(tmp_path / 'run').last()[0])
    fresh = build(epochs=4, inner_iterations=2, n_prompts=0, lr_warmup_steps=5)
    assert longer.optimizer.param_groups[0]['lr'] == 2e-3 * fresh.lr_schedule(20)
    assert longer.optimizer.param_groups[0]['lr'] > short.optimizer.param_groups[0]['lr']


def test_resume_with_another_learning_rate_and_batch_size(build, train, tracked, tmp_path):
    train(tmp_path / 'run', {'lr_warmup_steps': 5}, stop=(20,))
    conf = build(epochs=2, inner_iterations=2, n_prompts=0, lr_warmup_steps=5, batch_size=3,
                 **{'optimizer.learning_rate': 1e-3})
    restore_state(conf, CheckpointFolder(tmp_path / 'run').last()[0])
    conf.checkpointer.folder = tmp_path / 'run'
    tracked.clear()
    conf.run()
    assert max(tracked['lr']) < 1e-3
    # To 0 at the end, whatever the batch size
    assert 0 < tracked['lr'][-1] < 1e-5
    # Every window of the two epochs, each once
    n_windows = len(conf.train_tokens) // 16
    assert conf.progress.tokens == 2 * n_windows * 16
    assert conf.progress.steps == 20 + -(-(n_windows - 20 * 8) // 3) + -(-n_windows // 3)


def test_resume_adds_to_time_and_throughput(build, train, tmp_path):
    _, first = train(tmp_path / 'run', {}, stop=(40,))
    _, second = train(tmp_path / 'run', {}, resume=True)
    assert second.progress.seconds > first.progress.seconds > 0
    restored = build(epochs=2)
    restore_state(restored, CheckpointFolder(tmp_path / 'run').last()[0])
    assert restored.throughput.mean == pytest.approx(second.throughput.mean)
    assert restored.progress.seconds == second.progress.seconds


def test_generator_state_of_another_device_is_not_restored(build, train, tmp_path):
    """The state of a generator on a GPU cannot be used on the CPU."""
    train(tmp_path / 'run', {}, stop=(2,))
    checkpoint = CheckpointFolder(tmp_path / 'run').last()[0]
    checkpoint.metadata['rng']['mlm'] = ['cuda', 'AAAA']
    conf = build(epochs=2)
    before = conf.mlm.generator.get_state()
    restore_state(conf, checkpoint)
    assert torch.equal(conf.mlm.generator.get_state(), before)


def test_checkpoint_of_another_model_is_refused(build, train, tmp_path):
    train(tmp_path / 'run', {}, stop=(2,))
    checkpoint = CheckpointFolder(tmp_path / 'run').last()[0]
    with pytest.raises(UserError, match=r'the model of .*/2\d\d differs: .*size mismatch'):
        restore_state(build(d_model=32), checkpoint)


@pytest.mark.parametrize('part, value', [
    ('progress', 5), ('model', 5), ('optimizer', None),
    ('optimizer', {'state': {'$items': [[0, 5]]}}), ('schedule', 'x'), ('rng', {}), ('rng', None), ('throughput', {}),
    ('step_metrics', {'values': 5}), ('skipped_steps', {'total': 1}), ('trainer', [])])
def test_state_that_no_run_writes_is_refused_in_a_line(build, train, tmp_path, part, value):
    train(tmp_path / 'run', {}, stop=(2,))
    checkpoint = CheckpointFolder(tmp_path / 'run').last()[0]
    checkpoint = checkpoint._replace(metadata=checkpoint.metadata | {part: value})
    with pytest.raises(UserError, match=r' (differs|does not fit): ') as raised:
        restore_state(build(n_prompts=0), checkpoint)
    assert '\n' not in str(raised.value)


OLD = 'pack my box with five dozen liquor jugs\n' * 60


@pytest.mark.parametrize('values', [
    {}, {'replay_fraction': 0.3, 'packing': 'documents', 'text_unit': 'paragraph'},
    {'replay_fraction': 0.5, 'seq_len_schedule': '4:0.2,8:0.5,16', 'transformer.dropout': 0.2}])
@pytest.mark.parametrize('stops', [[(9,), (33,)], [(15, True)]])
def test_resume_with_old_text(assert_resumes_identically, tmp_path, values, stops):
    """Also in the validation on it."""
    path = tmp_path / 'old.txt'
    path.write_text(OLD.replace('jugs\n', 'jugs\n\n'))
    old = {'old_path': str(path), 'replay_path': str(path)}
    conf = assert_resumes_identically(values | old, stops)
    assert conf.train_loader.n_windows > 247


class StoppedInValidation(MLMConfigs):
    """A signal comes in the validation that follows the first one on old text."""

    def validation_step(self, batch):
        super().validation_step(batch)
        if self.progress.steps == 15 and self.is_stopped:
            raise Stopped

    is_stopped: bool = False


def test_resume_after_the_validation_on_old_text(train, tmp_path):
    path = tmp_path / 'old.txt'
    path.write_text(OLD)
    values = {'old_path': str(path), 'transformer.dropout': 0.2}
    uninterrupted, _ = train(tmp_path / 'uninterrupted', values, StoppedInValidation)
    # The configs stop on their own, before the signal
    first, conf = train(tmp_path / 'resumed', {**values, 'is_stopped': True}, StoppedInValidation, stop=(10 ** 9,))
    assert conf.progress.steps == 15 and conf.old_metrics.loss is not None
    second, _ = train(tmp_path / 'resumed', values, StoppedInValidation, resume=True)
    assert {name: first.get(name, []) + second[name] for name in second} == uninterrupted


@pytest.mark.parametrize('part', ['train_loader', 'trainer'])
def test_errors_of_ones_own_code_keep_their_traceback(part, monkeypatch):
    class Mine:
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            raise AttributeError('mine')

    monkeypatch.setattr(state, '_restore_model', lambda *_: {})
    conf = SimpleNamespace(**{'train_loader': None, 'trainer': None, part: Mine()})
    saved = SimpleNamespace(path=Path('step-1'), metadata={'data': {'epoch': 1}, 'trainer': {'epoch': 1}})
    with pytest.raises(AttributeError, match='mine'):
        state.restore_state(conf, saved, {})
