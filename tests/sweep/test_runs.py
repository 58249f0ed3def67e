import json

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.sweep.runs import sweep

pytestmark = pytest.mark.usefixtures('unchecked')


@pytest.fixture
def run_sweep(folder):
    def run_sweep(*arguments, **options):
        said = []
        return sweep(arguments, script='fast.py', say=said.append, **options), said
    return run_sweep


def calls(folder):
    return [json.loads(line)[1] for line in (folder / 'calls').read_text().splitlines()]


def test_all_combinations_are_trained_and_none_twice(run_sweep, folder):
    done, said = run_sweep('x=1,2', 'y=a', seeds=2)
    assert [outcome.values for outcome in done.outcomes] == [
        {'x': x, 'y': 'a', 'seed': seed} for x in '12' for seed in '12']
    assert [outcome.loss for outcome in done.outcomes] == pytest.approx([1.1, 1.2, 2.1, 2.2])
    assert done.n_completed == 4 and done.varied == ['x'] and not done.failed and done.signal is None
    assert f'4 runs of the sweep {done.tag}' in said and '\n[2/4] x=1 seed=2' in said
    assert all(['--tags', done.tag] == call[-2:] for call in calls(folder))
    again, said = run_sweep('x=1,2', 'y=a', seeds=2)
    assert len(calls(folder)) == 4 and again.tag == done.tag
    assert said == [f'4 runs of the sweep {done.tag}, of which 4 are complete']
    assert [outcome.uuid for outcome in again.outcomes] == [outcome.uuid for outcome in done.outcomes]


def test_a_failure_does_not_end_it_and_is_tried_again(run_sweep, folder):
    (folder / 'mode-1').write_text('fail')
    done, said = run_sweep('x=1,2')
    assert [outcome.status for outcome in done.outcomes] == ['crashed', 'completed']
    assert [outcome.values['x'] for outcome in done.failed] == ['1']
    assert '[1/2] x=1 has failed, with exit code 3' in said
    (folder / 'mode-1').unlink()
    done, said = run_sweep('x=1,2')
    assert done.n_completed == 2 and not done.failed
    assert calls(folder)[2:] == [['--resume', done.outcomes[0].uuid]]


def test_a_script_that_leaves_no_run_has_failed(run_sweep, folder):
    (folder / 'fast.py').write_text('')
    done, said = run_sweep('x=1,2')
    assert len(done.failed) == 2
    assert f'has failed, with exit code 0: there is no run {done.outcomes[0].uuid} in {folder}/logs' in said[3]


def test_other_arguments_are_another_sweep(run_sweep):
    assert run_sweep('x=1,2')[0].tag != run_sweep('x=1,3')[0].tag


def test_a_tag_of_ones_own_is_for_one_sweep(run_sweep, folder):
    assert run_sweep('x=1,2', tag='mine')[0].tag == 'mine'
    assert (folder / 'sweeps/mine.json').exists()
    with pytest.raises(UserError, match='--tag mine: there is a sweep of that name with other overrides'):
        run_sweep('x=1,3', tag='mine')


def test_a_run_that_was_deleted_is_trained_again(run_sweep, folder):
    done, _ = run_sweep('x=1,2')
    for path in (folder / 'logs/test' / done.outcomes[0].uuid).iterdir():
        path.unlink()
    (folder / 'logs/test' / done.outcomes[0].uuid).rmdir()
    assert run_sweep('x=1,2')[0].n_completed == 2
    assert len(calls(folder)) == 3
