import collections

import numpy as np
import pytest

from labml_mlm.baselines import counts
from labml_mlm.baselines.counts import Counts, frequencies, sampled

N_TOKENS = 9


@pytest.fixture
def tokens():
    # Token 8 never occurs, and 0 and 1 are special ones
    return np.random.default_rng(5).choice(8, 400, p=[.1, .1, .4, .2, .1, .05, .04, .01]).astype(np.uint8)


def is_maskable():
    return np.arange(N_TOKENS) > 1


def slow_frequency(tokens, w):
    """By the formula at the top of `counts.py`."""
    known = collections.Counter(int(t) for t in tokens if t > 1)
    return (known[w] + len(known) / 7) / (known.total() + len(known)) if w > 1 else 0.


def slow_probability(tokens, h, w, *, is_left):
    pairs = zip(tokens.tolist(), tokens[1:].tolist(), strict=False)
    beside = collections.Counter(b if is_left else a for a, b in pairs
                                 if (a if is_left else b) == h and (b if is_left else a) > 1)
    if not beside:
        return slow_frequency(tokens, w)
    return (beside[w] + len(beside) * slow_frequency(tokens, w)) / (beside.total() + len(beside)) if w > 1 else 0.


def test_frequencies_are_those_of_the_formula(tokens):
    found = frequencies([tokens], is_maskable=is_maskable())
    assert found == pytest.approx([slow_frequency(tokens, w) for w in range(N_TOKENS)])
    assert found.sum() == pytest.approx(1) and (found[2:] > 0).all() and (found[:2] == 0).all()


@pytest.mark.parametrize('is_left', [True, False])
def test_probabilities_beside_a_neighbour_are_those_of_the_formula(tokens, is_left):
    found = Counts([tokens], is_maskable=is_maskable())
    side = found.left if is_left else found.right
    for h in range(N_TOKENS):
        p = side.of(np.full(N_TOKENS, h), np.arange(N_TOKENS))
        assert p == pytest.approx([slow_probability(tokens, h, w, is_left=is_left) for w in range(N_TOKENS)])
        assert p.sum() == pytest.approx(1) and p[side.best[h]] == p.max()


def test_parts_are_not_neighbours(tokens):
    cut = int(np.flatnonzero(tokens > 1)[100])
    whole, parts = (Counts(parts, is_maskable=is_maskable()) for parts in ([tokens], [tokens[:cut], tokens[cut:]]))
    assert (whole.p == parts.p).all()
    assert parts.left.counts.sum() == whole.left.counts.sum() - 1


@pytest.mark.parametrize('parts', [[], [np.zeros(0, int)], [np.zeros(3, int)]])
def test_text_without_tokens_says_that_all_are_alike(parts):
    found = Counts(parts, is_maskable=is_maskable())
    assert found.p == pytest.approx([0, 0, *[1 / 7] * 7])
    assert found.left.of(np.array([3]), np.array([4])) == pytest.approx([1 / 7])


def test_long_text_is_counted_in_blocks_from_all_over_it(monkeypatch):
    monkeypatch.setattr(counts, '_MAX_TOKENS', 64)
    monkeypatch.setattr(counts, '_BLOCK', 16)
    tokens = np.arange(1000)
    parts = sampled(tokens)
    assert [len(part) for part in parts] == [16] * 4
    assert parts[0][0] == 0 and parts[-1][-1] == 999
    assert [part[0] for part in parts] == pytest.approx([0, 328, 656, 984], abs=1)
    assert [part.tolist() for part in sampled(tokens[:64])] == [list(range(64))]
