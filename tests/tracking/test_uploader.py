"""The labml app from the side of a run: whatever the app does, the run goes on."""
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from labml.internal.tracker.indicators.numeric import Scalar
from support.project import SMALL, values_of

from labml_mlm.runs.metrics_log import MetricsWriter

# Batches of one size, so that the steps of the curves are even: upstream merges points that are closer than the first
EVEN = ['batch_size=15', 'n_prompts=0']


class AppHandler(http.server.BaseHTTPRequestHandler):
    """An app of labml's own kind: it takes what comes, and answers with the run's page."""

    def do_GET(self):
        self.send_error(405)

    def do_POST(self):
        server = self.server
        server.updates += json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        server.paths.append(self.path)
        server.before_answer(len(server.paths))
        self.send_response(server.code)
        self.send_header('Content-Length', str(len(server.answer)))
        self.end_headers()
        self.wfile.write(server.answer)

    def log_message(self, *_):
        pass


class FakeApp(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(('127.0.0.1', port), AppHandler)
        self.updates, self.paths, self.before_answer, self.code = [], [], lambda n: None, 200
        self.answer = b'{"errors": [], "url": "http://the.app/run"}'
        self.url = f'http://127.0.0.1:{self.server_address[1]}/api/v1/default'
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """Nothing: whoever waited for the answer has gone."""

    def close(self):
        self.shutdown()
        self.server_close()

    def values(self):
        """What came, as `values_of` has it."""
        values = {}
        for update in self.updates:
            for name, track in update.get('track', {}).items():
                values.setdefault(name, []).extend(zip(track['step'], track['value'], strict=True))
        return values


@pytest.fixture
def fake_app():
    app = FakeApp()
    yield app
    app.close()


def sync(project, *arguments):
    """The `sync` command, in the project."""
    return subprocess.run([sys.executable, '-m', 'labml_mlm', 'sync', *arguments], cwd=project.path,
                          env=project.environment(), capture_output=True, text=True, timeout=120)


def assert_has_all_of(app, folder):
    """The curves of the app are those of the folder, each point once."""
    for name, pairs in values_of(folder / 'log.jsonl').items():
        [(steps, values)] = app.points(folder.name, name)
        assert list(steps) == [step for step, _ in pairs], name
        assert list(values) == pytest.approx([value for _, value in pairs], rel=1e-6), name


def test_a_run_reaches_an_app_of_labmls_own_kind(fake_app, project):
    project.configure(fake_app.url)
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('Monitor experiment at http://the.app/run') == 1
    assert 'labml app' not in result.stdout
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
    # Every value, each once
    assert fake_app.values() == values_of(run / 'log.jsonl')
    # And none a second time
    assert sync(project).stdout == f'{run.name}  test  nothing new\n'


def test_a_run_on_our_app(app, project):
    project.configure(app.app_url)
    result = project.train('epochs=3', *EVEN)
    assert result.returncode == 0, result.stderr
    [run] = project.runs
    assert f'Monitor experiment at {app.url}/run/{run.name}' in result.stdout
    [listed] = [one for one in app.ask('runs/null')['runs'] if one['run_uuid'] == run.name]
    assert listed['run_status']['status'] == 'completed'
    assert_has_all_of(app, run)
    assert 'Validation loss' in str(app.ask(f'logs/stdout/{run.name}', {'page': -2})['pages'])


def test_an_app_that_is_away_costs_two_lines(project):
    result = project.train()
    assert result.returncode == 0, result.stderr
    [run] = project.runs
    first, last = [line for line in result.stdout.splitlines() if 'labml app' in line]
    assert first == 'No labml app answers at http://localhost:1: the run goes on without it. `labml-mlm app` starts one'
    assert last == (f'Not on the labml app at http://localhost:1: the run, as Connection refused. '
                    f'To send it: labml-mlm sync {run.name}')


def test_an_app_that_never_answers(project):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        project.configure(f'http://127.0.0.1:{silent.getsockname()[1]}/api/v1/default')
        result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('No labml app answers') == 1
    assert result.stdout.count('Not on the labml app') == 1


@pytest.mark.long
@pytest.mark.parametrize('is_first', [True, False])
def test_an_app_that_hangs(fake_app, project, is_first):
    fake_app.before_answer = lambda n: threading.Event().wait(60) if is_first or n > 1 else None
    project.configure(fake_app.url)
    result = project.train('epochs=10', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    assert 'it does not answer in time. To send it: labml-mlm sync' in result.stdout.splitlines()[-1]
    assert project.status() == 'completed'


def test_an_app_that_goes_and_comes_back(project):
    """What it missed arrives when it is back, once; also to one that has lost its store."""
    first = FakeApp()
    gone = threading.Event()

    def go(n):
        if n == 3:
            threading.Thread(target=lambda: (first.close(), gone.set())).start()

    first.before_answer = go
    project.configure(first.url)
    project.fork(f'text_path={project.text}', *SMALL, 'epochs=100000', 'n_prompts=0', env={'RUN_UUID': 'feed'})
    project.until(gone.is_set)
    project.until(lambda: 'takes no updates now: ' in project.outputs[0].read_text())
    second = FakeApp(int(first.server_address[1]))
    try:
        project.until(lambda: len(second.paths) > 2)
        os.kill(project.pid, signal.SIGTERM)
        result = project.wait()
        assert result.returncode == 143
        assert result.stdout.count('takes no updates now') == 1
        assert 'Not on the labml app' not in result.stdout
        before, after = first.values(), second.values()
        for name, pairs in values_of(project.runs[0] / 'log.jsonl').items():
            # An update may be taken whose answer is lost
            assert sorted({*before.get(name, []), *after.get(name, [])}) == pairs
    finally:
        second.close()


@pytest.mark.parametrize('is_store_kept', [True, False])
def test_our_app_is_killed_and_started_again(start_app, project, is_store_kept):
    server = start_app()
    project.configure(server.app_url)
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
    # A long curve is merged to fewer points
    assert steps[-1] == pytest.approx(local[-1][0], rel=0.01)
    if len(local) <= 1024:
        assert_has_all_of(server, folder)
    assert server.ask(f'run/{folder.name}')['name'] == 'test'
    assert server.ask(f'run/status/{folder.name}')['run_status']['status'] == 'interrupted'


@pytest.mark.parametrize('code, answer, reason', [
    (200, b'{"errors": [{"error": "invalid_run", "message": "no such run"}]}', 'it refuses: no such run'),
    (200, b'{"errors": [{"other": 1}]}', 'it refuses: '), (200, b'[]', 'it does not answer as a labml app does'),
    (200, b'no JSON', 'it does not answer as a labml app does'), (500, b'', 'it answers 500 Internal Server Error'),
    (200, b'{"errors": 5}', 'it does not answer as a labml app does'), (404, b'{}', 'it answers 404 Not Found'),
    (200, b'{"errors": [], "received": 5}', 'it does not answer as a labml app does'),
    (200, b'{"errors": [], "received": {"loss": "x"}}', 'it does not answer as a labml app does'),
    (403, b'{"error": "not for you"}', 'it answers 403 (not for you)'),
])
def test_an_app_that_refuses_updates(fake_app, project, code, answer, reason):
    fake_app.code, fake_app.answer = code, answer
    project.configure(fake_app.url)
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert 'Traceback' not in result.stderr
    assert 'Validation loss' in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith('Not on the labml app') and reason in last


@pytest.mark.long
@pytest.mark.parametrize('epochs', [1, 20])
def test_a_slow_app_has_everything_in_the_end(fake_app, project, epochs):
    """Upstream's takes three seconds for each answer."""
    fake_app.before_answer = lambda n: threading.Event().wait(3)
    project.configure(fake_app.url)
    result = project.train(f'epochs={epochs}', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    assert 'Not on the labml app' not in result.stdout
    assert fake_app.values() == values_of(project.runs[0] / 'log.jsonl')
    assert [update['status']['status'] for update in fake_app.updates if 'status' in update][-1] == 'completed'


@pytest.mark.long
def test_what_went_wrong_is_said_once(fake_app, project):
    fake_app.before_answer = lambda n: setattr(fake_app, 'code', 500 if n > 1 else 200)
    project.configure(fake_app.url)
    result = project.train('epochs=40', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    # While it trains, and at the end
    assert result.stdout.count('it answers 500') == 2
    assert result.stdout.count('takes no updates now') == 1


def test_an_app_of_labmls_own_kind_gets_no_step_twice(fake_app, project):
    """Also if the run goes back to an earlier checkpoint."""
    project.configure(fake_app.url)
    assert project.train('epochs=3', 'n_prompts=0').returncode == 0
    first, *_ = sorted(project.runs[0].glob('checkpoints/*'), key=lambda path: int(path.name))
    assert project.run('--resume', str(first)).returncode == 0
    steps = [step for step, _ in fake_app.values()['loss.train']]
    assert steps == [step for step, _ in values_of(project.runs[0] / 'log.jsonl')['loss.train']]


def test_ctrl_c_while_a_finished_run_waits_for_a_slow_app(fake_app, project):
    fake_app.before_answer = lambda n: threading.Event().wait(5)
    project.configure(fake_app.url)
    process = project.start(f'text_path={project.text}', *SMALL)
    out = ''
    while 'The run is in' not in out:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        out += line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, '')
    assert project.status() == 'completed'


def test_what_is_no_app(project):
    """Something else listens there: it greets like an SSH server."""
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


def test_no_app_url(project):
    (project.path / '.labml.yaml').write_text('app_open_browser: false\n')
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('labml app') == 1
    assert 'No labml app: set app_url' in result.stdout
    [run] = project.runs
    result = sync(project)
    assert (result.returncode, result.stdout) == (2, '')
    assert 'there is no labml app to send to: set app_url in .labml.yaml, or give --url' in result.stderr


def test_sync(app, project):
    """Runs that no app has watched: one, all of them, and again."""
    assert project.train('epochs=2', *EVEN, env={'RUN_UUID': 'a' * 32}).returncode == 0
    assert project.train('epochs=1', *EVEN, env={'RUN_UUID': 'b' * 32}).returncode == 0
    project.configure(app.app_url)
    first, second = sorted(project.runs)
    n = sum(map(len, values_of(first / 'log.jsonl').values()))
    result = sync(project, 'aaaa')
    assert (result.returncode, result.stdout) == (0, f'{first.name}  test  {n} values sent\n'), result.stderr
    assert_has_all_of(app, first)
    result = sync(project, '--all')
    assert f'{first.name}  test  nothing new\n' in result.stdout
    assert f'{second.name}  test  ' in result.stdout
    for folder in (first, second):
        assert_has_all_of(app, folder)
        data = app.ask(f'run/{folder.name}')
        assert {config['key']: config['computed'] for config in data['configs']}['seq_len'] == 16
        assert app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'completed'
    # When it was trained, not when it was sent
    assert app.ask(f'run/{first.name}')['start_time'] == pytest.approx(first.stat().st_ctime, abs=3600)
    result = sync(project, '--all', 'aaaa')
    assert (result.returncode, result.stderr) == (2, '--all are all runs: no run is named beside it\n')
    result = sync(project, '--url', 'http://localhost:1/api/v1/default')
    assert result.returncode == 1
    assert 'has not taken the run' in result.stderr and 'Connection refused' in result.stderr


def test_sync_of_what_a_kill_has_left(app, project):
    """A line that is half there, and one that is none."""
    assert project.train('epochs=2', *EVEN, env={'RUN_UUID': 'd' * 32}).returncode == 0
    project.configure(app.app_url)
    [run] = project.runs
    whole = (run / 'log.jsonl').read_bytes()
    (run / 'log.jsonl').write_bytes(b'5\n{"track": {"loss.train": [5]}}\n' + whole + b'{"track": {"loss.train": [[9')
    result = sync(project)
    assert result.returncode == 0 and 'values sent' in result.stdout, result.stderr
    (run / 'log.jsonl').write_bytes(whole)
    assert_has_all_of(app, run)


def test_sync_goes_on_after_a_run_that_is_refused(app, project):
    project.configure(app.app_url)
    for name in ('short', 'e' * 32):
        assert project.train(env={'RUN_UUID': name}).returncode == 0
    for path in project.runs:
        if path.name != 'short':
            app.ask('runs', {'run_uuids': [path.name]}, method='PUT')
    result = sync(project, '--all')
    assert result.returncode == 1
    assert 'has not taken the run short: it refuses: Invalid Run UUID' in result.stderr
    assert f'{"e" * 32}  test  ' in result.stdout and 'values sent' in result.stdout


def test_sync_of_a_rank(app, project):
    """labml has the rank in the name of the folder."""
    assert project.train(*EVEN, env={'RUN_UUID': 'f' * 32}).returncode == 0
    project.configure(app.app_url)
    folder = project.runs[0].rename(project.runs[0].with_name(f'{"f" * 32}.1'))
    info = (folder / 'run.yaml').read_text()
    (folder / 'run.yaml').write_text(info.replace('distributed_rank: 0', 'distributed_rank: 1').replace(
        'distributed_world_size: 0', 'distributed_world_size: 2'))
    assert 'values sent' in sync(project).stdout
    assert 'nothing new' in sync(project).stdout
    assert app.points(f'{"f" * 32}_1', 'loss.train')


def test_nothing_to_sync(app, project):
    project.configure(app.app_url)
    (project.path / 'logs').mkdir()
    result = sync(project, '--all')
    assert (result.returncode, result.stdout) == (0, f'There is no run in {project.path}/logs yet\n')


def test_a_killed_run_and_what_became_of_it(app, project):
    """Killed, sent, resumed from an earlier step, killed again, sent, and brought to its end with the app watching."""
    arguments = [f'text_path={project.text}', *SMALL, 'epochs=100000', *EVEN, 'checkpoint_interval=40']
    folder = project.path / 'logs/test' / ('c' * 32)

    def life(*more):
        before = len(list(folder.glob('checkpoints/[0-9]*')))
        pid = project.fork(*more, env={'RUN_UUID': folder.name})
        project.until(lambda: len(list(folder.glob('checkpoints/[0-9]*'))) > min(before, 1))
        os.kill(pid, signal.SIGKILL)
        project.wait()

    life(*arguments)
    project.configure(app.app_url)
    assert sync(project).returncode == 0
    assert app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'crashed'
    life('--resume', 'last')
    assert sync(project).returncode == 0
    steps = [step for step, _ in values_of(folder / 'log.jsonl')['loss.train']]
    assert len(steps) == len(set(steps))
    pid = project.fork('--resume', 'last')
    project.until(lambda: app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'in progress')
    os.kill(pid, signal.SIGTERM)
    assert project.wait().returncode == 143
    assert app.ask(f'run/status/{folder.name}')['run_status']['status'] == 'interrupted'
    local = values_of(folder / 'log.jsonl')
    if len(local['loss.train']) <= 1024:
        assert_has_all_of(app, folder)
    assert app.points(folder.name, 'loss.train')
    assert sync(project).stdout.endswith('nothing new\n')


def test_metrics_come_to_the_disk_faster_while_somebody_watches(tmp_path, monkeypatch):
    clock = [1000.]
    monkeypatch.setattr('time.time', lambda: clock[0])
    writer = MetricsWriter(tmp_path / 'log.jsonl')
    # As after a while
    writer.commits_count = 99

    def write(step):
        scalar = Scalar('loss', is_print=True)
        scalar.collect_value(1.)
        writer.write(global_step=step, indicators={'loss': scalar})

    clock[0] += 5
    write(1)
    assert writer.indicators
    writer.interval = 1.
    write(2)
    assert not writer.indicators
    clock[0] += 0.5
    write(3)
    assert writer.indicators
    writer.finish()
    assert [step for step, _ in values_of(tmp_path / 'log.jsonl')['loss']] == [1, 2, 3]
