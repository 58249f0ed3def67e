import math
import re

import pytest

from labml_mlm.report.chart import Series, chart


def drawn(train=(), valid=(), *, baselines=None, n_points=100):
    return chart([Series('a run', list(train), list(valid), [])], baselines=baselines or [], n_points=n_points)


def points(html, kind):
    """The coordinates of a line."""
    [path] = re.findall(f'class="{kind} run-0" d="M([^"]*)"', html)
    return [tuple(map(int, point.split())) for point in path.split('L')]


def test_points_stand_where_their_values_are():
    html = drawn(valid=[(0, 3.), (50, 2.), (100, 1.)])
    (x0, y0), (x1, y1), (x2, y2) = points(html, 'valid')
    assert (x0, x1, x2) == (0, 500, 1000)
    # Downwards, with a margin
    assert 0 < y0 < y1 == 500 < y2 < 1000 and y1 - y0 == y2 - y1
    assert html.count('class="point run-0"') == 3 and 'a run: 2.0000 at 50 tokens' in html


def test_a_long_curve_is_thinned_to_means():
    html = drawn(train=[(step, step % 2) for step in range(100_000)], n_points=50)
    found = points(html, 'train')
    assert len(found) == 50
    assert len({y for _, y in found}) == 1


def test_many_points_have_no_texts():
    html = chart([Series('a run', [], [(step, 1.) for step in range(100)], [])] * 5, baselines=[], n_points=100)
    assert '<title>' not in html and html.count('class="point') == 5 and html.count('h0') == 500


def test_values_that_are_no_numbers_are_left_out():
    html = drawn(valid=[(0, 3.), (50, math.nan), (60, math.inf), (100, 1.)])
    assert len(points(html, 'valid')) == 2 and 'nan' not in html and 'inf' not in html


def test_baselines_are_lines_with_names_that_do_not_meet():
    html = drawn(valid=[(0, 3.), (100, 1.)], baselines=[('unigram', 2.), ('both', 1.99)])
    assert html.count('class="baseline"') == 2
    at = {name: float(top) for top, name in re.findall(r'class="line" style="top: ([\d.]+)%">(\w+) [\d.]+<', html)}
    assert at['both'] - at['unigram'] > 5


@pytest.mark.parametrize('curve', [[(7, 2.)], [(1, 2.), (2, 2.)], [(0, 0.)]])
def test_flat_and_short_curves(curve):
    html = drawn(train=curve, valid=curve)
    assert len(points(html, 'valid')) == len(curve)
    assert all(0 <= y <= 1000 for _, y in points(html, 'valid'))


def test_axis_has_round_numbers_within_it():
    html = drawn(valid=[(0, 3.2), (307_200, 1.1)])
    assert re.findall(r'class="x"[^>]*>([^<]*)<', html) == ['0', '100k', '200k', '300k']
    assert re.findall(r'class="y"[^>]*>([^<]*)<', html) == ['1.5', '2', '2.5', '3']
