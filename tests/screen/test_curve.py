import pytest

from labml_mlm.screen.curve import Curve, draw


def test_curve_keeps_few_points_with_the_same_mean():
    curve = Curve()
    for i in range(4096):
        curve.add(float(i))
    curve.add(float('nan'))
    assert 256 <= len(curve.points) < 512
    assert curve.resampled(4) == pytest.approx([511.5 + 1024 * i for i in range(4)], abs=16)
    assert len(curve.resampled(100)) == 100
    assert curve.resampled(100) == sorted(curve.resampled(100))


def test_few_points_are_stretched():
    curve = Curve()
    assert curve.resampled(5) == []
    curve.add(2.)
    curve.add(1.)
    assert curve.resampled(6) == [2., 2., 2., 1., 1., 1.]


def test_area_below_a_curve():
    assert draw([3., 2., 1.], height=2) == ['█▁ ', '██▁']
    # The lowest can be seen, and a constant one, too
    assert draw([1., 1.], height=1) == ['▁▁']
    assert draw([0., 7.], height=1) == ['▁█']
