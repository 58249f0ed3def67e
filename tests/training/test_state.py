import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labml.configs import option
from labml.internal.monitor import monitor_singleton
from labml_helpers.metrics.accuracy import Accuracy
from labml_helpers.train_valid import BatchIndex
from support.stop import StopAt

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.windows import Windows
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.training.progress import Progress
from labml_mlm.training.serialization import pack, unpack
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import restore_state

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.just('$tensor') | st.just('$items')
nested = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(keys, inner) |
                      st.lists(inner).map(tuple), max_leaves=20)


def through_json(value):
    import json
    return json.loads(json.dumps(value))


@given(nested)
def test_what_is_unpacked_is_what_was_packed(value):
    assert unpack(through_json(pack(value, {})), {}) == value


def test_tensors_go_to_the_table():
    state = {'state': {0: {'step': torch.tensor(3.), 'exp_avg': torch.ones(2, 3).T}, 1: {'step': 4}},
             'groups': [{'betas': (0.9, 0.98), 'params': [0, 1]}]}
    tensors = {}
    packed = through_json(pack(state, tensors))
    assert set(tensors) == {'state.0.step', 'state.0.exp_avg'}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    back = unpack(packed, tensors)
    assert torch.equal(back['state'][0]['exp_avg'], state['state'][0]['exp_avg'])
    assert back['groups'] == state['groups'] and back['state'][1] == {'step': 4}
    # Copies both ways: what trains on does not change what was saved
    state['state'][0]['exp_avg'].zero_()
    back['state'][0]['exp_avg'].zero_()
    assert tensors['state.0.exp_avg'].sum() == 6


def test_names_that_meet():
    state = {'a': {'b': torch.zeros(1)}, 'a.b': torch.ones(1), 'c': [torch.full((1,), 2.)], 'c.0': torch.full((1,), 3.)}
    tensors = {}
    back = unpack(through_json(pack(state, tensors)), tensors)
    assert [back['a']['b'], back['a.b'], back['c'][0], back['c.0']] == [0., 1., 2., 3.]


def test_what_cannot_be_held():
    with pytest.raises(TypeError, match=r'a checkpoint cannot hold a\.0\.b, which is a object'):
        pack({'a': [{'b': object()}]}, {})


def run(build, tracked, folder, values, class_=MLMConfigs, *, stop=None, resume=False):
    """What was tracked of a run, to its end or until it is stopped."""
    conf = build(class_, **{'epochs': 2, 'inner_iterations': 2, 'n_prompts': 0, 'checkpoint_interval': None, **values})
    conf.checkpointer.folder = folder
    tracked.clear()
    # labml's monitor is still in the loop that was stopped
    monitor_singleton().clear()
    if resume:
        restore_state(conf, CheckpointFolder(folder).last()[0])
    if stop is None:
        conf.run()
    else:
        StopAt(conf, *stop)
        with pytest.raises(Stopped):
            conf.run()
    return {name: list(list_) for name, list_ in tracked.items() if name != 'tokens_per_second'}, conf


def assert_same(build, tracked, tmp_path, values, stops, class_=MLMConfigs):
    whole, _ = run(build, tracked, tmp_path / 'whole', values, class_)
    parts = {}
    for i, stop in enumerate([*stops, None]):
        # Whatever other code draws in the meantime
        torch.rand(3), random.random(), np.random.rand(2)
        tracks, conf = run(build, tracked, tmp_path / 'parts', values, class_, stop=stop, resume=i > 0)
        for name, list_ in tracks.items():
            parts.setdefault(name, []).extend(list_)
    assert parts == whole
    assert len(whole['loss.']) > 50
    return conf


# 31 batches an epoch, 15 in its first round and 16 in its second
@pytest.mark.parametrize('stops', [
    [(1,)], [(5,)], [(15,)], [(15, True)], [(16,)], [(31,)], [(31, True)], [(32,)], [(62, True)],
    [(3,), (4,), (14,), (15, True), (40,)],
])
def test_a_run_in_parts_is_the_run_as_a_whole(build, tracked, tmp_path, stops):
    """Bit for bit, wherever it stops: in a round, at its end, in validation."""
    assert_same(build, tracked, tmp_path, {'transformer.dropout': 0.2}, [tuple(stop) for stop in stops])


@pytest.mark.parametrize('values', [
    {'optimizer.optimizer': name} for name in
    ['FusedAdamW', 'Muon', 'SGD', 'Adam', 'AdamW', 'RAdam', 'AdaBelief', 'Noam', 'AdamWarmupCosineDecay']
] + [{'lr_schedule': 'constant', 'optimizer.amsgrad': True}, {'optimizer.optimizer': 'Adam', 'optimizer.amsgrad': True},
     {'transformer.encoder_attn': 'relative', 'optimizer.weight_decay': 0.1},
     {'transformer.src_embed': 'learned_pos', 'transformer.encoder_attn': 'mha'}])
def test_with_every_optimizer(build, tracked, tmp_path, values):
    assert_same(build, tracked, tmp_path, values, [(9,), (33,)])


@pytest.mark.parametrize('values, lengths', [
    ({'masking_schedule': 'linear', 'seq_len_schedule': '4:0.2,8:0.5,16', 'lr_schedule': 'wsd', 'masking': 'word'},
     [4] * 13 + [8] * 18 + [16] * 31),
    ({'masking_schedule': 'cosine', 'seq_len_schedule': '4..16:0.75', 'is_token_budget_constant': False,
      'lr_schedule': 'inverse_sqrt', 'masking': 'span'}, [4] * 16 + [8] * 31 + [16] * 15),
])
def test_every_schedule_goes_on(build, tracked, tmp_path, values, lengths):
    conf = assert_same(build, tracked, tmp_path, values, [(7,), (15, True), (20,), (47,)])
    whole, conf = run(build, tracked, tmp_path / 'again', values)
    assert whole['seq_len'] == lengths
    assert whole['masking_prob'][0] == 0.3
    assert whole['masking_prob'] == sorted(whole['masking_prob'], reverse=True)
    assert 0.15 < whole['masking_prob'][-1] < 0.16
    n_windows = conf.train_loader.n_windows
    constant = values.get('is_token_budget_constant', True)
    assert conf.progress.tokens == (2 * n_windows * 16 if constant else
                                    sum(8 * length for length in lengths) - (8 - n_windows % 8) * (8 + 16))


class DrawingConfigs(MLMConfigs):
    """Draws from all global generators in a step."""

    def step(self, batch: torch.Tensor, batch_idx: BatchIndex):
        super().step(batch, batch_idx)
        from labml import tracker
        tracker.add('drawn', random.random() + np.random.rand() + torch.rand(()).item())


def test_all_generators_go_on(build, tracked, tmp_path):
    for seed in (random.seed, np.random.seed):
        seed(3)
    whole, _ = run(build, tracked, tmp_path / 'whole', {}, DrawingConfigs)
    for seed in (random.seed, np.random.seed):
        seed(3)
    first, _ = run(build, tracked, tmp_path / 'parts', {}, DrawingConfigs, stop=(10,))
    for seed in (random.seed, np.random.seed):
        seed(4)
    second, _ = run(build, tracked, tmp_path / 'parts', {}, DrawingConfigs, resume=True)
    assert first['drawn'] + second['drawn'] == whole['drawn']


class Plain:
    """A loader without a state."""

    def __init__(self, c):
        self.windows = c.train_tokens[:1600].view(100, 16)

    def __len__(self):
        return 30

    def __iter__(self):
        return (self.windows[3 * i:3 * i + 3].T.long() for i in range(30))


class Stateful(Plain):
    """One that draws its order and can go to a place, as torch's stateful loaders."""
    epoch, place = 0, 0

    def state_dict(self):
        return {'epoch': self.epoch, 'place': torch.tensor(self.place)}

    def load_state_dict(self, state):
        self.epoch, self.place = state['epoch'], state['place'].item()

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(30)
        for i in order[self.place:]:
            self.place += 1
            if self.place == 30:
                self.epoch, self.place = self.epoch + 1, 0
            yield self.windows[3 * i:3 * i + 3].T.long()


class LoaderConfigs(MLMConfigs):
    """With loaders of one's own."""
    train_loader: Plain = 'plain'


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
def test_loaders_of_ones_own(build, tracked, tmp_path, train_loader, stops):
    assert_same(build, tracked, tmp_path, {'train_loader': train_loader, 'transformer.dropout': 0.2}, stops,
                LoaderConfigs)


class ExponentialConfigs(MLMConfigs):
    """With a schedule whose state is the rate."""
    scheduler: torch.optim.lr_scheduler.LRScheduler = 'exponential'


@option(ExponentialConfigs.scheduler, 'exponential')
def _exponential(c: ExponentialConfigs):
    return torch.optim.lr_scheduler.ExponentialLR(c.optimizer, gamma=0.97)


class MeanRate(torch.optim.lr_scheduler.ExponentialLR):
    """One with a tensor in its state."""

    def __init__(self, *arguments, **options):
        self.total = torch.zeros(())
        super().__init__(*arguments, **options)

    def step(self, *arguments):
        super().step(*arguments)
        self.total += self.get_last_lr()[0]


@option(ExponentialConfigs.scheduler, 'mean_rate')
def _mean_rate(c: ExponentialConfigs):
    return MeanRate(c.optimizer, gamma=0.97)


def test_a_schedule_with_a_tensor_in_its_state(build, tracked, tmp_path):
    conf = assert_same(build, tracked, tmp_path, {'scheduler': 'mean_rate'}, [(20,)], ExponentialConfigs)
    # That of each step, and of the start
    assert conf.scheduler.total.item() == pytest.approx(sum(2e-3 * 0.97 ** i for i in range(63)), rel=1e-5)


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


def test_metrics_of_labml_helpers(build, tracked, tmp_path):
    assert_same(build, tracked, tmp_path, {'inner_iterations': 1}, [(7,), (31,), (50,)], AccuracyConfigs)
    # Of 31 batches every third is right; the metric has none of them lost
    assert pytest.approx(11 / 31) in tracked['accuracy.']


def test_a_schedule_with_a_state(build, tracked, tmp_path):
    conf = assert_same(build, tracked, tmp_path, {}, [(20,)], ExponentialConfigs)
    assert conf.optimizer.param_groups[0]['lr'] == pytest.approx(2e-3 * 0.97 ** 62)


def test_a_run_that_is_stretched_has_the_rate_of_the_longer_run(build, tracked, tmp_path):
    _, short = run(build, tracked, tmp_path / 'a', {'lr_warmup_steps': 5}, stop=(20,))
    longer = build(epochs=4, inner_iterations=2, n_prompts=0, lr_warmup_steps=5)
    restore_state(longer, CheckpointFolder(tmp_path / 'a').last()[0])
    fresh = build(epochs=4, inner_iterations=2, n_prompts=0, lr_warmup_steps=5)
    assert longer.optimizer.param_groups[0]['lr'] == 2e-3 * fresh.lr_schedule(20)
    assert longer.optimizer.param_groups[0]['lr'] > short.optimizer.param_groups[0]['lr']


def test_another_learning_rate_and_batch_size(build, tracked, tmp_path):
    run(build, tracked, tmp_path / 'a', {'lr_warmup_steps': 5}, stop=(20,))
    conf = build(epochs=2, inner_iterations=2, n_prompts=0, lr_warmup_steps=5, batch_size=3,
                 **{'optimizer.learning_rate': 1e-3})
    restore_state(conf, CheckpointFolder(tmp_path / 'a').last()[0])
    conf.checkpointer.folder = tmp_path / 'a'
    tracked.clear()
    conf.run()
    assert max(tracked['lr']) < 1e-3
    # To 0 at the end, whatever a batch is
    assert 0 < tracked['lr'][-1] < 1e-5
    # Every window of the two epochs, each once
    n_windows = len(conf.train_tokens) // 16
    assert conf.progress.tokens == 2 * n_windows * 16
    assert conf.progress.steps == 20 + -(-(n_windows - 20 * 8) // 3) + -(-n_windows // 3)


def test_time_and_speed_are_those_of_all_parts(build, tracked, tmp_path):
    _, first = run(build, tracked, tmp_path / 'a', {}, stop=(40,))
    _, second = run(build, tracked, tmp_path / 'a', {}, resume=True)
    assert second.progress.seconds > first.progress.seconds > 0
    restored = build(epochs=2)
    restore_state(restored, CheckpointFolder(tmp_path / 'a').last()[0])
    assert restored.throughput.mean == pytest.approx(second.throughput.mean)
    assert restored.progress.seconds == second.progress.seconds


def test_masks_of_another_device(build, tracked, tmp_path):
    """The state of a generator on a GPU is nothing for one on the CPU."""
    run(build, tracked, tmp_path / 'a', {}, stop=(2,))
    found = CheckpointFolder(tmp_path / 'a').last()[0]
    found.metadata['rng']['mlm'] = ['cuda', 'AAAA']
    conf = build(epochs=2)
    before = conf.mlm.generator.get_state()
    restore_state(conf, found)
    assert torch.equal(conf.mlm.generator.get_state(), before)


def test_another_model(build, tracked, tmp_path):
    run(build, tracked, tmp_path / 'a', {}, stop=(2,))
    found = CheckpointFolder(tmp_path / 'a').last()[0]
    with pytest.raises(UserError, match=r'the model of .*/2\d\d is another one: .*size mismatch'):
        restore_state(build(d_model=32), found)


def test_progress_of_a_round():
    progress, loader = Progress(), TrainLoader(Windows(torch.arange(29), seq_len=1), batch_size=8, seed=0)
    for _ in range(3):
        progress.end_step(loader)
    progress.end_round(2)
    assert (progress.epoch, progress.round, progress.batches, progress.windows, progress.steps) == (0, 1, 3, 24, 3)
    assert progress.steps_left(loader, epochs=3) == 1 + 4 + 4
    assert progress.fraction_done(loader, epochs=3) == pytest.approx(24 / 29 / 3)
    progress.end_step(loader)
    assert (progress.windows, progress.fraction_done(loader, epochs=3)) == (29, 1 / 3)
    # One that has no windows to count
    assert progress.steps_left([None] * 5, epochs=3) == 1 + 5 + 5
    assert progress.fraction_done([None] * 5, epochs=3) == pytest.approx(4 / 5 / 3)
    progress.end_round(2)
    assert (progress.epoch, progress.round, progress.batches, progress.windows, progress.steps) == (1, 0, 0, 0, 4)
    assert progress.fraction_done(loader, epochs=3) == 1 / 3
    other = Progress()
    other.load_state_dict(through_json(progress.state_dict()))
    assert other.state_dict() == progress.state_dict()
