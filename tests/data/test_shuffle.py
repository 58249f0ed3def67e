import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.data.shuffle import Shuffle


@given(st.integers(1, 3000), st.integers(0, 2 ** 64 - 1))
def test_shuffle_is_a_permutation(n, seed):
    assert sorted(Shuffle(n, seed=seed)(np.arange(n)).tolist()) == list(range(n))


def test_any_position_can_be_evaluated_alone():
    shuffle = Shuffle(10 ** 9, seed=3)
    positions = np.array([[0, 5, 10 ** 9 - 1], [7, 123_456_789, 8]])
    numbers = shuffle(positions)
    assert numbers.shape == positions.shape
    assert ((numbers >= 0) & (numbers < 10 ** 9)).all()
    for position, number in zip(positions.flat, numbers.flat, strict=True):
        assert shuffle(np.array([position])) == [number]


@pytest.mark.parametrize('n', [1000, 4096, 50_000])
def test_shuffle_looks_random(n):
    """No correlation between positions and numbers, between neighbours, or between the orders of two seeds."""
    positions = np.arange(n)
    orders = [Shuffle(n, seed=seed)(positions) for seed in range(20)]
    for order, other in zip(orders, orders[1:] + orders[:1], strict=True):
        assert abs(np.corrcoef(order, positions)[0, 1]) < 5 / n ** 0.5
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / n ** 0.5
        assert abs(np.corrcoef(order, other)[0, 1]) < 5 / n ** 0.5
        # A random permutation has one fixed point on average
        assert (order == positions).sum() < 8
        assert (np.diff(order) == 1).sum() < 8
    # Each number is equally often in each tenth of the order, 2 of 20 times on average
    counts = np.zeros((10, n))
    for order in orders:
        counts[np.arange(n) * 10 // n, order] += 1
    # Chi-square with 9 degrees of freedom per number, so its mean is 9
    assert abs((((counts - 2) ** 2) / 2).sum() / n - 9) < 0.5
