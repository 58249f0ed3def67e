"""Dropout, beside torch's and beside what it promises."""
import pytest
import torch
from torch.nn import functional

from labml_mlm.model.attention import SDPA
from labml_mlm.model.dropout import Dropout, dropout


@pytest.mark.parametrize('p', [0.1, 0.5, 0.999])
def test_share_that_is_dropped(p):
    n = 1_000_000
    dropped = (dropout(torch.ones(n), p) == 0).sum().item()
    # 5 standard deviations
    assert abs(dropped - p * n) < 5 * (p * (1 - p) * n) ** 0.5


def test_what_is_kept_is_scaled_and_the_mean_stays():
    x = torch.randn(1000, 301)
    y = dropout(x, 0.25)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert dropout(torch.ones(1_000_000), 0.1).mean().item() == pytest.approx(1, abs=2e-3)


def test_elements_are_dropped_independently():
    """Those that share random bits, too, and the same element of two calls."""
    kept = (dropout(torch.ones(2, 400_000), 0.5) != 0).double()
    for other in (kept[1, :-7], *(kept[0, i:i - 7] for i in range(1, 7))):
        assert abs(torch.corrcoef(torch.stack([kept[0, :-7], other]))[0, 1]) < 5 / 400_000 ** 0.5


def test_gradients_are_those_of_the_same_mask():
    x = torch.randn(13, 7, requires_grad=True)
    torch.manual_seed(3)
    y = dropout(x, 0.4)
    weights = torch.randn(13, 7)
    (y * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights * (y != 0) / 0.6, rtol=1e-4, atol=0)
    torch.manual_seed(3)
    assert torch.autograd.gradcheck(lambda x: [torch.manual_seed(3), dropout(x, 0.4)][1], x.detach().double()
                                    .requires_grad_())


@pytest.mark.parametrize('p', [0., 1., 1e-6])
def test_probabilities_at_the_ends_are_torchs(p):
    x = torch.randn(50, 3)
    torch.manual_seed(1)
    ours = dropout(x, p)
    torch.manual_seed(1)
    assert torch.equal(ours, functional.dropout(x, p))


def test_it_follows_the_generator():
    x = torch.ones(33, 5)
    torch.manual_seed(1)
    first = [dropout(x, 0.5), dropout(x, 0.5)]
    torch.manual_seed(1)
    assert all(torch.equal(dropout(x, 0.5), y) for y in first)
    assert not torch.equal(*first)


def test_shapes_and_types_stay():
    for x in (torch.ones(()), torch.ones(0, 3), torch.ones(5, 3).T, torch.ones(7, dtype=torch.bfloat16)):
        y = dropout(x, 0.5)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert ((y == 0) | (y == 2)).all()
    module, x = Dropout(0.5), torch.ones(100)
    assert module.eval()(x) is x
    assert (module.train()(x) == 0).any() and (x == 1).all()


@pytest.mark.parametrize('masked', [False, True])
def test_attention_with_dropout_is_that_of_torch_without_as_it_goes_to_none(masked):
    """Its slow twin: at a probability of 1 in 65,536, none of 486 weights is dropped with this seed."""
    attention, twin = (SDPA(2, 16, p, is_rotary=True, is_dropout_fast=True).train() for p in (1.6e-5, 0.))
    twin.load_state_dict(attention.state_dict())
    x = torch.randn(9, 3, 16)
    mask = (torch.rand(9, 9, 3) < 0.7) | torch.eye(9, dtype=torch.bool)[:, :, None] if masked else None
    outputs, gradients = [], []
    for module in (attention, twin):
        torch.manual_seed(5)
        y = x.clone().requires_grad_()
        outputs.append(module(query=y, key=y, value=y, mask=mask))
        outputs[-1].square().sum().backward()
        gradients.append(y.grad)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_mean_of_attention_with_dropout_is_that_without():
    """Weights are dropped, not values or scores."""
    attention = SDPA(2, 16, dropout_prob=0.3, is_dropout_fast=True).train()
    x = torch.randn(6, 1, 16)
    many = x.expand(6, 20_000, 16)
    with torch.no_grad():
        mean = attention(query=many, key=many, value=many).mean(dim=1)
        exact = attention.eval()(query=x, key=x, value=x)[:, 0]
    torch.testing.assert_close(mean, exact, rtol=0, atol=2e-2)
