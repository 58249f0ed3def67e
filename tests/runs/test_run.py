import fcntl
import json
import os
import threading
import time

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.runs import run as runs
from labml_mlm.runs.run import Run

SNAPSHOT = {'experiment': 'test', 'time': 0., 'given': {}, 'defaults': {}, 'computed': {}, 'text': {},
            'tokenizer': None, 'versions': {}, 'resumed': []}


@pytest.fixture
def make(tmp_path):
    """Makes the folder of a run in `logs` of `tmp_path`."""
    def make(uuid, experiment='test', *, minute=0, pid=2 ** 22 + 1, statuses=(), snapshot=None):
        path = tmp_path / 'logs' / experiment / uuid
        path.mkdir(parents=True)
        (path / 'run.pid').write_text(str(pid))
        # As labml pads it
        (path / 'run.yaml').write_text(f"trial_date: 2026-11- 4\ntrial_time: ' 8: {minute}: 7'\ntags: [a]\n")
        (path / 'run_log.jsonl').write_text(''.join(json.dumps({'status': status}) + '\n' for status in statuses))
        run = Run(path)
        if snapshot is not None:
            run.snapshot = snapshot
        return run
    return make


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
        'abc0': r'there is no run abc0 in .*logs\. Did you mean abcd\? The newest: cafe \(other\), abff \(test\), ',
        'a': r'3 runs begin with `a`, the newest of them abff \(test\), abcd', '': 'the name of the run is empty',
        'x/y': 'x/y: there is no such folder',
        str(logs): 'is neither a run nor a checkpoint',
    }.items():
        with pytest.raises(UserError, match=message):
            runs.find_run(logs, name)
    with pytest.raises(UserError, match='there is no run in .*logs/none yet'):
        runs.find_run(logs, 'last', experiment='none')


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
