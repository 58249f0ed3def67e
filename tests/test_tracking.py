import http.server
import json
import signal
import socket
import threading
import time

import pytest
from conftest import SMALL, values_of


class AppHandler(http.server.BaseHTTPRequestHandler):
    """A labml app: takes updates and answers with the run's page."""

    def do_GET(self):
        self.send_error(405)

    def do_POST(self):
        data = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.updates += data
        self.server.paths.append(self.path)
        time.sleep(self.server.seconds)
        answer = self.server.answer
        self.send_response(200)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.server.on_update(len(self.server.updates))

    def log_message(self, *_):
        pass


@pytest.fixture
def app():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), AppHandler)
    server.updates, server.paths, server.on_update, server.seconds = [], [], lambda n: None, 0.
    server.answer = b'{"errors": [], "url": "http://the.app/run"}'
    server.url = f'http://127.0.0.1:{server.server_address[1]}/api/v1/default'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_run_reaches_the_app(app, project):
    project.configure(app.url)
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert 'Monitor experiment at http://the.app/run' in result.stdout
    [run] = project.runs
    assert app.paths and all(f'run_uuid={run.name}' in path for path in app.paths)
    merged = {}
    for update in app.updates:
        merged.update(update)
    assert merged['name'] == 'test'
    assert merged['status']['status'] == 'completed'
    assert merged['configs']['seq_len']['computed'] == 16
    assert merged['configs']['seq_len']['is_explicitly_specified']
    values = {}
    for update in app.updates:
        for name, track in update.get('track', {}).items():
            values.setdefault(name, []).extend(zip(track['step'], track['value'], strict=True))
    local = values_of(run / 'log.jsonl')
    assert set(values) >= {'loss.train', 'accuracy.train', 'lr', 'tokens_per_second', 'loss.valid', 'accuracy.valid'}
    assert values['loss.valid'] == local['loss.valid']
    assert len(local['loss.train']) > 10


def test_an_app_that_is_away_costs_one_line(project):
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('labml app') == 1
    assert 'No labml app answers at http://localhost:1' in result.stdout


def test_an_app_that_never_answers_costs_two_seconds(project):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        project.configure(f'http://127.0.0.1:{silent.getsockname()[1]}/api/v1/default')
        result = project.train()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('No labml app answers') == 1


def test_an_app_that_goes_away_does_not_hold_up_the_end(app, project):
    def go(n):
        threading.Thread(target=lambda: (app.shutdown(), app.server_close())).start()

    app.on_update = go
    project.configure(app.url)
    began = time.monotonic()
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert 'The run is in' in result.stdout
    # labml's own thread would try for ever
    assert time.monotonic() - began < 60
    assert project.status() == 'completed'


@pytest.mark.parametrize('answer', [
    b'{"errors": [{"error": "invalid_run", "message": "no such run"}]}', b'{"errors": [{"other": 1}]}', b'[]',
    b'no JSON',
])
def test_an_app_that_refuses_updates_does_not_end_the_run(app, project, answer):
    app.answer = answer
    project.configure(app.url)
    result = project.train()
    assert result.returncode == 0, result.stderr
    assert 'Traceback' not in result.stderr
    assert 'Validation loss' in result.stdout
    assert result.stdout.count('The labml app does not take updates any more: the run goes on without it') == 1


def test_ctrl_c_while_a_finished_run_waits_for_a_slow_app(app, project):
    app.seconds = 5.
    project.configure(app.url)
    process = project.start(f'text_path={project.text}', *SMALL)
    out = ''
    while 'The run is in' not in out:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        out += line
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, '')
    assert time.monotonic() - began < 4
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
    assert result.stdout.count('No labml app: set app_url') == 1
