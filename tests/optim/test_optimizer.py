import math

import pytest
import torch
from torch import nn

from labml_mlm import MLMConfigs
from labml_mlm.optim.optimizer import MLMOptimizerConfigs, current_lr, has_own_schedule, weight_matrices

LABML_NN = ['Adam', 'AdamW', 'RAdam', 'AdaBelief', 'Noam', 'AdamWarmupCosineDecay']


def make(parameters, **values):
    conf = MLMOptimizerConfigs()
    conf._set_values({'parameters': list(parameters), 'd_model': 16, **values})
    return conf.optimizer


def parameter():
    return torch.nn.Parameter(torch.tensor([[1., -2.], [3., 4.]]))


def muon(matrices, others, **values):
    return make([*matrices, *others], optimizer='Muon', matrices=list(matrices), **values)


def step(optimizer, p):
    p.grad = 2 * p.detach()
    optimizer.step()


@pytest.mark.parametrize('name', [*LABML_NN, 'SGD', 'FusedAdamW'])
def test_every_optimizer_updates_parameters(name):
    p = parameter()
    optimizer = make([p], optimizer=name)
    before = p.detach().clone()
    # RAdam and AdaBelief do not update in the first steps
    for _ in range(10):
        step(optimizer, p)
    assert p.isfinite().all()
    assert not torch.equal(p, before)
    assert has_own_schedule(optimizer) == (name in LABML_NN)


def test_names_select_the_same_optimizers_as_in_labml_nn():
    from labml_nn.optimizers.adam_warmup import AdamWarmup
    from labml_nn.optimizers.noam import Noam
    assert type(make([parameter()], optimizer='AdamW')) is AdamWarmup
    assert type(make([parameter()], optimizer='Noam')) is Noam
    assert type(make([parameter()], optimizer='SGD')) is torch.optim.SGD
    assert type(make([parameter()])) is torch.optim.AdamW


def model_parameters():
    """Five matrices of an encoder, of three shapes, an embedding and a gain."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 4), (8, 4), (4, 8), (8, 4), (4, 4), (9, 4), (4,)]
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]


def random_steps(parameters, optimizers, n_steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def test_muon_equals_torchs_muon_for_encoder_matrices_and_adamw_for_others(monkeypatch):
    if not hasattr(torch.optim, 'Muon'):
        pytest.skip('torch has a Muon since 2.9')
    # torch's Muon computes in 16 bits otherwise
    monkeypatch.setattr(torch.Tensor, 'bfloat16', torch.Tensor.float)
    ours, (*matrices, embedding, gain) = model_parameters(), model_parameters()
    optimizer = muon(ours[:5], ours[5:], learning_rate=0.01, weight_decay=0.1, muon_momentum=0.9)
    random_steps(ours, [optimizer], 6)
    reference = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn='match_rms_adamw'),
        torch.optim.AdamW([embedding], lr=0.01, weight_decay=0.1, fused=False),
        torch.optim.AdamW([gain], lr=0.01, weight_decay=0., fused=False)]
    random_steps([*matrices, embedding, gain], reference, 6)
    for actual, expected in zip(ours, [*matrices, embedding, gain], strict=True):
        torch.testing.assert_close(actual, expected)


def test_muon_skips_matrices_without_a_gradient():
    a, b, *rest = model_parameters()
    optimizer = muon([a, b], rest)
    before = a.detach().clone()
    b.grad = torch.ones_like(b)
    optimizer.step()
    assert torch.equal(a, before) and a not in optimizer.state
    assert b in optimizer.state


def test_muon_updates_are_nearly_orthogonal():
    a, b, *rest = model_parameters()
    before = b.detach().clone()
    random_steps([a, b, *rest], [muon([a, b], rest, learning_rate=0.01)], 1)
    singular_values = torch.linalg.svdvals(b.detach() - before) / (0.01 * 0.2 * 8 ** 0.5)
    # Five Newton–Schulz iterations bring them this near to 1
    assert ((singular_values > 0.6) & (singular_values < 1.3)).all()


def test_muon_resumes_from_its_state_and_follows_a_schedule():
    uninterrupted, resumed = model_parameters(), model_parameters()
    optimizer, before = muon(uninterrupted[:5], uninterrupted[5:]), muon(resumed[:5], resumed[5:])
    random_steps(uninterrupted, [optimizer], 4)
    random_steps(resumed, [before], 4)
    after = muon(resumed[:5], resumed[5:])
    after.load_state_dict(before.state_dict())
    for parameters, one in ((uninterrupted, optimizer), (resumed, after)):
        schedule = torch.optim.lr_scheduler.LambdaLR(one, lambda step: 0.5)
        random_steps(parameters, [one], 3, seed=1)
        assert {group['lr'] for part in one.parts for group in part.param_groups} == {1e-3}
        schedule.step()
    for a, b in zip(uninterrupted, resumed, strict=True):
        assert torch.equal(a, b)


def test_fused_adamw_equals_adamw_and_decays_matrices_only():
    matrix, gain = parameter(), torch.nn.Parameter(torch.ones(3))
    optimizer = make([matrix, gain], weight_decay=0.1, learning_rate=0.01)
    twin = torch.nn.Parameter(matrix.detach().clone())
    reference = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.1, foreach=False, fused=False)
    for _ in range(5):
        gain.grad = torch.zeros(3)
        step(optimizer, matrix)
        step(reference, twin)
    torch.testing.assert_close(matrix, twin)
    assert torch.equal(gain, torch.ones(3))


@pytest.mark.parametrize('attention', ['relative', 'sdpa'])
@pytest.mark.parametrize('optimizer', ['FusedAdamW', 'Muon'])
def test_matrices_of_linear_layers_decay_and_nothing_else(optimizer, attention):
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', 'd_model': 16, 'transformer.n_heads': 2, 'transformer.n_layers': 2,
                      'transformer.encoder_attn': attention, 'transformer.src_embed': 'learned_pos',
                      'optimizer.optimizer': optimizer, 'optimizer.weight_decay': 0.1})
    decays = {id(p): group['weight_decay'] for group in conf.optimizer.param_groups for p in group['params']}
    decayed = {name for name, p in conf.model.named_parameters() if decays[id(p)]}
    linear = {f'{name}.weight' for name, module in conf.model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert decayed == linear
    assert len(decays) == sum(1 for _ in conf.model.parameters())


def test_muon_steps_parameters_that_are_added_later():
    ours, new = model_parameters(), torch.nn.Parameter(torch.ones(3))
    optimizer = muon(ours[:5], ours[5:], learning_rate=0.01, weight_decay=0.1)
    groups = len(optimizer.param_groups)
    optimizer.add_param_group({'params': [new], 'lr': 0.02})
    assert len(optimizer.param_groups) == groups + 1
    twin = torch.nn.Parameter(torch.ones(3))
    reference = torch.optim.AdamW([twin], lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for p in (new, twin):
            p.grad = torch.tensor([1., -1., 0.])
        optimizer.step()
        reference.step()
    torch.testing.assert_close(new, twin)
    with pytest.raises(ValueError, match='appear'):
        optimizer.add_param_group({'params': [ours[0]]})
    # With its state
    again = muon(ours[:5], ours[5:], learning_rate=0.01)
    again.add_param_group({'params': [new]})
    again.load_state_dict(optimizer.state_dict())
    assert again.state[new]['step'] == 3


def test_muon_evaluates_a_closure():
    ours = model_parameters()
    optimizer = muon(ours[:5], ours[5:], learning_rate=0.01)
    before = [p.detach().clone() for p in ours]

    def closure():
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in ours)
        loss.backward()
        return loss

    loss = optimizer.step(closure).item()
    assert loss == pytest.approx(sum(p.square().sum().item() for p in before))
    assert closure().item() < loss
    assert not any(torch.equal(p, q) for p, q in zip(ours, before, strict=True))
    assert optimizer.parts[0].step(closure) is not None


def test_current_learning_rate():
    p = parameter()
    noam = make([p], optimizer='Noam', learning_rate=1.0, warmup=10)
    for n in range(1, 21):
        step(noam, p)
        assert current_lr(noam) == pytest.approx(16 ** -0.5 * min(n ** -0.5, n * 10 ** -1.5))
    warmup = make([p], optimizer='AdamW', learning_rate=0.5, warmup=4)
    rates = []
    for _ in range(6):
        step(warmup, p)
        rates.append(current_lr(warmup))
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    adamw = make([p], learning_rate=0.25)
    step(adamw, p)
    assert current_lr(adamw) == 0.25


def test_current_learning_rate_is_the_size_of_the_first_adam_step():
    p = parameter()
    noam = make([p], optimizer='Noam', learning_rate=1.0, warmup=10)
    before = p.detach().clone()
    step(noam, p)
    assert (before - p).abs().max().item() == pytest.approx(current_lr(noam), rel=1e-3)
    assert not math.isclose(current_lr(noam), 1.0)


def test_embeddings_that_the_head_shares_do_not_decay():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5))
    model[2].weight = model[0].weight
    assert [id(matrix) for matrix in weight_matrices(model)] == [id(model[1].weight)]
