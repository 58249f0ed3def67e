import math

import pytest

from labml_mlm.sweep.runner import Outcome
from labml_mlm.sweep.table import printable_rows, rows_of, time_text


def outcome(rate, seed, loss=None, status='completed', seconds=60.):
    accuracy = loss and 1 - loss / 10
    return Outcome(f'{rate}-{seed}', {'rate': rate, 'seed': str(seed)}, status, 0, loss, accuracy, seconds)


def test_means_and_spreads_over_seeds_best_first():
    rows = rows_of([outcome('1', 1, 3.), outcome('1', 2, 5.), outcome('2', 1, 1.), outcome('2', 2, 2.)], ['rate'])
    assert [row.values for row in rows] == [{'rate': '2'}, {'rate': '1'}]
    assert rows[0].loss == (1.5, pytest.approx(math.sqrt(0.5))) and rows[1].accuracy.mean == pytest.approx(0.6)
    assert rows[1].as_json()['loss.valid'] == {'mean': 4., 'spread': pytest.approx(math.sqrt(2))}


def test_runs_that_are_not_complete_count_for_nothing():
    rows = rows_of([outcome('1', 1, 1., 'interrupted'), outcome('2', 1, 9.), outcome('2', 2, 5., 'crashed')], ['rate'])
    assert printable_rows(rows, ['rate']) == [
        ['rate', 'runs', 'loss.valid', 'accuracy.valid', 'time'],
        ['2', '1 of 2', '9.0000', '0.1000', '1.0 min'],
        ['1', '0 of 1', '-', '-', '-']]


def test_without_what_varies_there_is_one_row():
    [row] = rows_of([outcome('1', 1, 3.), outcome('1', 2, 5.)], [])
    assert row.values == {} and row.n_runs == 2


@pytest.mark.parametrize(('seconds', 'text'), [(None, '-'), (0.52, '0.5 s'), (12.4, '12 s'), (204, '3.4 min'),
                                               (7560, '2.1 h')])
def test_times(seconds, text):
    assert time_text(seconds) == text
