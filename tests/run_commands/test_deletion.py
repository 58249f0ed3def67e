import os
import shutil

import pytest
from support.runs import SNAPSHOT

from labml_mlm.common.errors import UserError
from labml_mlm.run_commands.deletion import delete_run, find_deletable, size_of
from labml_mlm.runs.run import list_runs


@pytest.fixture
def logs(tmp_path):
    return tmp_path / 'logs'


def test_a_run_is_deleted_and_nothing_else(make, logs):
    run, other = make('abcd', snapshot=SNAPSHOT), make('cafe', 'other', snapshot=SNAPSHOT)
    (run.path / 'checkpoints/5').mkdir(parents=True)
    (run.path / 'checkpoints/5/model').write_bytes(bytes(1000))
    (run.path / 'linked').symlink_to(other.path)
    size = size_of(run.path)
    found = find_deletable(logs, 'abc')
    assert size >= 1000 and delete_run(found) == size + len(str(os.getpid()))
    assert [run.uuid for run in list_runs(logs)] == ['cafe']
    # Nor is an empty folder left
    assert [path.name for path in logs.iterdir()] == ['other']
    assert (other.path / 'configs.json').exists()


@pytest.mark.parametrize('name', ['uuid', 'path', 'with dots', 'from its folder', 'last'])
def test_any_name_of_a_run_deletes_it(make, logs, name, monkeypatch):
    run = make('abcd')
    monkeypatch.chdir(run.path)
    names = {'uuid': 'abcd', 'path': str(run.path), 'with dots': f'{logs}/test/../test/abcd/', 'from its folder': '.',
             'last': 'last'}
    delete_run(find_deletable(logs, names[name]))
    assert not run.path.exists()


def test_what_is_no_run_of_the_project_is_refused(make, logs, tmp_path):
    run = make('abcd')
    shutil.copytree(run.path, tmp_path / 'elsewhere/test/beef')
    (logs / 'test/link').symlink_to(tmp_path / 'elsewhere/test/beef')
    (logs / 'linked').symlink_to(tmp_path / 'elsewhere/test')
    (tmp_path / 'abcd').symlink_to(run.path)
    (run.path / 'checkpoints/5').mkdir(parents=True)
    (run.path / 'checkpoints/5/checkpoint.json').touch()
    for name, message in {
        str(tmp_path / 'elsewhere/test/beef'): 'only runs of this project', 'link': 'links are not followed',
        str(logs / 'test/link'): 'is a link', 'beef': 'is a link', str(logs / 'linked/beef'): 'is a link',
        str(tmp_path / 'abcd'): 'is a link', str(run.path / 'checkpoints/5'): 'is a checkpoint of the run abcd',
        str(logs): 'is neither a run', str(logs / 'test'): 'is neither a run', f'{run.path}/..': 'is neither a run',
        '/': 'is neither a run', 'nope': 'there is no run nope', '': 'is empty',
    }.items():
        with pytest.raises(UserError, match=message):
            find_deletable(logs, name)
    assert (run.path / 'run.pid').exists() and (tmp_path / 'elsewhere/test/beef/run.pid').exists()


def test_logs_may_be_a_link(make, logs, tmp_path):
    run = make('abcd')
    logs.rename(tmp_path / 'disk')
    logs.symlink_to(tmp_path / 'disk')
    for name in ('abcd', str(run.path)):
        assert find_deletable(logs, name).uuid == 'abcd'


def test_a_running_run_is_refused(make, logs):
    run, foreign = make('abcd', snapshot=SNAPSHOT), make('cafe', pid=os.getpid())
    run.lock()
    for name in ('abcd', 'cafe'):
        with pytest.raises(UserError, match=f'the run {name} is running, in process {os.getpid()}: end it first'):
            find_deletable(logs, name)
    run.unlock()
    found = find_deletable(logs, 'abcd')
    # It began meanwhile
    run.lock()
    with pytest.raises(UserError, match='is running'):
        delete_run(found)
    run.unlock()
    assert run.path.exists() and foreign.path.exists()


def test_what_a_kill_left_is_no_run_and_goes_with_the_next(make, logs):
    run, other = make('abcd'), make('cafe')
    run.path.rename(hidden := run.path.with_name('.abcd.deleted'))
    assert [run.uuid for run in list_runs(logs)] == ['cafe']
    delete_run(find_deletable(logs, 'cafe'))
    assert not hidden.exists() and not other.path.exists()
