import pytest
import torch

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.schema import config_items
from labml_mlm.optim import schedules


def test_learning_rate_of_torchs_optimizer_follows_the_schedule(build, tracked, train_steps):
    conf = build(lr_warmup_steps=4, min_lr_ratio=0.1, epochs=1)
    n_steps = len(conf.train_loader)
    train_steps(conf, n_steps)
    rates = [rate / 2e-3 for rate in tracked['lr']]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0.1 < rates[-1] < 0.2


def test_optimizers_of_labml_nn_have_their_own_schedule(build, tracked, train_steps):
    conf = build(**{'optimizer.optimizer': 'Noam', 'optimizer.learning_rate': 1.0, 'optimizer.warmup': 3})
    train_steps(conf, 5)
    assert tracked['lr'] == pytest.approx([16 ** -0.5 * min(n ** -0.5, n * 3 ** -1.5) for n in range(1, 6)])


def test_constant_learning_rate(build, tracked, train_steps):
    train_steps(build(lr_schedule='constant'), 3)
    assert tracked['lr'] == pytest.approx([2e-3] * 3)


@pytest.mark.parametrize('name, expected', [
    ('warmup_linear', lambda step: schedules.warmup_linear(step, warmup_steps=4, total_steps=62, min_ratio=0.1)),
    ('wsd', lambda step: schedules.warmup_stable_decay(step, warmup_steps=4, total_steps=62, min_ratio=0.1,
                                                       decay_fraction=0.25)),
    ('inverse_sqrt', lambda step: schedules.inverse_sqrt(step, warmup_steps=4)),
    ('noam', lambda step: schedules.noam(step, warmup_steps=4, d_model=16)),
])
def test_learning_rate_schedule_by_name(build, tracked, name, expected, train_steps):
    conf = build(lr_schedule=name, lr_warmup_steps=4, min_lr_ratio=0.1, lr_decay_fraction=0.25, epochs=2)
    assert len(conf.train_loader) == 31
    assert conf.lr_schedule(20) == pytest.approx(expected(20))
    train_steps(conf, 31)
    assert tracked['lr'] == pytest.approx([2e-3 * expected(step) for step in range(31)])


class MuonByDefault(MLMConfigs):
    optimizer = 'muon'


@pytest.mark.parametrize('class_, given, name, rate', [
    (MLMConfigs, [], 'AdamW', 2e-3), (MLMConfigs, ['optimizer=muon'], 'MuonAdamW', 1e-2),
    (MuonByDefault, [], 'MuonAdamW', 1e-2), (MuonByDefault, ['optimizer=mlm'], 'AdamW', 2e-3),
    (MuonByDefault, ['optimizer.learning_rate=0.5'], 'MuonAdamW', 0.5),
])
def test_optimizer_option_sets_optimizer_and_learning_rate(build, class_, given, name, rate):
    conf = build(class_, lr_schedule='constant', **parse_overrides(class_(), given))
    assert type(conf.optimizer).__name__ == name
    assert {group['lr'] for group in conf.optimizer.param_groups} == {rate}


def test_muon_optimizes_weights_of_linear_layers_of_the_encoder(build, tracked, train_steps):
    """Not the biases of labml_nn's relative attention, which are matrices, too."""
    conf = build(optimizer='muon', lr_warmup_steps=5, **{'transformer.encoder_attn': 'relative',
                                                         'transformer.n_layers': 2})
    names = {id(p): name for name, p in conf.model.named_parameters()}
    matrices = [names[id(p)] for p in conf.optimizer.parts[0].param_groups[0]['params']]
    assert len(matrices) == 2 * 6
    assert all(name.startswith('encoder.layers') and name.endswith('weight') for name in matrices)
    assert sum(len(group['params']) for group in conf.optimizer.param_groups) == len(list(conf.model.parameters()))
    train_steps(conf, 31)
    assert sum(tracked['loss.'][-5:]) / 5 < tracked['loss.'][0] - 0.2


def test_help_shows_the_defaults_of_a_given_option(project):
    out = project.run('optimizer=muon', '--help').stdout
    assert 'optimizer.learning_rate = 0.01\n' in out
    assert 'optimizer.learning_rate = 0.002\n' in project.run('--help').stdout


def test_items_have_the_defaults_of_the_default_option():
    plain, muon = (config_items(class_()) for class_ in (MLMConfigs, MuonByDefault))
    for items, expected in ((plain, ['mlm', 'FusedAdamW', 2e-3]), (muon, ['muon', 'Muon', 1e-2])):
        names = ['optimizer', 'optimizer.optimizer', 'optimizer.learning_rate']
        assert [items[item].default for item in names] == expected


def test_gradients_are_clipped(build, tracked, train_steps):
    conf = build(grad_norm_clip=1e-3, **{'optimizer.optimizer': 'SGD', 'optimizer.learning_rate': 1.0,
                                         'optimizer.momentum': 0., 'lr_schedule': 'constant'})
    before = torch.cat([p.detach().flatten() for p in conf.model.parameters()])
    train_steps(conf, 1)
    after = torch.cat([p.detach().flatten() for p in conf.model.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-2)


def rates_and_names(conf):
    """The learning rate of each parameter, in the order in which checkpoints number them."""
    names = {id(p): name for name, p in conf.model.named_parameters()}
    return {names[id(p)]: group['lr'] for group in conf.optimizer.param_groups for p in group['params']}


@pytest.mark.parametrize('optimizer, n_groups', [('mlm', 3), ('muon', 4)])
def test_layer_decay_scales_learning_rates_and_keeps_the_order_of_parameters(build, tracked, train_steps, optimizer,
                                                                             n_groups):
    values = {'optimizer': optimizer, 'lr_schedule': 'warmup_linear', 'lr_warmup_steps': 3, 'epochs': 1,
              'transformer.n_layers': 3}
    plain, decayed = build(**values), build(**values, lr_layer_decay=0.5)
    assert len(plain.optimizer.param_groups) == n_groups < len(decayed.optimizer.param_groups)
    assert list(rates_and_names(plain)) == list(rates_and_names(decayed))
    for conf in (plain, decayed):
        train_steps(conf, 8)
    # The highest rate is tracked: that of the head
    assert tracked['lr'][:8] == pytest.approx(tracked['lr'][8:])
    [rate] = {*rates_and_names(plain).values()}
    scales = {'src_embed.': 1 / 16, 'encoder.layers.0.': 1 / 8, 'encoder.layers.1.': 1 / 4, 'encoder.layers.2.': 1 / 2}
    for name, found in rates_and_names(decayed).items():
        scale = next((scale for part, scale in scales.items() if name.startswith(part)), 1.)
        assert found == pytest.approx(rate * scale), name


@pytest.mark.parametrize('optimizer, name', [('Adam', 'Adam'), ('AdamW', 'AdamWarmup'), ('SGD', 'SGD')])
def test_layer_decay_with_other_optimizers_is_refused(build, optimizer, name):
    with pytest.raises(UserError, match='lr_layer_decay=0.9 is for optimizer.optimizer=FusedAdamW and Muon: '
                                        f'{name} has the same learning rate for all layers'):
        build(lr_layer_decay=0.9, **{'optimizer.optimizer': optimizer})


def test_the_step_at_which_decay_begins(build):
    values = {'epochs': 2, 'lr_warmup_steps': 4, 'lr_decay_fraction': 0.25}
    conf = build(lr_schedule='wsd', **values)
    first = next(step for step in range(4, 62) if conf.lr_schedule(step + 1) < 1)
    assert conf._decay_begin == first == 46
    assert build(lr_schedule='wsd', max_steps=20, lr_warmup_steps=4, lr_decay_fraction=0.25)._decay_begin == 15
    assert build(**values)._decay_begin is None
    # Which has a schedule of its own
    assert build(lr_schedule='wsd', **values, **{'optimizer.optimizer': 'Adam'})._decay_begin is None
