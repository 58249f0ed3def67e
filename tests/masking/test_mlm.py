import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labml_mlm import MLM
from labml_mlm.data.batch import Columns

PAD, UNK, CLS, SEP, MASK = range(5)


def make(n_tokens=30, seed=0, **kwargs):
    return MLM(padding_token=PAD, mask_token=MASK, no_mask_tokens=[UNK, CLS, SEP], n_tokens=n_tokens,
               generator=torch.Generator().manual_seed(seed), **kwargs)


@st.composite
def replacement_probs(draw):
    randomize_prob = draw(st.floats(0, 1))
    return randomize_prob, draw(st.floats(0, 1 - randomize_prob))


@settings(max_examples=200, deadline=None)
@given(seq_len=st.integers(1, 40), batch_size=st.integers(1, 6), n_tokens=st.integers(6, 60),
       masking_prob=st.floats(0, 1), probs=replacement_probs(), seed=st.integers(0, 2 ** 32))
def test_invariants(seq_len, batch_size, n_tokens, masking_prob, probs, seed):
    randomize_prob, no_change_prob = probs
    mlm = make(n_tokens, seed, masking_prob=masking_prob, randomize_prob=randomize_prob, no_change_prob=no_change_prob)
    x = torch.randint(n_tokens, (seq_len, batch_size), generator=torch.Generator().manual_seed(seed))
    before, global_state = x.clone(), torch.get_rng_state()
    masked, labels = mlm(x)

    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert masked.dtype == labels.dtype == torch.long
    selected = labels != PAD
    special = x < 5
    assert torch.equal(labels[selected], x[selected])
    assert torch.equal(masked[~selected], x[~selected])
    assert not (selected & special).any()
    # A selected token becomes `[MASK]`, stays, or becomes another one that is not special
    assert ((masked[selected] == MASK) | (masked[selected] >= 5)).all()

    n = (~special).sum(dim=0)
    k = selected.sum(dim=0)
    for n_maskable, n_selected in zip(n.tolist(), k.tolist(), strict=True):
        if masking_prob == 0 or n_maskable == 0:
            assert n_selected == 0
        else:
            # The product is computed in single precision
            pn = masking_prob * n_maskable
            assert max(1, math.floor(pn - 1e-5)) <= n_selected <= max(1, math.ceil(pn + 1e-5))

    again = make(n_tokens, seed, masking_prob=masking_prob, randomize_prob=randomize_prob,
                 no_change_prob=no_change_prob)(x)
    assert torch.equal(again[0], masked)
    assert torch.equal(again[1], labels)


@pytest.mark.parametrize('masking_prob, seq_len', [(0.15, 7), (0.15, 32), (0.15, 100), (0.4, 9), (0.02, 50), (1.0, 10)])
def test_fraction_of_selected_tokens_is_the_masking_rate(masking_prob, seq_len):
    mlm = make(masking_prob=masking_prob)
    x = torch.randint(5, 30, (seq_len, 1_000_000 // seq_len + 1), generator=torch.Generator().manual_seed(1))
    _, labels = mlm(x)
    assert (labels != PAD).double().mean().item() == pytest.approx(masking_prob, abs=0.002)


def test_at_least_one_token_is_selected():
    _, labels = make(masking_prob=0.01)(torch.full((20, 1000), 7))
    assert ((labels != PAD).sum(dim=0) == 1).all()


def test_every_position_is_selected_equally_often():
    seq_len, n = 10, 50_000
    _, labels = make(masking_prob=0.2)(torch.full((seq_len, n), 7))
    counts = (labels != PAD).sum(dim=1).double()
    # Two of ten tokens per sequence; chi-square with 9 degrees of freedom exceeds 27.9 once in 1,000
    expected = 0.2 * n
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def chi_square(counts, expected):
    counts, expected = torch.as_tensor(counts).double(), torch.as_tensor(expected).double()
    return ((counts - expected) ** 2 / expected).sum().item()


def test_replacements_are_80_10_10_and_random_tokens_are_uniform():
    n_tokens = 65
    mlm = make(n_tokens, masking_prob=1.)
    x = torch.full((1000, 1000), 64)
    masked, labels = mlm(x)
    assert (labels == 64).all()

    # 10% stay, and 10% become one of 60 random tokens, which may be the original
    n = x.numel()
    n_mask, n_same = (masked == MASK).sum().item(), (masked == 64).sum().item()
    n_other = n - n_mask - n_same
    expected = [0.8 * n, (0.1 + 0.1 / 60) * n, (0.1 - 0.1 / 60) * n]
    # Chi-square with 2 and with 58 degrees of freedom exceeds these once in 1,000
    assert chi_square([n_mask, n_same, n_other], expected) < 13.8
    counts = torch.bincount(masked.flatten(), minlength=n_tokens)[5:64]
    assert chi_square(counts, torch.full((59,), n_other / 59)) < 98.0


def test_random_tokens_are_drawn_from_those_given():
    """The vocabulary of the model may have ids that no text has."""
    mlm = MLM(padding_token=0, mask_token=1, no_mask_tokens=[2], n_tokens=64, random_tokens=range(10),
              masking_prob=0.9, randomize_prob=1., no_change_prob=0., generator=torch.Generator().manual_seed(0))
    x = torch.full((50, 50), 40)
    masked, labels = mlm(x)
    assert set(masked[labels != 0].tolist()) == set(range(3, 10))
    with pytest.raises(ValueError, match='random_tokens'):
        MLM(padding_token=0, mask_token=1, no_mask_tokens=[], n_tokens=8, random_tokens=[8])


@pytest.mark.parametrize('masking_prob, seq_len', [(0.3, 400), (0.15, 100), (0.3, 200)])
def test_rounding_selects_no_more_than_the_bound(masking_prob, seq_len, monkeypatch):
    """In 32 bits the product is a little above the whole number that it is."""
    mlm = MLM(padding_token=0, mask_token=1, no_mask_tokens=[], n_tokens=9, masking_prob=masking_prob)
    monkeypatch.setattr(mlm, '_rand', lambda shape, device: torch.rand(shape) * 1e-9)
    _, labels = mlm(torch.full((seq_len, 2), 5))
    assert int((labels != 0).sum(dim=0).max()) == mlm.max_selected(seq_len) == round(masking_prob * seq_len)


def test_a_batch_of_special_tokens_is_unchanged():
    x = torch.tensor([[PAD, CLS], [MASK, SEP], [UNK, PAD]])
    masked, labels = make()(x)
    assert torch.equal(masked, x)
    assert (labels == PAD).all()


def test_a_vocabulary_of_special_tokens_only():
    x = torch.tensor([[PAD, CLS], [MASK, SEP]])
    masked, labels = make(n_tokens=5)(x)
    assert torch.equal(masked, x)
    assert (labels == PAD).all()


def test_global_generator_is_the_default():
    mlm = MLM(padding_token=PAD, mask_token=MASK, no_mask_tokens=[], n_tokens=30)
    x = torch.full((20, 5), 7)
    torch.manual_seed(3)
    first = mlm(x)[0]
    assert not torch.equal(mlm(x)[0], first)
    torch.manual_seed(3)
    assert torch.equal(mlm(x)[0], first)


@pytest.mark.parametrize('kwargs, message', [
    ({'masking_prob': 1.1}, 'masking_prob=1.1'), ({'masking_prob': -0.1}, 'from 0 to 1'),
    ({'randomize_prob': 2}, 'randomize_prob'), ({'no_change_prob': -1}, 'no_change_prob'),
    ({'masking_prob': float('nan')}, 'masking_prob=nan'),
    ({'randomize_prob': 0.6, 'no_change_prob': 0.5}, 'their sum must be at most 1'),
    ({'n_tokens': 4}, 'not in the vocabulary'),
])
def test_invalid_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_random_and_unchanged_tokens_may_add_up_to_all():
    masked, labels = make(masking_prob=1., randomize_prob=0.3, no_change_prob=0.7)(torch.full((100, 100), 7))
    assert not (masked == MASK).any()


@given(seq_len=st.integers(1, 20), batch_size=st.integers(1, 8), masking_prob=st.floats(0, 1),
       seed=st.integers(0, 2 ** 32), data=st.data())
def test_columns_are_masked_as_in_the_global_batch(seq_len, batch_size, masking_prob, seed, data):
    x = torch.randint(30, (seq_len, batch_size), generator=torch.Generator().manual_seed(seed))
    global_mlm, shard_mlm = (make(30, seed, masking_prob=masking_prob) for _ in range(2))
    first = data.draw(st.integers(0, batch_size))
    end = data.draw(st.integers(first, batch_size))
    # Repeatedly, as both generators must be in the same state after each batch
    for _ in range(3):
        masked, labels = global_mlm(x)
        shard_masked, shard_labels = shard_mlm(x[:, first:end], Columns(first, batch_size))
        assert torch.equal(shard_masked, masked[:, first:end])
        assert torch.equal(shard_labels, labels[:, first:end])
