import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.data.shuffle import Shuffle


@given(st.integers(1, 3000), st.integers(0, 2 ** 64 - 1))
def test_every_number_once(n, seed):
    assert sorted(Shuffle(n, seed=seed)(np.arange(n)).tolist()) == list(range(n))


def test_any_place_by_itself():
    shuffle = Shuffle(10 ** 9, seed=3)
    places = np.array([[0, 5, 10 ** 9 - 1], [7, 123_456_789, 8]])
    numbers = shuffle(places)
    assert numbers.shape == places.shape
    assert ((numbers >= 0) & (numbers < 10 ** 9)).all()
    for place, number in zip(places.flat, numbers.flat, strict=True):
        assert shuffle(np.array([place])) == [number]


@pytest.mark.parametrize('n', [1000, 4096, 50_000])
def test_it_looks_random(n):
    """Neither do neighbours stay neighbours, nor do places and numbers, nor the orders of two seeds, go together."""
    places = np.arange(n)
    orders = [Shuffle(n, seed=seed)(places) for seed in range(20)]
    for order, other in zip(orders, orders[1:] + orders[:1], strict=True):
        assert abs(np.corrcoef(order, places)[0, 1]) < 5 / n ** 0.5
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / n ** 0.5
        assert abs(np.corrcoef(order, other)[0, 1]) < 5 / n ** 0.5
        # Of a random order a number stays in its place once on average
        assert (order == places).sum() < 8
        assert (np.diff(order) == 1).sum() < 8
    # Each number comes to each part of the order alike: 20 draws for each of ten parts
    counts = np.zeros((10, n))
    for order in orders:
        counts[np.arange(n) * 10 // n, order] += 1
    # Chi-square, of mean 9 a number
    assert abs((((counts - 2) ** 2) / 2).sum() / n - 9) < 0.5
