"""Whole words and spans: all or nothing, each with the same probability, special tokens never."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labml_mlm import MLM
from labml_mlm.data.batch import Columns
from labml_mlm.masking.whole_words import spans, whole_words
from labml_mlm.tokenization.word_boundaries import WordBoundaries

PAD, MASK = 0, 1
# Ids 0 to 3 are special
TEXTS = ['[PAD]', '[MASK]', '[SEP]', '[UNK]', *'abcde', ' ', ',', '中']
WORDS = WordBoundaries(TEXTS, special_tokens=range(4))


def ids(text):
    return torch.tensor([TEXTS.index(c) for c in text])[:, None]


def make(units, *, masking_prob=0.15, seed=0, **shares):
    return MLM(padding_token=PAD, mask_token=MASK, no_mask_tokens=[2, 3], n_tokens=len(TEXTS), units=units,
               masking_prob=masking_prob, generator=torch.Generator().manual_seed(seed), **shares)


def rand(shape, device):
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


def groups(starts):
    """First and last place behind it of each unit of one sequence."""
    begins = [i for i, is_start in enumerate(starts.tolist()) if is_start]
    return list(zip(begins, [*begins[1:], len(starts)], strict=True))


@st.composite
def batches(draw):
    seq_len, batch_size = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    return torch.randint(0, len(TEXTS), (seq_len, batch_size),
                         generator=torch.Generator().manual_seed(draw(st.integers(0, 2 ** 20))))


@settings(deadline=None)
@given(batches(), st.sampled_from(['words', 'spans']), st.floats(0.01, 1), st.integers(0, 2 ** 20))
def test_all_or_nothing_at_least_one_and_never_a_special_token(x, kind, masking_prob, seed):
    found = []

    def units(x, rand):
        found.append({'words': whole_words, 'spans': spans}[kind](WORDS)(x, rand))
        return found[-1]

    before = x.clone()
    masked, labels = make(units, masking_prob=masking_prob, seed=seed)(x)
    assert torch.equal(x, before)
    selected, maskable = labels != PAD, x > 3
    assert not (selected & ~maskable).any()
    assert torch.equal(masked[~selected], x[~selected])
    assert torch.equal(labels[selected], x[selected])
    assert torch.equal(selected.any(dim=0), maskable.any(dim=0))
    for b in range(x.shape[1]):
        for begin, end in groups(found[0][:, b]):
            of_unit = selected[begin:end, b][maskable[begin:end, b]]
            assert of_unit.all() or not of_unit.any()
    if masking_prob == 1:
        assert torch.equal(selected, maskable)


def test_nothing_is_masked_with_probability_0():
    assert (make(whole_words(WORDS), masking_prob=0.)(ids('abc de'))[1] == PAD).all()


@pytest.mark.parametrize('kind, text', [
    # The longest unit is what 15% are, or fewer
    ('words', 'abc de,ab cd e中abcab ad,e e'), ('words', 'a' * 3 + ' bcd' * 6), ('words', 'a b c d e a b'),
    ('spans', 'a ' * 80)])
def test_each_token_has_the_same_probability(kind, text):
    """And it is `masking_prob`, where every unit fits into the share of the sequence."""
    n_repeats, n_rounds = 2000, 10
    x = ids(text).repeat(1, n_repeats)
    n_selected = torch.zeros(len(x))
    mlm = make({'words': whole_words, 'spans': spans}[kind](WORDS), masking_prob=0.15)
    for _ in range(n_rounds):
        n_selected += (mlm(x)[1] != PAD).sum(dim=1)
    n = n_repeats * n_rounds
    deviation = (n * 0.15 * 0.85) ** 0.5
    assert ((n_selected - 0.15 * n).abs() < 4.5 * deviation).all()


def test_a_unit_that_does_not_fit_wins_where_it_is_alone():
    labels = make(whole_words(WORDS), masking_prob=0.1)(ids('abcde').repeat(1, 50))[1]
    assert (labels != PAD).all()


def test_of_the_tokens_that_are_selected_80_10_10():
    x = ids('abc de,ab cd e中').repeat(1, 20_000)
    masked, labels = make(whole_words(WORDS), masking_prob=0.3)(x)
    selected = labels != PAD
    n = selected.sum().item()
    shares = {'mask': (masked == MASK) & selected, 'same': (masked == x) & selected}
    # A random token is the same one in 1 of 8
    expected = {'mask': 0.8, 'same': 0.1 + 0.1 / 8}
    for name, share in expected.items():
        assert abs(shares[name].sum().item() / n - share) < 5 * (share * (1 - share) / n) ** 0.5
    assert not (masked[selected] == PAD).any()


def test_lengths_of_spans():
    x = ids('a ' * 2000).repeat(1, 5)
    lengths = []
    starts = spans(WORDS)(x, rand)
    for b in range(5):
        # The last one is cut off by the end of the sequence
        lengths += [end - begin for begin, end in groups(starts[:, b])[:-1]]
    lengths = torch.tensor(lengths, dtype=torch.float)
    assert lengths.min() == 1 and lengths.max() == 10
    assert lengths.mean() == pytest.approx(3.797, abs=0.15)
    assert (lengths == 1).float().mean() == pytest.approx(0.2 / (1 - 0.8 ** 10), abs=0.02)


def test_spans_are_of_whole_words():
    x = torch.randint(4, len(TEXTS), (200, 10), generator=torch.Generator().manual_seed(1))
    starts = spans(WORDS)(x, rand)
    assert not (starts & ~WORDS.starts(x)).any()
    assert starts.sum() < WORDS.starts(x).sum()


def test_how_many_places_is_not_known_beforehand():
    assert make(whole_words(WORDS)).n_positions(32) is None
    assert make(None).n_positions(32) == 5
    assert make(None).n_positions(32, 0.3) == 10


@pytest.mark.parametrize('units', [whole_words(WORDS), spans(WORDS)])
def test_columns_of_a_batch_are_masked_as_in_the_whole(units):
    x = torch.randint(4, len(TEXTS), (40, 6), generator=torch.Generator().manual_seed(1))
    whole, part = make(units, masking_prob=0.2), make(units, masking_prob=0.2)
    for first, end in ((0, 6), (0, 2), (2, 6), (5, 6), (3, 3)):
        masked, labels = whole(x)
        of_part = part(x[:, first:end], Columns(first, 6))
        assert torch.equal(of_part[0], masked[:, first:end])
        assert torch.equal(of_part[1], labels[:, first:end])
