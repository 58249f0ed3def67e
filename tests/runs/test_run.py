import json
import os
import time

import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.runs import run as runs
from labml_mlm.runs.run import Run

RECORD = {'experiment': 'test', 'time': 0., 'given': {}, 'defaults': {}, 'computed': {}, 'text': {}, 'tokenizer': None,
          'versions': {}, 'resumed': []}


@pytest.fixture
def make(tmp_path):
    """Makes a run's folder in `logs` of `tmp_path`."""
    def make(uuid, experiment='test', *, minute=0, pid=2 ** 22 + 1, statuses=(), record=None):
        path = tmp_path / 'logs' / experiment / uuid
        path.mkdir(parents=True)
        (path / 'run.pid').write_text(str(pid))
        # As labml pads it
        (path / 'run.yaml').write_text(f"trial_date: 2026-11- 4\ntrial_time: ' 8: {minute}: 7'\ntags: [a]\n")
        (path / 'run_log.jsonl').write_text(''.join(json.dumps({'status': status}) + '\n' for status in statuses))
        run = Run(path)
        if record is not None:
            run.record = record
        return run
    return make


def test_the_newest_first(make, tmp_path):
    for minute, uuid in [(1, 'b'), (3, 'c'), (2, 'a')]:
        make(uuid, minute=minute)
    (tmp_path / 'logs/test/no_run').mkdir()
    assert [run.uuid for run in runs.list_runs(tmp_path / 'logs')] == ['c', 'a', 'b']
    assert time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(Run(tmp_path / 'logs/test/c').started)) == \
        '2026-11-04 08:03:07'


@pytest.mark.parametrize('statuses, expected', [
    ((), 'killed'), (('completed',), 'completed'), (('crashed',), 'crashed'), (('interrupted',), 'interrupted'),
    (('interrupted', 'resumed'), 'killed'), (('interrupted', 'resumed', 'completed'), 'completed'),
])
def test_status(make, statuses, expected):
    run = make('feed', statuses=statuses, record=RECORD)
    assert run.status == expected
    run.lock()
    assert (run.status, run.owner()) == ('running', os.getpid())
    run.unlock()
    assert (run.status, run.owner()) == (expected, None)


def test_status_of_a_run_of_something_else(make):
    assert make('a', pid=os.getpid()).status == 'running'
    assert make('b').status == 'killed'
    assert make('c', statuses=('completed',), pid=os.getpid()).status == 'completed'


def test_a_broken_status(make):
    run = make('feed', record=RECORD)
    (run.path / 'run_log.jsonl').write_text('{"stat')
    (run.path / 'run.yaml').write_text('!!python/object/apply:os.system ["false"]')
    assert run.status == 'killed'
    assert run.started == run.path.stat().st_mtime


def test_a_run_is_one_process_es(make):
    run = make('feed', record=RECORD)
    run.lock()
    with pytest.raises(UserError, match=f'the run feed is running, in process {os.getpid()}'):
        Run(run.path).lock()
    run.unlock()
    other = Run(run.path)
    other.lock()
    other.unlock()


def test_a_glance_does_not_refuse_a_run(make):
    """Who lists runs holds the lock for an instant."""
    run = make('feed', record=RECORD)
    import fcntl
    import threading
    with open(run.path / 'run.lock', 'w') as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        threading.Timer(0.2, lambda: fcntl.flock(glance, fcntl.LOCK_UN)).start()
        run.lock()
    run.unlock()


def test_a_run_that_has_lost_its_pid_is_still_there(make, tmp_path):
    run = make('feed', record=RECORD, statuses=('completed',))
    (run.path / 'run.pid').unlink()
    [found] = runs.list_runs(tmp_path / 'logs')
    assert (found.path, found.status) == (run.path, 'completed')
    assert runs.find_run(tmp_path / 'logs', str(run.path))[0].path == run.path


def test_two_may_look_at_once(make):
    run = make('feed', record=RECORD)
    assert run.owner() is None and Run(run.path).owner() is None


def test_find(make, tmp_path):
    logs = tmp_path / 'logs'
    first, second, other = make('abcd', minute=1), make('abff', minute=2), make('cafe', 'other', minute=3)
    for name, run in {'abcd': first, 'abc': first, 'last': other, 'c': other, str(second.path): second}.items():
        found, checkpoint = runs.find_run(logs, name)
        assert (found.path, checkpoint) == (run.path, None)
    assert runs.find_run(logs, 'last', experiment='test')[0].path == second.path
    # A whole name is not ambiguous
    make('ab', 'other')
    assert runs.find_run(logs, 'ab')[0].experiment == 'other'
    for name, message in {
        'abc0': r'there is no run abc0 in .*logs\. Did you mean abcd\? The newest: cafe \(other\), abff \(test\), ',
        'a': r'3 runs begin with `a`, the newest of them abff \(test\), abcd', '': 'the name of the run is empty',
        'x/y': 'x/y: there is no such folder',
        str(logs): 'is no run and no checkpoint',
    }.items():
        with pytest.raises(UserError, match=message):
            runs.find_run(logs, name)
    with pytest.raises(UserError, match='there is no run in .*logs/none yet'):
        runs.find_run(logs, 'last', experiment='none')


def test_a_record_is_replaced_as_a_whole(make):
    run = make('feed', record=RECORD)
    assert run.record == RECORD
    # What a kill has left
    (run.path / '.configs.json.123').write_text('{')
    run.record = {**RECORD, 'given': {'a': 2}}
    assert Run(run.path).record == {**RECORD, 'given': {'a': 2}}
    assert not list(run.path.glob('.configs*'))
    for broken in ('{"giv', '[]', '{"given": {}}', ''):
        (run.path / 'configs.json').write_text(broken)
        assert run.record is None
