"""Lines, their lengths, and what is repeated."""
import random

import numpy as np
import pytest

from labml_mlm.text_facts.lines import Lines, Repeats


def facts_of(*documents, size=1 << 20):
    lines = Lines()
    for document in documents:
        for begin in range(0, max(1, len(document)), size):
            lines.add(document[begin:begin + size], is_last=begin + size >= len(document))
    return lines.facts()


@pytest.mark.parametrize('size', [1, 3, 1000])
def test_lines_do_not_depend_on_pieces(size):
    documents = 'one\n\ntwo\none\n  \nthree', 'one\n', 'last line\n\n'
    found = facts_of(*documents, size=size)
    assert (found.n, found.n_blank, found.longest) == (9, 3, 9)
    # `one` comes three times among six lines
    assert found.repeated_share == pytest.approx(2 / 6) and found.is_exact
    assert found == facts_of(*documents)


def test_percentiles_are_those_of_numpy():
    rng = random.Random(0)
    lengths = [rng.randrange(1, 200) for _ in range(1001)]
    found = facts_of('\n'.join('x' * n for n in lengths))
    assert found.median == np.median(lengths)
    assert abs(found.percentile_95 - np.percentile(lengths, 95)) <= 1
    assert found.longest == max(lengths)


def test_line_longer_than_all_others_is_one_line():
    found = facts_of('x' * 300_000 + '\nshort', size=1000)
    assert (found.n, found.longest, found.median) == (2, 300_000, 5)


def test_text_without_lines():
    assert facts_of('')[:3] == (0, 0, 0.)
    assert facts_of('\n\n')[:2] == (2, 2)


def test_share_of_repeats_is_exact_up_to_some_number_and_a_sample_beyond():
    exact, sampled = Repeats(most=10_000), Repeats(most=500)
    rng = random.Random(1)
    digests = [rng.randbytes(8) for _ in range(6000)]
    n = 0
    for digest in digests:
        for _ in range(n_times := rng.choice([1, 1, 1, 4])):
            exact.add(digest)
            sampled.add(digest)
        n += n_times
    assert exact.is_exact and not sampled.is_exact
    assert exact.share == pytest.approx(1 - 6000 / n)
    assert sampled.share == pytest.approx(exact.share, abs=0.06)
    assert len(sampled._counts) <= 500
