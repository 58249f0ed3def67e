"""A run and the labml app: whatever the app does, training continues."""
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from labml.internal.app.configs import AppTrackConfigs
from labml.internal.lab import lab_singleton
from labml.internal.logger import logger_singleton
from support.project import SMALL, TRAIN, values_of

from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.runs.run import Run
from labml_mlm.screen.console import PlainDestination
from labml_mlm.tracking import uploader

# Batches of equal size, so the steps of curves are evenly spaced: upstream merges points that are closer than the first
EVEN = ['batch_size=15', 'n_prompts=0']
# Sends more often than each second, retries sooner than after five, and gives up sooner on an app that never answers
IMPATIENT = '''from labml_mlm.tracking import uploader

uploader._INTERVAL = uploader._RETRY_INTERVAL = 0.05
uploader._PROBE_TIMEOUT = 0.3
''' + TRAIN


def test_run_reaches_an_upstream_app(fake_app, project):
    project.configure(fake_app.url)
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('Monitor experiment at http://the.app/run') == 1
    assert 'labml app' not in result.stdout
    assert result.stdout.splitlines()[-1] == 'Its page on the app: http://the.app/run'
    [run] = project.runs
    assert all(f'run_uuid={run.name}' in path for path in fake_app.paths)
    merged = {}
    for update in fake_app.updates:
        merged.update(update)
    assert merged['name'] == 'test'
    assert merged['status']['status'] == 'completed'
    assert merged['configs']['seq_len']['computed'] == 16
    assert merged['configs']['seq_len']['is_explicitly_specified']
    assert merged['indicators']['loss.train']['class_name'] == 'Scalar'
    assert 'Validation loss' in ''.join(update.get('stdout', '') for update in fake_app.updates)
    # Each value once
    assert fake_app.values() == values_of(run / 'log.jsonl')
    # And none again; by the command itself, which other tests call in this process
    result = subprocess.run([sys.executable, '-m', 'labml_mlm', 'sync'], cwd=project.path, env=project.environment(),
                            capture_output=True, text=True, timeout=120)
    assert result.stdout == f'{run.name}  test  nothing new\n'


def test_run_reaches_our_app(app, project, assert_has_all_of):
    project.configure(app.app_url)
    result = project.train('epochs=3', *EVEN)
    assert result.returncode == 0, result.stderr
    [run] = project.runs
    assert f'Monitor experiment at {app.url}/run/{run.name}' in result.stdout
    [listed] = [one for one in app.ask('runs/null')['runs'] if one['run_uuid'] == run.name]
    assert listed['run_status']['status'] == 'completed'
    assert_has_all_of(app, run)
    assert 'Validation loss' in str(app.ask(f'logs/stdout/{run.name}', {'page': -2})['pages'])


def test_missing_app_is_reported_at_the_start_and_at_the_end(project):
    result = project.train()
    assert result.returncode == 0, result.stderr
    [run] = project.runs
    first, last = [line for line in result.stdout.splitlines() if 'labml app' in line]
    assert first == ('No labml app answers at http://localhost:1: the run continues without it. '
                     '`labml-mlm app` starts one')
    assert last == (f'Not on the labml app at http://localhost:1: the run (Connection refused). '
                    f'To send it: labml-mlm sync {run.name}')


def test_app_that_never_answers_does_not_delay_the_run(project):
    project.script.write_text(IMPATIENT)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        project.configure(f'http://127.0.0.1:{silent.getsockname()[1]}/api/v1/default')
        result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('No labml app answers') == 1
    assert result.stdout.count('Not on the labml app') == 1


@pytest.mark.long
@pytest.mark.parametrize('is_first', [True, False])
def test_app_that_hangs_does_not_stop_the_run(fake_app, project, is_first):
    fake_app.before_answer = lambda n: threading.Event().wait(60) if is_first or n > 1 else None
    project.configure(fake_app.url)
    project.script.write_text('from labml_mlm.tracking import uploader\n\nuploader._PATIENCE = 1.\n' + TRAIN)
    result = project.train('epochs=10', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    assert '(it does not answer in time). To send it: labml-mlm sync' in result.stdout.splitlines()[-1]
    assert project.status() == 'completed'


def test_restarted_app_gets_what_it_missed(start_fake_app, project):
    """Each value once, although the app has lost its store."""
    first = start_fake_app()
    gone = threading.Event()

    def go(n):
        if n == 3:
            threading.Thread(target=lambda: (first.close(), gone.set())).start()

    first.before_answer = go
    project.configure(first.url)
    project.script.write_text(IMPATIENT)
    project.fork(f'text_path={project.text}', *SMALL, 'epochs=100000', 'n_prompts=0', env={'RUN_UUID': 'feed'})
    project.until(gone.is_set)
    project.until(lambda: 'takes no updates now: ' in project.outputs[0].read_text())
    second = start_fake_app(int(first.server_address[1]))
    project.until(lambda: len(second.paths) > 2)
    os.kill(project.pid, signal.SIGTERM)
    result = project.wait()
    assert result.returncode == 143
    assert result.stdout.count('takes no updates now') == 1
    assert 'Not on the labml app' not in result.stdout
    before, after = first.values(), second.values()
    for name, pairs in values_of(project.runs[0] / 'log.jsonl').items():
        # The app may have taken an update whose answer was lost
        assert sorted({*before.get(name, []), *after.get(name, [])}) == pairs


@pytest.mark.parametrize('is_store_kept', [True, False])
def test_killed_and_restarted_app_gets_the_whole_run(start_app, project, assert_has_all_of, is_store_kept):
    server = start_app()
    project.configure(server.app_url)
    project.script.write_text(IMPATIENT)
    project.fork(f'text_path={project.text}', *SMALL, 'epochs=100000', *EVEN, 'checkpoint_interval=10',
                 env={'RUN_UUID': 'f' * 12})
    project.until(lambda: server.points('f' * 12, 'loss.train'))
    server.stop(signal.SIGKILL)
    if not is_store_kept:
        for path in server.store.parent.glob('store.sqlite*'):
            path.unlink()
    server = start_app(port=server.port)
    project.until(lambda: server.points('f' * 12, 'loss.train'))
    os.kill(project.pid, signal.SIGTERM)
    result = project.wait()
    assert result.returncode == 143
    assert 'Not on the labml app' not in result.stdout
    [folder] = project.runs
    local = values_of(folder / 'log.jsonl')['loss.train']
    [(steps, _)] = server.points(folder.name, 'loss.train')
    # Upstream merges the points of a long curve
    assert steps[-1] == pytest.approx(local[-1][0], rel=0.01)
    if len(local) <= 1024:
        assert_has_all_of(server, folder)
    assert server.ask(f'run/{folder.name}')['name'] == 'test'
    assert server.ask(f'run/status/{folder.name}')['run_status']['status'] == 'interrupted'


# Status, body, and the reason that is reported
BAD_ANSWERS = [
    (200, b'{"errors": [{"error": "invalid_run", "message": "no such run"}]}', 'it refuses: no such run'),
    (200, b'{"errors": [{"other": 1}]}', 'it refuses: '), (200, b'[]', 'it does not answer as a labml app does'),
    (200, b'no JSON', 'it does not answer as a labml app does'), (500, b'', 'it answers 500 Internal Server Error'),
    (200, b'{"errors": 5}', 'it does not answer as a labml app does'), (404, b'{}', 'it answers 404 Not Found'),
    (200, b'{"errors": [], "received": 5}', 'it does not answer as a labml app does'),
    (200, b'{"errors": [], "received": {"loss": "x"}}', 'it does not answer as a labml app does'),
    (403, b'{"error": "not for you"}', 'it answers 403 (not for you)'),
]


@pytest.mark.parametrize('code, answer, reason', BAD_ANSWERS)
def test_bad_answer_is_reported_at_the_end(fake_app, tmp_path, monkeypatch, capsys, code, answer, reason):
    fake_app.code, fake_app.answer = code, answer
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setattr(uploader, '_LAST_ATTEMPTS', 1)
    monkeypatch.setattr(logger_singleton(), '_Logger__destinations', [PlainDestination()])
    monkeypatch.setattr(lab_singleton(), 'app_configs', AppTrackConfigs(
        url=f'{fake_app.url}/track?', frequency=0, open_browser=False, is_default=False))
    run = Run(tmp_path / 'feed')
    run.path.mkdir()
    upload = uploader.AppUploader()
    upload.probe()
    upload.start(run, MetricsWriter(run.log))
    upload.finish('completed', None)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith('Not on the labml app') and f'({reason}' in last
    assert last.endswith('To send it: labml-mlm sync feed')


def test_bad_answers_do_not_stop_the_run(fake_app, project):
    """One run gets all of them in turn."""
    def choose(n):
        fake_app.code, fake_app.answer, _ = BAD_ANSWERS[n % len(BAD_ANSWERS)]

    fake_app.before_answer = choose
    project.configure(fake_app.url)
    project.script.write_text('from labml_mlm.tracking import uploader\n\nuploader._LAST_ATTEMPTS = 1\n' + IMPATIENT)
    result = project.train('epochs=10', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    assert len(fake_app.paths) > len(BAD_ANSWERS)
    assert 'Traceback' not in result.stderr
    assert 'Validation loss' in result.stdout
    assert result.stdout.splitlines()[-1].startswith('Not on the labml app')


@pytest.mark.long
@pytest.mark.parametrize('epochs', [1, 20])
def test_slow_app_gets_everything(fake_app, project, epochs):
    """Upstream's app takes three seconds for each answer."""
    fake_app.before_answer = lambda n: threading.Event().wait(3)
    project.configure(fake_app.url)
    result = project.train(f'epochs={epochs}', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    assert 'Not on the labml app' not in result.stdout
    assert fake_app.values() == values_of(project.runs[0] / 'log.jsonl')
    assert [update['status']['status'] for update in fake_app.updates if 'status' in update][-1] == 'completed'


@pytest.mark.long
def test_errors_are_reported_once_in_training_and_once_at_the_end(fake_app, project):
    fake_app.before_answer = lambda n: setattr(fake_app, 'code', 500 if n > 1 else 200)
    project.configure(fake_app.url)
    project.script.write_text(IMPATIENT)
    result = project.train('epochs=10', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('it answers 500') == 2
    assert result.stdout.count('takes no updates now') == 1


def test_upstream_app_gets_no_step_twice(fake_app, project):
    """Even if the run is resumed from an earlier checkpoint."""
    project.configure(fake_app.url)
    assert project.train('epochs=3', 'n_prompts=0').returncode == 0
    first, *_ = sorted(project.runs[0].glob('checkpoints/*'), key=lambda path: int(path.name))
    assert project.run('--resume', str(first)).returncode == 0
    steps = [step for step, _ in fake_app.values()['loss.train']]
    assert steps == [step for step, _ in values_of(project.runs[0] / 'log.jsonl')['loss.train']]


def test_ctrl_c_while_a_completed_run_waits_for_a_slow_app(fake_app, project):
    fake_app.before_answer = lambda n: threading.Event().wait(5)
    project.configure(fake_app.url)
    project.fork(f'text_path={project.text}', *SMALL)
    project.until(lambda: 'The run is in' in project.outputs[0].read_text())
    os.kill(project.pid, signal.SIGINT)
    result = project.wait()
    assert (result.returncode, result.stderr) == (0, '')
    assert project.status() == 'completed'


def test_other_server_at_the_app_url_is_not_an_app(project):
    """It greets like an SSH server."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        def greet():
            while True:
                connection, _ = server.accept()
                connection.sendall(b'SSH-2.0-OpenSSH_9.2\r\n')
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        project.configure(f'http://127.0.0.1:{server.getsockname()[1]}/api/v1/default')
        result = project.train()
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout.count('No labml app answers') == 1


def test_project_without_app_url(project, sync):
    (project.path / '.labml.yaml').write_text('app_open_browser: false\n')
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('labml app') == 1
    assert ('No labml app: to watch runs there, add the line `app_url: http://localhost:5005/api/v1/default` to '
            '.labml.yaml, and start it by `labml-mlm app`') in result.stdout
    [_] = project.runs
    code, out, err = sync()
    assert (code, out) == (2, '')
    assert 'there is no labml app to send to: set app_url in .labml.yaml, or give --url' in err
