import math

import numpy as np
import pytest
from labml import logger
from labml.internal.tracker.indicators.numeric import Scalar

from labml_mlm.baselines.stuck import Plateau, StuckWarning, context_free_loss


def slow_context_free_loss(p, *, randomize_prob, no_change_prob):
    """By the formula at the top of `stuck.py`."""
    n, loss = len(p), -(1 - randomize_prob - no_change_prob) * sum(q * math.log(q) for q in p)
    for x in range(n):
        joint = [p[w] * (no_change_prob * (w == x) + randomize_prob / n) for w in range(n)]
        loss -= sum(q * math.log(q / sum(joint)) for q in joint if q)
    return loss


@pytest.mark.parametrize('randomize_prob, no_change_prob', [(0.1, 0.1), (0., 0.2), (0.3, 0.), (0., 0.), (0.5, 0.5)])
@pytest.mark.parametrize('n', [1, 2, 70])
def test_loss_without_context_is_that_of_the_formula(n, randomize_prob, no_change_prob):
    p = np.random.default_rng(n).dirichlet(np.ones(n))
    how = {'randomize_prob': randomize_prob, 'no_change_prob': no_change_prob}
    expected = slow_context_free_loss(p, **how)
    # Tokens that are never masked do not matter
    assert context_free_loss(np.array([0, *p, 0]), **how) == pytest.approx(expected, abs=1e-12)
    assert expected <= context_free_loss(p) + 1e-12


@pytest.mark.parametrize('n_steps, limit', [(10, 200), (2000, 200), (2001, 201), (90_000, 9000), (10 ** 9, 20_000)])
def test_limit_is_a_tenth_of_the_run_within_bounds(n_steps, limit):
    plateau = Plateau([3.], n_steps=n_steps)
    for _ in range(limit - 1):
        plateau.add(3.)
    assert not plateau.is_stuck
    plateau.add(3.)
    assert plateau.is_stuck


@pytest.mark.parametrize('loss, is_stuck', [(3.05, True), (2.71, True), (3.07, False), (2.69, False), (0., False)])
def test_loss_is_compared_with_a_margin(loss, is_stuck):
    plateau = Plateau([3., 2.76, 2.9], n_steps=100)
    for i in range(200):
        plateau.add(loss + (-1) ** i * 0.5 * bool(i))
    # The mean of the first steps is above by what is left of their noise
    for i in range(400):
        plateau.add(loss + (-1) ** i * 0.1)
    assert plateau.is_stuck == is_stuck


def test_count_begins_again_after_other_losses():
    plateau = Plateau([3.], n_steps=100)
    for _ in range(150):
        plateau.add(3.)
    assert plateau.n == 150
    for _ in range(20):
        plateau.add(2.)
    assert plateau.n == 0
    for _ in range(150):
        plateau.add(3.)
    assert 0 < plateau.n < 100
    plateau.add(math.nan)
    assert plateau.n == 0
    plateau.add(3.)
    assert plateau.n == 1


def test_warning_comes_once(monkeypatch):
    said = []
    monkeypatch.setattr(logger, 'log', lambda text, style: said.append(text))
    warning = StuckWarning(Plateau([3.], n_steps=100), causes=lambda: 'the learning rate')
    loss, other = Scalar('loss.train', True), Scalar('loss.valid', True)
    for step in range(1000):
        warning.write(global_step=step, indicators={'loss.valid': other})
        loss.collect_value(3.)
        warning.write(global_step=step, indicators={'loss.train': loss})
        loss.clear()
        assert bool(said) == (step >= 199)
        warning.write(global_step=step, indicators={'loss.train': loss})
    assert said == ['Is this run stuck? For 200 steps its loss has been that of a model that does not look at the '
                    'context, 2.94 to 3.06. Likely causes, the likeliest first: the learning rate']
