import pytest

from labml_mlm.common.table import print_table, size_text


def test_numbers_are_aligned_to_the_right(capsys):
    print_table([['name', 'n'], ['a', '10'], ['bcdef', '7']], numbers={1})
    assert capsys.readouterr().out == 'name    n\na      10\nbcdef   7\n'


@pytest.mark.parametrize('n_bytes, text', [(0, '0 bytes'), (999, '999 bytes'), (1000, '1.0 kB'), (999_949, '999.9 kB'),
                                           (999_950, '1.0 MB'), (3_200_000, '3.2 MB'), (5 * 10 ** 12, '5.0 TB'),
                                           (10 ** 16, '10000.0 TB')])
def test_sizes(n_bytes, text):
    assert size_text(n_bytes) == text
