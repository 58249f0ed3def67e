import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.runs.choose import find_trained


@pytest.fixture
def trained(make, write):
    """Makes runs, some with a checkpoint, the oldest first."""
    def trained(**has_checkpoint):
        for minute, (uuid, has) in enumerate(has_checkpoint.items()):
            run = make(uuid, minute=minute)
            if has:
                write(run.checkpoints, 10, 2.)
    return trained


def test_runs_without_a_checkpoint_are_passed_over_and_named(trained, tmp_path):
    trained(abcd=True, beef=True, cafe=False, dada=False)
    for name in ('last', 'test'):
        run, at, note = find_trained(tmp_path / 'logs', name)
        assert (run.uuid, at) == ('beef', None)
        assert note == f' (`{name}` is the run beef: without a checkpoint are dada, cafe)'


def test_the_newest_is_taken_without_a_word(trained, tmp_path):
    trained(abcd=True, beef=True)
    assert find_trained(tmp_path / 'logs', 'last')[::2][0].uuid == 'beef'
    assert find_trained(tmp_path / 'logs', 'last')[2] == ''


def test_a_run_that_is_named_is_not_passed_over(trained, tmp_path):
    trained(abcd=True, beef=False)
    assert find_trained(tmp_path / 'logs', 'be')[0].uuid == 'beef'


def test_no_run_has_a_checkpoint(trained, tmp_path):
    trained(abcd=False, beef=False)
    with pytest.raises(UserError, match='`last` is 2 runs, and none of them has a checkpoint yet'):
        find_trained(tmp_path / 'logs', 'last')
