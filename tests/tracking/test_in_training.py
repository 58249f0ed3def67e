"""Commands on a run that another process trains: its log grows, and a last line may be written in part."""
import json
import os
import subprocess
import sys
import uuid

import pytest
from support.project import ROOT, outcome, values_of
from support.runs import SNAPSHOT

from labml_mlm.runs.run import Run
from labml_mlm.tracking.sync import AppSync
from labml_mlm.tracking.sync import sync as sync_run

HALF = '{"track": {"loss.train": [[9'
TRAINS = ('import sys, time\nfrom pathlib import Path\nfrom labml_mlm.runs.run import Run\n'
          'run = Run(Path(sys.argv[1]))\nrun.lock()\nprint("trains", flush=True)\nsys.stdin.read()')


@pytest.fixture
def run(project):
    run = Run(project.path / 'logs/test' / uuid.uuid4().hex)
    run.path.mkdir(parents=True)
    (run.path / 'run.yaml').write_text(f"name: test\nuuid: {run.uuid}\ntrial_date: 2026-11-04\ntrial_time: '8:3:7'\n")
    run.snapshot = SNAPSHOT
    add(run, 0, 4)
    return run


@pytest.fixture
def training(run):
    """A process that has the lock of the run; it has written a line in part."""
    process = subprocess.Popen([sys.executable, '-c', TRAINS, run.path], stdin=subprocess.PIPE, text=True,
                               stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert process.stdout.readline() == 'trains\n'
    with open(run.log, 'a') as f:
        f.write(HALF)
    yield process
    process.communicate('')


def add(run, begin, end):
    """Adds steps to the metrics, after the rest of a line in part."""
    is_half = run.log.exists() and run.log.read_text().endswith(HALF)
    lines = [{'track': {name: [[step, [step / 10]]] for name in ('loss.train', 'loss.valid')}, 'time': 0.}
             for step in range(begin, end)]
    with open(run.log, 'a') as f:
        f.write('9, [0.5]]]}, "time": 0.0}\n' * is_half + ''.join(json.dumps(line) + '\n' for line in lines))


def test_sync_sends_what_there_is_and_says_that_it_is_in_training(app, project, run, training, sync, assert_has_all_of):
    project.configure(app.app_url)
    lock = (run.path / 'run.lock').read_bytes()
    for arguments, sent in (((), '8 values sent'), (('--all',), 'nothing new')):
        code, out, err = sync(*arguments)
        assert (code, err) == (0, '')
        assert out.endswith(f'{run.uuid}  test  {sent} (it is in training, and there will be more)\n')
    assert app.ask(f'run/status/{run.uuid}')['run_status']['status'] == 'in progress'
    # It still has it
    assert run.owner() == training.pid and (run.path / 'run.lock').read_bytes() == lock

    add(run, 100, 103)
    training.communicate('')
    code, out, err = sync()
    assert (code, err) == (0, '') and out == f'{run.uuid}  test  7 values sent\n'
    assert_has_all_of(app, run.path)
    assert app.ask(f'run/status/{run.uuid}')['run_status']['status'] == 'crashed'


def test_other_commands_read_what_there_is(project, run, training, monkeypatch, capsys):
    monkeypatch.chdir(project.path)
    for name, *arguments in (('runs',), ('info', run.uuid), ('plot', run.uuid, '-o', 'p.png'),
                             ('export-metrics', run.uuid, '-o', 'm.csv'), ('report', run.uuid, '-o', 'r.html'),
                             ('diff', run.uuid, run.uuid)):
        code, out, err = outcome(capsys, name, *arguments)
        assert (code, 'damaged' in out + err) == (0, False), (name, err)
        assert name not in ('runs', 'info') or 'running' in out
    assert (project.path / 'p.png').stat().st_size > 0
    assert (project.path / 'm.csv').read_text().count('\n') == 1 + 2 * 4
    assert run.owner() == training.pid


@pytest.mark.parametrize('is_ours', [True, False], ids=['app', 'app of upstream'])
def test_values_arrive_once_while_both_send(app, fake_app, run, is_ours, assert_has_all_of):
    """The delivery of the process that trains, and `sync` in another one, in turns."""
    url = (app.app_url if is_ours else fake_app.url) + '/track?'
    of_training = AppSync(run, url)
    for begin in range(4, 20, 4):
        while not of_training.is_complete():
            of_training.send()
        add(run, begin, begin + 2)
        sync_run(run, url)
        add(run, begin + 2, begin + 4)
        # It does not know what the other one has sent
        of_training.send()
    assert of_training.is_complete()
    if is_ours:
        assert_has_all_of(app, run.path)
    else:
        assert fake_app.values() == values_of(run.log)


def test_log_that_grows_faster_than_it_is_sent_has_an_end(fake_app, run, training):
    def grow(n):
        assert n < 50
        add(run, 100 * n, 100 * n + 10)

    fake_app.before_answer = grow
    n, note, damage = sync_run(run, fake_app.url + '/track?')
    assert n >= 8 and 'in training' in note and damage == ''


def test_run_that_ends_meanwhile_has_its_status(fake_app, run, training):
    def end(n):
        if n == 1:
            training.communicate('')
            (run.path / 'run_log.jsonl').write_text('{"status": "completed", "time": 5.0}\n')

    fake_app.before_answer = end
    _, note, _ = sync_run(run, fake_app.url + '/track?')
    assert note == ''
    assert [update['status']['status'] for update in fake_app.updates if 'status' in update][-1] == 'completed'
