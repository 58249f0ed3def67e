import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.optim.schedules import (
    cosine,
    inverse_sqrt,
    linear,
    noam,
    seq_len_schedule,
    warmup_cosine,
    warmup_linear,
    warmup_stable_decay,
)

FINITE = [warmup_cosine, warmup_linear, lambda step, **sizes: warmup_stable_decay(step, **sizes, decay_fraction=0.2)]


@pytest.mark.parametrize('schedule, step, expected', [
    *((warmup_cosine, step, value) for step, value in [
        (0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.1 + 0.9 * 0.8535533905932737), (60, 0.55), (109, 0.1002),
        (110, 0.1), (10_000, 0.1)]),
    *((warmup_linear, step, value) for step, value in [
        (0, 0.1), (9, 1.0), (10, 1.0), (35, 0.1 + 0.9 * 0.75), (60, 0.55), (109, 0.109), (110, 0.1), (10_000, 0.1)]),
    # Decays in the last 22 of 110 steps
    *((FINITE[2], step, value) for step, value in [
        (0, 0.1), (9, 1.0), (10, 1.0), (87, 1.0), (88, 1.0), (99, 0.55), (109, 0.1 + 0.9 / 22), (110, 0.1)]),
])
def test_learning_rate_schedules_with_an_end(schedule, step, expected):
    value = schedule(step, warmup_steps=10, total_steps=110, min_ratio=0.1)
    assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('schedule', FINITE)
@pytest.mark.parametrize('warmup_steps, total_steps', [(0, 10), (10, 10), (20, 10)])
def test_degenerate_lengths_give_rates_from_0_to_1(schedule, warmup_steps, total_steps):
    values = [schedule(s, warmup_steps=warmup_steps, total_steps=total_steps, min_ratio=0.) for s in range(30)]
    assert all(0 <= value <= 1 for value in values)
    assert values[-1] == 0
    assert max(values) == 1


@pytest.mark.parametrize('step, expected', [(0, 0.25), (3, 1.0), (4, (4 / 5) ** 0.5), (15, 0.5), (399, 0.1)])
def test_inverse_sqrt_and_noam(step, expected):
    assert inverse_sqrt(step, warmup_steps=4) == pytest.approx(expected)
    # Vaswani et al. 2017, equation 3, where steps are counted from 1
    n = step + 1
    assert noam(step, warmup_steps=4, d_model=64) == pytest.approx(64 ** -0.5 * min(n ** -0.5, n * 4 ** -1.5))


def test_inverse_sqrt_without_warm_up():
    assert [inverse_sqrt(step, warmup_steps=0) for step in (0, 3, 99)] == pytest.approx([1, 0.5, 0.1])


@pytest.mark.parametrize('schedule, expected', [(linear, [0.3, 0.2625, 0.225, 0.15, 0.15]),
                                                (cosine, [0.3, 0.27803, 0.225, 0.15, 0.15])])
def test_schedules_between_two_values(schedule, expected):
    values = [schedule(progress, start=0.3, end=0.15) for progress in (0, 0.25, 0.5, 1, 1.5)]
    assert values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('text, expected', [
    ('8:0.1,16:0.3,32', {0: 8, 0.0999: 8, 0.1: 16, 0.2999: 16, 0.3: 32, 0.9: 32, 1: 32, 1.2: 32}),
    ('8:0.1,16:0.3,32:1', {0: 8, 0.3: 32, 1: 32}),
    ('32', {0: 32, 0.5: 32}),
    # 8 + 24 · progress / 0.5, rounded down to 8, 16 or 32
    ('8..32:0.5', {0: 8, 0.16: 8, 0.17: 16, 0.49: 16, 0.5: 32, 1: 32}),
    ('4:0.2, 8..32:0.6', {0.1: 4, 0.2: 8, 0.33: 8, 0.34: 16, 0.59: 16, 0.6: 32}),
    ('1..32', {0: 1, 0.05: 2, 0.5: 16, 1: 32}),
])
def test_sequence_length_by_progress(text, expected):
    schedule = seq_len_schedule(text, seq_len=32)
    assert {progress: schedule(progress) for progress in expected} == expected


@given(st.floats(0, 1), st.sampled_from(['8:0.1,16:0.3,32', '1..32', '2..16:0.3,32']))
def test_sequence_lengths_divide_the_longest(progress, text):
    assert 32 % seq_len_schedule(text, seq_len=32)(progress) == 0


@pytest.mark.parametrize('text, message', [
    ('', '`` is not a stage'), ('8:0.1;32', '`8:0.1;32` is not a stage'), ('eight,32', '`eight` is not a stage'),
    ('12:0.1,32', 'cannot be split into equal parts of 12; try one of 1, 2, 4, 8, 16, 32'),
    ('64:0.1,32', 'equal parts of 64'), ('0:0.5,32', 'equal parts of 0'),
    ('8:0.3,16:0.1,32', 'must increase'), ('8:0,32', 'must increase'), ('8,32', 'must increase'),
    ('8:1.5,32', 'must increase, up to 1'),
    ('8:0.1,16', 'the last length must be seq_len=32'), ('8:0.1,16:0.5', 'the last length must be seq_len=32'),
])
def test_invalid_sequence_length_schedules_are_refused(text, message):
    with pytest.raises(UserError) as e:
        seq_len_schedule(text, seq_len=32)
    assert message in str(e.value)
