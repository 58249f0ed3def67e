"""The estimate of the time that is left, from a table of steps and times: no clock is read."""
import pytest

from labml_mlm.screen.time_left import TimeLeft, Work


def work(left, *, validations=0, passes=0., saves=0., n_saved=0, save_seconds=0., is_shorter_faster=False):
    left = left if isinstance(left, dict) else {0: left}
    return Work(steps=0, seconds=0., length=0, left=left, is_shorter_faster=is_shorter_faster, validations=validations,
                passes=passes, saves=saves, n_saved=n_saved, save_seconds=save_seconds)


def trained(*steps):
    """An estimate after steps, each with the seconds that it took, and perhaps a length."""
    time_left = TimeLeft()
    for seconds, *length in steps:
        time_left.train(1, seconds, length=(length or [0])[0])
    return time_left


def test_no_estimate_before_there_are_steps_to_tell_by():
    assert TimeLeft().estimate(work(100)) is None
    # The first one compiles the model
    for n in range(4):
        assert trained((90.,), *n * [(0.5,)]).estimate(work(100)) == (None if n < 3 else 50.)


@pytest.mark.parametrize('left, expected', [(1000, 500.), (10, 5.), (0, 0.)])
def test_time_is_that_of_the_steps_left(left, expected):
    assert trained((90.,), *10 * [(0.5,)]).estimate(work(left)) == pytest.approx(expected)


def test_steps_of_different_cost_count_by_their_mean():
    """Batches of texts of similar lengths, in any order."""
    steps = [(0.1,), (0.9,), (0.3,), (0.7,)] * 50
    assert trained((9.,), *steps).estimate(work(1000)) == pytest.approx(500., rel=0.01)


def test_follows_the_speed_of_the_machine():
    time_left = trained((9.,), *1000 * [(0.1,)])
    estimates = []
    for n in range(0, 800, 200):
        estimates.append(time_left.estimate(work(1000 - n)) / (1000 - n))
        for _ in range(200):
            time_left.train(1, 0.3)
    assert estimates == pytest.approx([0.1, 0.3 - 0.2 * 0.995 ** 200, 0.3 - 0.2 * 0.995 ** 400,
                                       0.3 - 0.2 * 0.995 ** 600])
    assert estimates[-1] > 0.28


def test_many_steps_at_once_are_as_many_single_ones():
    one, many = trained((9.,), *150 * [(0.2,)]), TimeLeft()
    many.train(1, 9.)
    for _ in range(15):
        many.train(10, 2.)
    assert many.estimate(work(100)) == pytest.approx(one.estimate(work(100))) == pytest.approx(20.)


def test_validations_and_checkpoints_are_part_of_it():
    time_left = trained((9.,), *10 * [(0.5,)])
    # Not measured yet: 30 forward passes of a third of a step
    assert time_left.estimate(work(100, validations=4, passes=30)) == pytest.approx(50 + 4 * 5)
    time_left.validate(8.)
    assert time_left.estimate(work(100, validations=4, passes=30)) == pytest.approx(50 + 4 * 8)
    # In the present one
    assert time_left.estimate(work(100, validations=4), since_training=3.) == pytest.approx(50 + 4 * 8 - 3)
    # It takes longer than the others: those are still to come
    assert time_left.estimate(work(100, validations=4), since_training=9.) == pytest.approx(50 + 3 * 8)
    time_left.validate(12.)
    assert time_left.estimate(work(100, validations=3)) == pytest.approx(50 + 3 * 10)
    assert time_left.estimate(work(100, saves=2., n_saved=3, save_seconds=6.)) == pytest.approx(50 + 2 * 2)
    assert time_left.estimate(work(0)) == 0.


def test_a_curriculum_of_lengths():
    time_left = trained((9., 16), *10 * [(0.1, 16)])
    # Each length has as many tokens, or tokens in proportion to it
    assert time_left.estimate(work({16: 100, 64: 100})) == pytest.approx(10 + 10)
    assert time_left.estimate(work({16: 100, 64: 100}, is_shorter_faster=True)) == pytest.approx(10 + 40)
    # A longer one is seen, whose first step compiles
    for seconds in (60., 0.5, 0.5):
        time_left.train(1, seconds, length=64)
    for is_shorter_faster in (False, True):
        assert time_left.estimate(work({64: 100}, is_shorter_faster=is_shorter_faster)) == pytest.approx(50)
    assert time_left.estimate(work({64: 50, 128: 50}, is_shorter_faster=True)) == pytest.approx(25 + 50)


def test_a_run_by_a_fake_clock_is_estimated_within_a_tenth():
    """3 epochs of 100 steps of 0.2 s, a validation of 6 s after each, checkpoints of 1 s every 50 steps."""
    time_left, n_saved, clock, estimates = TimeLeft(), 0, 0., []
    end = 300 * 0.2 + 3 * 6. + 6 * 1. + 20.
    for step in range(1, 301):
        seconds = 20.2 if step == 1 else 0.2
        clock += seconds
        time_left.train(1, seconds)
        n_saved += step % 50 == 0
        clock += step % 50 == 0
        left = work(300 - step, validations=3 - (step - 1) // 100, passes=90., saves=(300 - step) / 50,
                    n_saved=n_saved, save_seconds=float(n_saved))
        estimates.append((time_left.estimate(left), end - clock))
        if step % 100 == 0:
            clock += 6.
            time_left.validate(6.)
    assert clock == pytest.approx(end)
    assert [estimate for estimate, _ in estimates[:3]] == 3 * [None]
    # The checkpoints are not known at first, nor how near the next one is
    assert all(estimate == pytest.approx(true, rel=0.1, abs=1.01) for estimate, true in estimates[50:])
