import numpy as np
import pytest

from labml_mlm.baselines import guesses
from labml_mlm.baselines.counts import Counts, Neighbours
from labml_mlm.baselines.guesses import guess
from labml_mlm.baselines.masked import Masked

# Tokens 0 and 1 are never masked, and the last one never occurs
N_TOKENS = 12


@pytest.fixture
def counts():
    rng = np.random.default_rng(3)
    # Each token goes on to a few others
    step = rng.dirichlet(np.full(N_TOKENS - 1, .3), N_TOKENS - 1)
    tokens = [2]
    for _ in range(600):
        tokens.append(int(rng.choice(N_TOKENS - 1, p=step[tokens[-1]])))
    return Counts([np.array(tokens)], is_maskable=np.arange(N_TOKENS) > 1)


@pytest.fixture
def masked():
    """Every token beside every neighbour, and beside none."""
    tokens, left, right = np.meshgrid(np.arange(2, N_TOKENS), *[np.arange(-1, N_TOKENS)] * 2)
    return Masked(*(part.ravel() for part in (tokens, left, right)))


def slow_distribution(counts, name, left, right):
    """Of all tokens, `[n_tokens]`, as the formulas say it."""
    every = np.arange(N_TOKENS)
    of_left = counts.left.of(np.full(N_TOKENS, left), every)
    of_right = counts.right.of(np.full(N_TOKENS, right), every)
    if name == 'unigram' or (left < 0 and right < 0):
        return counts.p
    if name == 'bigram' or left < 0 or right < 0:
        return of_left if left >= 0 else of_right
    product = np.array([l * r / p if p else 0. for l, r, p in zip(of_left, of_right, counts.p, strict=True)])  # noqa: E741
    return product / product.sum()


@pytest.mark.parametrize('name', ['unigram', 'bigram', 'neighbours'])
def test_guesses_are_those_of_the_formulas(counts, masked, name):
    by_neighbours = {(left, right): slow_distribution(counts, name, left, right)
                     for left in range(-1, N_TOKENS) for right in range(-1, N_TOKENS)}
    p = np.array([by_neighbours[left, right][token] for token, left, right in zip(*masked, strict=True)])
    found = guess(counts, masked)[name]
    assert found.loss == pytest.approx(-np.log(p).mean())
    # Of several tokens that are equally probable it may say any
    highest = {neighbours: set(np.flatnonzero(of >= of.max() - 1e-12)) for neighbours, of in by_neighbours.items()}
    is_sure = [len(highest[left, right]) == 1 for left, right in zip(masked.left, masked.right, strict=True)]
    sure = Masked(*(part[is_sure] for part in masked))
    right_ones = [highest[left, right] == {token} for token, left, right in zip(*sure, strict=True)]
    assert len(sure.tokens) > 1000 and guess(counts, sure)[name].accuracy == pytest.approx(np.mean(right_ones))


def test_memory_is_bounded_and_the_result_is_the_same(counts, masked, monkeypatch):
    at_once = guess(counts, masked)
    sizes = []
    beside = Neighbours.beside

    def watched(*arguments):
        found = beside(*arguments)
        sizes.append(len(found[0]))
        return found
    monkeypatch.setattr(Neighbours, 'beside', watched)
    monkeypatch.setattr(guesses, '_AT_ONCE', 20)
    assert guess(counts, masked) == at_once
    # And one pair more
    assert len(sizes) > 10 and max(sizes) < 20 + N_TOKENS


def test_both_neighbours_are_looked_at_for_some_of_many_masked_tokens(counts, masked, monkeypatch):
    whole = guess(counts, masked)
    monkeypatch.setattr(guesses, '_MAX_PAIRS', 300)
    some = guess(counts, masked)
    assert (some['unigram'], some['bigram']) == (whole['unigram'], whole['bigram'])
    assert some['neighbours'] != whole['neighbours']
    assert some['neighbours'].loss == pytest.approx(whole['neighbours'].loss, rel=0.2)


def test_text_that_repeats_is_guessed_from_its_neighbours():
    tokens = np.array([*range(2, 12)] * 30)
    counts = Counts([tokens], is_maskable=np.arange(N_TOKENS) > 1)
    found = guess(counts, Masked(tokens[1:-1], tokens[:-2], tokens[2:]))
    assert found['unigram'].loss == pytest.approx(np.log(10), rel=0.05) and found['unigram'].accuracy < 0.15
    assert found['bigram'].loss > found['neighbours'].loss and found['bigram'].accuracy == 1


def test_nothing_is_guessed_where_nothing_is_masked(counts):
    assert guess(counts, Masked(*(np.zeros(0, int),) * 3)) == {}
