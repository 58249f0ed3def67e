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


def make(units, *, masking_prob=0.15, seed=0):
    return MLM(padding_token=PAD, mask_token=MASK, no_mask_tokens=[2, 3], n_tokens=len(TEXTS), units=units,
               masking_prob=masking_prob, generator=torch.Generator().manual_seed(seed))


def rand(shape, device):
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


def unit_ranges(starts):
    """First position of each unit of a sequence, and that after its last one."""
    begins = [i for i, is_start in enumerate(starts.tolist()) if is_start]
    return list(zip(begins, [*begins[1:], len(starts)], strict=True))


@st.composite
def batches(draw):
    seq_len, batch_size = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    return torch.randint(0, len(TEXTS), (seq_len, batch_size),
                         generator=torch.Generator().manual_seed(draw(st.integers(0, 2 ** 20))))


@settings(deadline=None)
@given(batches(), st.sampled_from(['words', 'spans']), st.floats(0.01, 1), st.integers(0, 2 ** 20))
def test_units_are_selected_as_a_whole_at_least_one_and_never_special_tokens(x, kind, masking_prob, seed):
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
        for begin, end in unit_ranges(found[0][:, b]):
            in_unit = selected[begin:end, b][maskable[begin:end, b]]
            assert in_unit.all() or not in_unit.any()
    if masking_prob == 1:
        assert torch.equal(selected, maskable)


@settings(deadline=None)
@given(batches(), st.sampled_from(['words', 'spans']), st.floats(0.01, 1), st.integers(0, 2 ** 20))
def test_no_sequence_has_more_selected_tokens_than_the_bound(x, kind, masking_prob, seed):
    """It is computed from the longest unit, which is known on the CPU."""
    mlm = make({'words': whole_words, 'spans': spans}[kind](WORDS), masking_prob=masking_prob, seed=seed)
    longest = mlm.longest_unit(x)
    starts = mlm.units(x, rand)
    lengths = [end - begin for b in range(x.shape[1]) for begin, end in unit_ranges(starts[:, b])]
    assert max(lengths) <= longest <= len(x)
    if kind == 'words':
        assert max(lengths) == longest
    selected = (mlm(x)[1] != PAD).sum(dim=0)
    if (bound := mlm.max_selected(len(x), longest_unit=longest)) is not None:
        assert (selected <= bound).all()


def test_the_bound_on_spans_is_that_of_ten_words():
    x = torch.cat([ids('abcd ' * 20), ids('a ' * 50)], dim=1)
    assert spans(WORDS).longest(x) == 5 * (4 + 1)
    mlm = make(spans(WORDS))
    assert mlm.max_selected(100, longest_unit=25) == 15 + 25 and mlm.max_selected(30, longest_unit=28) == 30
    # Without it, and of units of one's own, nothing is known
    assert mlm.max_selected(100) is None
    # Nor where one long word would have all sequences predicted at many positions
    assert mlm.max_selected(100, longest_unit=60) is None and mlm.max_selected(1000, longest_unit=60) == 150 + 60
    assert make(lambda x, rand: x > 3).longest_unit(x) is None and make(None).longest_unit(x) is None


def test_nothing_is_masked_at_rate_0():
    assert (make(whole_words(WORDS), masking_prob=0.)(ids('abc de'))[1] == PAD).all()


@pytest.mark.parametrize('kind, text', [
    # No unit is longer than 15% of the sequence
    ('words', 'abc de,ab cd e中abcab ad,e e'), ('words', 'a' * 3 + ' bcd' * 6), ('words', 'a b c d e a b'),
    ('spans', 'a ' * 80)])
def test_each_token_is_selected_with_the_masking_rate(kind, text):
    """As long as no unit is longer than the number of tokens to select."""
    n_repeats, n_rounds = 2000, 10
    x = ids(text).repeat(1, n_repeats)
    n_selected = torch.zeros(len(x))
    mlm = make({'words': whole_words, 'spans': spans}[kind](WORDS), masking_prob=0.15)
    for _ in range(n_rounds):
        n_selected += (mlm(x)[1] != PAD).sum(dim=1)
    n = n_repeats * n_rounds
    deviation = (n * 0.15 * 0.85) ** 0.5
    assert ((n_selected - 0.15 * n).abs() < 4.5 * deviation).all()


def test_a_single_unit_longer_than_the_masking_rate_is_selected():
    labels = make(whole_words(WORDS), masking_prob=0.1)(ids('abcde').repeat(1, 50))[1]
    assert (labels != PAD).all()


def test_replacements_are_80_10_10():
    x = ids('abc de,ab cd e中').repeat(1, 20_000)
    masked, labels = make(whole_words(WORDS), masking_prob=0.3)(x)
    selected = labels != PAD
    n = selected.sum().item()
    # A random token is the original one in 1 of 8 cases
    for is_so, rate in ((masked == MASK, 0.8), (masked == x, 0.1 + 0.1 / 8)):
        assert abs((is_so & selected).sum().item() / n - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert not (masked[selected] == PAD).any()


def test_span_lengths_are_geometric():
    x = ids('a ' * 2000).repeat(1, 5)
    lengths = []
    starts = spans(WORDS)(x, rand)
    for b in range(5):
        # The end of the sequence truncates the last one
        lengths += [end - begin for begin, end in unit_ranges(starts[:, b])[:-1]]
    lengths = torch.tensor(lengths, dtype=torch.float)
    assert lengths.min() == 1 and lengths.max() == 10
    assert lengths.mean() == pytest.approx(3.797, abs=0.15)
    assert (lengths == 1).float().mean() == pytest.approx(0.2 / (1 - 0.8 ** 10), abs=0.02)


def test_spans_consist_of_whole_words():
    x = torch.randint(4, len(TEXTS), (200, 10), generator=torch.Generator().manual_seed(1))
    starts = spans(WORDS)(x, rand)
    assert not (starts & ~WORDS.starts(x)).any()
    assert starts.sum() < WORDS.starts(x).sum()


def test_number_of_selected_tokens_is_bounded_without_units_only():
    assert make(whole_words(WORDS)).max_selected(32) is None
    assert make(None).max_selected(32) == 5
    assert make(None).max_selected(32, 0.3) == 10


@pytest.mark.parametrize('units', [whole_words(WORDS), spans(WORDS)])
def test_columns_are_masked_as_in_the_global_batch(units):
    x = torch.randint(4, len(TEXTS), (40, 6), generator=torch.Generator().manual_seed(1))
    global_mlm, shard_mlm = make(units, masking_prob=0.2), make(units, masking_prob=0.2)
    for first, end in ((0, 6), (0, 2), (2, 6), (5, 6), (3, 3)):
        masked, labels = global_mlm(x)
        shard_masked, shard_labels = shard_mlm(x[:, first:end], Columns(first, 6))
        assert torch.equal(shard_masked, masked[:, first:end])
        assert torch.equal(shard_labels, labels[:, first:end])


@settings(deadline=None)
@given(batches())
def test_no_span_has_a_token_that_stands_apart_beside_others(x):
    plain, apart = spans(WORDS)(x, rand), spans(WORDS, apart=[2])(x, rand)
    for b in range(x.shape[1]):
        for begin, end in unit_ranges(apart[:, b]):
            assert end - begin == 1 or 2 not in x[begin:end, b].tolist()
    # Spans are cut there and nowhere else
    is_cut = x == 2
    is_cut[1:] |= x[:-1] == 2
    assert torch.equal(apart, plain | is_cut)
