import http.server
import json
import threading

import pytest
from support.project import outcome, values_of


class AppHandler(http.server.BaseHTTPRequestHandler):
    """Takes any update, and answers with the URL of the run's page."""

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
    """
    An app that answers like upstream's, which reports neither `received` nor `is_new`.

    `before_answer(n)` is called before the n-th answer; `code` and `answer` are what it sends.
    """
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(('127.0.0.1', port), AppHandler)
        self.updates, self.paths, self.before_answer, self.code = [], [], lambda n: None, 200
        self.answer = b'{"errors": [], "url": "http://the.app/run"}'
        self.url = f'http://127.0.0.1:{self.server_address[1]}/api/v1/default'
        # `shutdown` waits for the end of a poll
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def handle_error(self, *_):
        """Nothing: the client has closed the connection."""

    def close(self):
        self.shutdown()
        self.server_close()

    def values(self):
        """The values it received, in the format of `values_of`."""
        values = {}
        for update in self.updates:
            for name, track in update.get('track', {}).items():
                values.setdefault(name, []).extend(zip(track['step'], track['value'], strict=True))
        return values


@pytest.fixture
def start_fake_app():
    apps = []

    def start(port=0):
        apps.append(FakeApp(port))
        return apps[-1]

    yield start
    for app in apps:
        app.close()


@pytest.fixture
def fake_app(start_fake_app):
    return start_fake_app()


@pytest.fixture
def sync(project, monkeypatch, capsys):
    """`labml-mlm sync` in the project: exit code, output and errors."""
    def run(*arguments):
        with monkeypatch.context() as patch:
            patch.chdir(project.path)
            patch.setenv('HOME', str(project.path))
            return outcome(capsys, 'sync', *arguments)
    return run


@pytest.fixture
def assert_has_all_of():
    def check(app, folder):
        """The app's curves have each point of the run in `folder` once."""
        for name, pairs in values_of(folder / 'log.jsonl').items():
            [(steps, values)] = app.points(folder.name, name)
            assert list(steps) == [step for step, _ in pairs], name
            assert list(values) == pytest.approx([value for _, value in pairs], rel=1e-6), name
    return check
