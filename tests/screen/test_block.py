import pytest

from labml_mlm.screen.block import aligned

ROWS = [('text', "Python's help topics, built in, as another text could not be downloaded"), ('tokenizer', 'character'),
        ('run', 'a' * 32)]


@pytest.mark.parametrize('width', [24, 40, 80, 130])
def test_lines_fit_and_values_are_aligned(width):
    lines = aligned(ROWS, width=width)
    assert all(len(name + value) <= width for name, value in lines)
    assert {len(name) for name, _ in lines} == {len('tokenizer') + 2}
    assert [name.strip() for name, _ in lines if name.strip()] == ['text', 'tokenizer', 'run']
    joined = ' '.join(value for _, value in lines)
    assert all(word in joined for word in ROWS[0][1].split() if len(word) <= width - 11)


def test_without_a_width_each_value_is_a_line():
    assert [value for _, value in aligned(ROWS, width=None)] == [value for _, value in ROWS]
