import fcntl
import os
import threading
import time

import pytest
from support.runs import SNAPSHOT

from labml_mlm.common.errors import UserError
from labml_mlm.runs import run as runs
from labml_mlm.runs.run import Run


def test_runs_are_listed_newest_first(make, tmp_path):
    for minute, uuid in [(1, 'b'), (3, 'c'), (2, 'a')]:
        make(uuid, minute=minute)
    (tmp_path / 'logs/test/not_a_run').mkdir()
    assert [run.uuid for run in runs.list_runs(tmp_path / 'logs')] == ['c', 'a', 'b']
    assert time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(Run(tmp_path / 'logs/test/c').started)) == \
        '2026-11-04 08:03:07'


@pytest.mark.parametrize('statuses, expected', [
    ((), 'killed'), (('completed',), 'completed'), (('crashed',), 'crashed'), (('interrupted',), 'interrupted'),
    (('interrupted', 'resumed'), 'killed'), (('interrupted', 'resumed', 'completed'), 'completed'),
])
def test_status(make, statuses, expected):
    run = make('feed', statuses=statuses, snapshot=SNAPSHOT)
    assert run.status == expected
    run.lock()
    assert (run.status, run.owner()) == ('running', os.getpid())
    run.unlock()
    assert (run.status, run.owner()) == (expected, None)


def test_status_of_a_run_of_another_program(make):
    assert make('a', pid=os.getpid()).status == 'running'
    assert make('b').status == 'killed'
    assert make('c', statuses=('completed',), pid=os.getpid()).status == 'completed'


def test_status_of_damaged_files(make):
    run = make('feed', snapshot=SNAPSHOT)
    (run.path / 'run_log.jsonl').write_text('{"stat')
    (run.path / 'run.yaml').write_text('!!python/object/apply:os.system ["false"]')
    assert run.status == 'killed'
    assert run.started == run.path.stat().st_mtime


def test_a_locked_run_cannot_be_locked_again(make):
    run = make('feed', snapshot=SNAPSHOT)
    run.lock()
    with pytest.raises(UserError, match=f'the run feed is running, in process {os.getpid()}'):
        Run(run.path).lock()
    run.unlock()
    other = Run(run.path)
    other.lock()
    other.unlock()


def test_lock_waits_for_a_listing_of_runs(make):
    """`labml-mlm runs` holds the lock for an instant."""
    run = make('feed', snapshot=SNAPSHOT)
    with open(run.path / 'run.lock', 'w') as listing:
        fcntl.flock(listing, fcntl.LOCK_SH)
        threading.Timer(0.2, lambda: fcntl.flock(listing, fcntl.LOCK_UN)).start()
        run.lock()
    run.unlock()


def test_run_without_a_pid_file_is_found(make, tmp_path):
    run = make('feed', snapshot=SNAPSHOT, statuses=('completed',))
    (run.path / 'run.pid').unlink()
    [found] = runs.list_runs(tmp_path / 'logs')
    assert (found.path, found.status) == (run.path, 'completed')
    assert runs.find_run(tmp_path / 'logs', str(run.path))[0].path == run.path


def test_owner_of_an_unlocked_run(make):
    run = make('feed', snapshot=SNAPSHOT)
    assert run.owner() is None and Run(run.path).owner() is None


def test_find_run(make, tmp_path):
    logs = tmp_path / 'logs'
    first, second, other = make('abcd', minute=1), make('abff', minute=2), make('cafe', 'other', minute=3)
    for name, run in {'abcd': first, 'abc': first, 'last': other, 'c': other, str(second.path): second}.items():
        found, checkpoint = runs.find_run(logs, name)
        assert (found.path, checkpoint) == (run.path, None)
    assert runs.find_run(logs, 'last', experiment='test')[0].path == second.path
    # A complete uuid is not ambiguous
    make('ab', 'other')
    assert runs.find_run(logs, 'ab')[0].experiment == 'other'
    for name, message in {
        'abc0': r'there is no run abc0 in .*logs\. Did you mean abcd\? The newest: cafe \(other, 2026-11-04 08:03\)',
        'a': r'3 runs begin with `a`: abff \(test, 2026-11-04 08:02\), abcd \(test, .*\), ab \(other, .*\)\. Give ',
        'tset': 'Did you mean test?', '': 'the name of the run is empty',
        'x/y': 'x/y: there is no such folder',
        str(logs): 'is neither a run nor a checkpoint',
    }.items():
        with pytest.raises(UserError, match=message):
            runs.find_run(logs, name)
    with pytest.raises(UserError, match='there is no run in .*logs/none yet'):
        runs.find_run(logs, 'last', experiment='none')


def test_a_name_means_the_newest_run_of_an_experiment(make, tmp_path, monkeypatch):
    logs = tmp_path / 'logs'
    old, new, other = make('abcd', minute=1), make('abff', minute=3), make('cafe', 'other', minute=2)
    assert runs.find_run(logs, 'test')[0].path == new.path
    assert [run.path for run in runs.find_runs(logs, 'test')[0]] == [new.path, old.path]
    assert runs.find_run(logs, 'other')[0].path == other.path
    # A folder of that name here is no run
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'test').mkdir()
    assert runs.find_run(logs, 'test')[0].path == new.path
    make('other0', minute=4)
    with pytest.raises(UserError, match=r'`other` is the name of cafe \(other, .*\), and the beginning of other0 \('):
        runs.find_run(logs, 'other')


def test_many_candidates_are_not_all_listed(make, tmp_path):
    for i in range(12):
        make(f'a{i:02}', minute=i)
    with pytest.raises(UserError, match=r'12 runs begin with `a`: a11 .* a02 \([^)]*\), and 2 more\. Give more'):
        runs.find_run(tmp_path / 'logs', 'a')


def test_snapshot_is_replaced_atomically(make):
    run = make('feed', snapshot=SNAPSHOT)
    assert run.snapshot == SNAPSHOT
    # A leftover of a kill
    (run.path / '.configs.json.123').write_text('{')
    run.snapshot = {**SNAPSHOT, 'given': {'a': 2}}
    assert Run(run.path).snapshot == {**SNAPSHOT, 'given': {'a': 2}}
    assert not list(run.path.glob('.configs*'))
    for broken in ('{"giv', '[]', '{"given": {}}', ''):
        (run.path / 'configs.json').write_text(broken)
        assert run.snapshot is None


@pytest.mark.parametrize('name', ['', '.', '..', 'steps/sec', '/tmp', 'a\nb', 'a\0', 'a\x1b[2J', '\u2028', 'x' * 256,
                                  'é' * 128, 5, None])
def test_names_of_experiments_that_are_no_folder(name):
    with pytest.raises(UserError) as e:
        runs.check_experiment_name(name)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('uuid', ['', '.', '..', '../../../escaped', 'a/b', '/tmp', 'a\nb', 'a\0', '\u2028', 'x' * 256,
                                  'é' * 128, 'last', '.hidden', '~', '~user'])
def test_uuids_that_are_no_folder_or_mean_something_else(uuid):
    with pytest.raises(UserError) as e:
        runs.check_uuid(uuid)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('uuid', ['feed', '0' * 32, 'lasting', 'mein Lauf', 'a.b', 'x' * 255])
def test_uuids(uuid):
    runs.check_uuid(uuid)


@pytest.mark.parametrize('put', [lambda path, other: path.symlink_to(other), lambda path, _: path.mkdir(),
                                 lambda path, _: os.mkfifo(path)], ids=['link', 'folder', 'pipe'])
@pytest.mark.parametrize('name', ['log.jsonl', 'samples.jsonl', 'run_log.jsonl', 'run.pid', 'configs.resumed.yaml',
                                  'indicators.yaml', 'run.lock'])
def test_what_training_writes_to_must_be_a_file(make, tmp_path, name, put):
    run = make('feed', snapshot=SNAPSHOT)
    (tmp_path / 'precious').write_text('precious')
    (run.path / name).unlink(missing_ok=True)
    put(run.path / name, tmp_path / 'precious')
    with pytest.raises(UserError, match=f'{name}: it is no ordinary file'):
        run.lock()
    assert (tmp_path / 'precious').read_text() == 'precious' and run.owner() is None


@pytest.mark.parametrize('name', ['char_mlm', 'mein Lauf', 'été', '...', '.hidden', 'a:b', 'x' * 255])
def test_names_of_experiments(name):
    runs.check_experiment_name(name)


@pytest.mark.parametrize('content', ['', '[]', '{"unigram": 3}', '{"unigram": {"loss": 1.0}}', '{"a": {"loss": "x"}}'])
def test_damaged_baselines_are_none(tmp_path, content):
    run = Run(tmp_path)
    assert run.baselines == {}
    run.baselines = {'unigram': {'loss': 3.5, 'accuracy': 0.25}}
    assert run.baselines == {'unigram': {'loss': 3.5, 'accuracy': 0.25}}
    (tmp_path / 'baselines.json').write_text(content)
    assert run.baselines == {}
