import math

import pytest
import torch

from labml_mlm.optimizer import MLMOptimizerConfigs, has_own_schedule, learning_rate

LABML_NN = ['Adam', 'AdamW', 'RAdam', 'AdaBelief', 'Noam', 'AdamWarmupCosineDecay']


def make(parameters, **values):
    conf = MLMOptimizerConfigs()
    conf._set_values({'parameters': list(parameters), 'd_model': 16, **values})
    return conf.optimizer


def parameter():
    return torch.nn.Parameter(torch.tensor([[1., -2.], [3., 4.]]))


def step(optimizer, p):
    p.grad = 2 * p.detach()
    optimizer.step()


@pytest.mark.parametrize('name', [*LABML_NN, 'SGD', 'FusedAdamW'])
def test_every_optimizer_steps(name):
    p = parameter()
    optimizer = make([p], optimizer=name)
    before = p.detach().clone()
    # RAdam and AdaBelief wait for some gradients
    for _ in range(10):
        step(optimizer, p)
    assert p.isfinite().all()
    assert not torch.equal(p, before)
    assert has_own_schedule(optimizer) == (name in LABML_NN)


def test_names_keep_labml_nns_meaning():
    from labml_nn.optimizers.adam_warmup import AdamWarmup
    from labml_nn.optimizers.noam import Noam
    assert type(make([parameter()], optimizer='AdamW')) is AdamWarmup
    assert type(make([parameter()], optimizer='Noam')) is Noam
    assert type(make([parameter()], optimizer='SGD')) is torch.optim.SGD
    assert type(make([parameter()])) is torch.optim.AdamW


def test_fused_adamw_equals_the_plain_one_and_decays_matrices_only():
    matrix, gain = parameter(), torch.nn.Parameter(torch.ones(3))
    optimizer = make([matrix, gain], weight_decay=0.1, learning_rate=0.01)
    twin = torch.nn.Parameter(matrix.detach().clone())
    slow = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.1, foreach=False, fused=False)
    for _ in range(5):
        gain.grad = torch.zeros(3)
        step(optimizer, matrix)
        step(slow, twin)
    torch.testing.assert_close(matrix, twin)
    assert torch.equal(gain, torch.ones(3))


def test_rate_in_force():
    p = parameter()
    noam = make([p], optimizer='Noam', learning_rate=1.0, warmup=10)
    for n in range(1, 21):
        step(noam, p)
        assert learning_rate(noam) == pytest.approx(16 ** -0.5 * min(n ** -0.5, n * 10 ** -1.5))
    warmup = make([p], optimizer='AdamW', learning_rate=0.5, warmup=4)
    rates = []
    for _ in range(6):
        step(warmup, p)
        rates.append(learning_rate(warmup))
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    adamw = make([p], learning_rate=0.25)
    step(adamw, p)
    assert learning_rate(adamw) == 0.25


def test_rate_in_force_is_what_moves_the_weights():
    # The first step of Adam moves each weight by the rate
    p = parameter()
    noam = make([p], optimizer='Noam', learning_rate=1.0, warmup=10)
    before = p.detach().clone()
    step(noam, p)
    assert (before - p).abs().max().item() == pytest.approx(learning_rate(noam), rel=1e-3)
    assert not math.isclose(learning_rate(noam), 1.0)
