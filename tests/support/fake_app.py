"""Apps that answer as a test says."""
import http.server
import json
import threading

import pytest


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
        headers = {'Content-Type': 'application/json', 'Content-Length': str(len(server.answer)), **server.headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(server.answer)
        server.after_answer(self.wfile)

    def log_message(self, *_):
        pass


class FakeApp(http.server.ThreadingHTTPServer):
    """
    An app that answers like upstream's, which reports neither `received` nor `is_new`.

    `before_answer(n)` is called before the n-th answer; `code`, `answer` and other `headers` are what it sends, and
    `after_answer` may write more to the file that it is called with.
    """
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(('127.0.0.1', port), AppHandler)
        self.updates, self.paths, self.before_answer, self.code = [], [], lambda n: None, 200
        self.answer, self.headers = b'{"errors": [], "url": "http://the.app/run"}', {}
        self.after_answer = lambda file: None
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
