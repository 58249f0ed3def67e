import pytest

from labml_mlm.schedule import warmup_cosine


@pytest.mark.parametrize('step, expected', [
    (0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.1 + 0.9 * 0.8535533905932737), (60, 0.55), (109, 0.1002),
    (110, 0.1), (10_000, 0.1),
])
def test_warmup_cosine(step, expected):
    value = warmup_cosine(step, warmup_steps=10, total_steps=110, min_share=0.1)
    assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('warmup_steps, total_steps', [(0, 10), (10, 10), (20, 10)])
def test_degenerate_lengths_stay_in_range(warmup_steps, total_steps):
    values = [warmup_cosine(s, warmup_steps=warmup_steps, total_steps=total_steps, min_share=0.) for s in range(30)]
    assert all(0 <= value <= 1 for value in values)
    assert values[-1] == 0
    assert max(values) == 1
