import pytest
import torch
from labml_nn.transformers.mha import MultiHeadAttention

from labml_mlm.common.errors import UserError
from labml_mlm.model.attention import SDPA


def twins(**kwargs):
    torch.manual_seed(0)
    mha = MultiHeadAttention(4, 32, 0., **kwargs)
    sdpa = SDPA(4, 32, **kwargs)
    sdpa.load_state_dict(mha.state_dict())
    assert mha.state_dict().keys() == sdpa.state_dict().keys()
    return mha, sdpa


def masks(seq_len, batch_size):
    some = torch.rand(seq_len, seq_len, batch_size) < 0.6
    some[:, 0] = True
    return {'none': None, 'full': some, 'keys': some[:1], 'shared': some[:, :, :1]}


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('mask', ['none', 'full', 'keys', 'shared'])
@pytest.mark.parametrize('is_self', [True, False])
def test_sdpa_equals_mha(mask, is_self, bias):
    mha, sdpa = twins(bias=bias)
    mask = masks(9, 3)[mask]
    results = []
    for attention in (mha, sdpa):
        query = torch.randn(9, 3, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        other = query if is_self else torch.randn(9, 3, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
        out = attention(query=query, key=other, value=other, mask=mask)
        (out ** 2).sum().backward()
        results.append([out, query.grad, other.grad, *(p.grad for p in attention.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def reference_rotation(x):
    """Rotary positions of `[seq_len, batch_size, heads, d_k]`, one position and one pair of features at a time."""
    seq_len, _, _, d_k = x.shape
    out = torch.empty_like(x)
    for m in range(seq_len):
        for i in range(d_k // 2):
            pair = torch.complex(x[m, ..., i], x[m, ..., i + d_k // 2])
            pair = pair * torch.exp(torch.tensor(1j * m * 10_000 ** (-2 * i / d_k)))
            out[m, ..., i], out[m, ..., i + d_k // 2] = pair.real, pair.imag
    return out


def rotate(attention, x):
    """The same by `SDPA`, which expects the features of a pair next to each other."""
    pairs = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    return attention._rotate(pairs[:, :, None])[:, :, 0].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


@pytest.mark.parametrize('is_self', [True, False])
def test_rotary_attention_equals_attention_of_rotated_queries_and_keys(is_self):
    attention = SDPA(2, 16, is_rotary=True)
    x, other = torch.randn(7, 3, 16), torch.randn(9, 3, 16)
    other = x if is_self else other
    q, k, v = (layer(y) for layer, y in zip((attention.query, attention.key, attention.value), (x, other, other),
                                            strict=True))
    scores = torch.einsum('ibhd,jbhd->ijbh', reference_rotation(q), reference_rotation(k)) / 8 ** 0.5
    expected = attention.output(torch.einsum('ijbh,jbhd->ibhd', scores.softmax(dim=1), v).flatten(2))
    output = attention(query=x, key=other, value=other)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 2, 16)
    gradients = [torch.autograd.grad((y * weights).sum(), list(attention.parameters()), allow_unused=True)
                 for y in (output, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_rotation_with_real_numbers_equals_that_with_complex_numbers():
    """Real numbers are used by the compiler and in 16 bits."""
    attention = SDPA(2, 16, is_rotary=True)
    x = torch.randn(7, 3, 2, 8)
    torch.testing.assert_close(rotate(attention, x.double()).float(), rotate(attention, x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rotate(attention, x.bfloat16()).float(), rotate(attention, x), rtol=2e-2, atol=2e-2)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = x.to(dtype).requires_grad_()
        (rotate(attention, leaf) * torch.linspace(-1, 2, 8)).sum().backward()
        gradients.append(leaf.grad.float())
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_rotation():
    attention = SDPA(2, 16, is_rotary=True)
    x = torch.randn(7, 3, 3, 2, 8)
    gradients = []
    for rotation in (lambda y: rotate(attention, y), reference_rotation):
        leaf = x.clone().requires_grad_()
        (rotation(leaf[:, :, 1]) * torch.linspace(-1, 2, 8)).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_rotation_by_position_for_sequences_of_changing_length():
    attention = SDPA(2, 16, is_rotary=True)
    x = torch.randn(7, 3, 2, 8)
    torch.testing.assert_close(rotate(attention, x), reference_rotation(x), rtol=1e-5, atol=1e-5)
    # A longer sequence, which extends the cache, and the shorter one again
    longer = torch.randn(20, 1, 2, 8)
    torch.testing.assert_close(rotate(attention, longer), reference_rotation(longer), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotate(attention, x), reference_rotation(x), rtol=1e-5, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_only():
    attention = SDPA(1, 16, is_rotary=True)
    q, k = torch.randn(16), torch.randn(16)
    rotated_q, rotated_k = (rotate(attention, t.expand(30, 1, 1, 16)).flatten(1) for t in (q, k))
    # `[30, 30]`; equal along each diagonal
    scores = rotated_q @ rotated_k.T
    torch.testing.assert_close(scores[5:, 5:], scores[:-5, :-5], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[0, 0], scores[0, 7], atol=1e-3)


@pytest.mark.parametrize('is_rotary', [True, False])
@pytest.mark.parametrize('frozen', ['', 'query.linear.weight', 'bias', 'weight', 'input'])
def test_projection_in_one_tensor_equals_that_of_autograd(frozen, is_rotary, monkeypatch):
    """The path of a CPU in 32 bits, and that of the compiler and of 16 bits."""
    attention = SDPA(2, 16, is_rotary=is_rotary)
    for name, parameter in attention.named_parameters():
        parameter.requires_grad_(not (frozen and name.endswith(frozen)))
    x, mask, results = torch.randn(7, 3, 16), masks(7, 3)['full'], []
    for is_fast in (True, False):
        monkeypatch.setattr('labml_mlm.model.attention._is_eager_fp32', lambda x, is_fast=is_fast: is_fast)
        attention.zero_grad()
        leaf = x.clone().requires_grad_(frozen != 'input')
        output = attention(query=leaf, key=leaf, value=leaf, mask=mask)
        (output * torch.linspace(-1, 2, 16)).sum().backward()
        names = [type(node).__name__ for node in ancestors(output.grad_fn)]
        assert ('_ProjectionBackward' in names) == is_fast
        results.append([output, leaf.grad, *(p.grad for p in attention.parameters())])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def ancestors(node):
    """A node of autograd, and all before it."""
    return [node] + [one for before, _ in node.next_functions if before is not None for one in ancestors(before)]


def test_rotary_adds_no_parameters():
    assert SDPA(2, 16, is_rotary=True).state_dict().keys() == MultiHeadAttention(2, 16).state_dict().keys()


def test_dropout_is_applied_in_training_only():
    attention = SDPA(2, 16, dropout_prob=0.5)
    x = torch.randn(8, 2, 16)
    attention.eval()
    assert torch.equal(attention(query=x, key=x, value=x), attention(query=x, key=x, value=x))
    attention.train()
    assert not torch.equal(attention(query=x, key=x, value=x), attention(query=x, key=x, value=x))


def test_rotary_refuses_an_odd_head_size():
    with pytest.raises(UserError, match='must be even'):
        SDPA(2, 6, is_rotary=True)
