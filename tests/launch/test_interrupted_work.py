"""Signals in long work: it is left within five seconds, without half of a file."""
import contextlib
import http.server
import os
import random
import signal
import threading
import time

import pytest
from support.project import SMALL

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def interrupt(project, number, shown, *arguments, env=None):
    """Starts a run, sends a signal once it has said what it does, and returns how it ended."""
    pid = project.fork(*SMALL, *arguments, env=env)
    project.until(lambda: shown in project.outputs[0].read_text())
    os.kill(pid, number)
    sent = time.monotonic()
    result = project.wait()
    assert time.monotonic() - sent < 5
    assert result.returncode == 128 + number, result.stderr
    return result


@pytest.fixture
def slow_server():
    """An address that gives a few bytes a second."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            while not is_over.wait(0.2):
                self.wfile.write(b'First Citizen')

        def log_message(self, *_):
            pass

        def handle(self):
            # The client goes
            with contextlib.suppress(OSError):
                super().handle()

    is_over = threading.Event()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f'http://127.0.0.1:{server.server_address[1]}/'
    is_over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('number', SIGNALS)
def test_download(project, slow_server, number):
    result = interrupt(project, number, 'Downloading Tiny Shakespeare …', f'tiny_shakespeare_url={slow_server}')
    assert result.stderr == 'Interrupted before training began\n'
    assert not list(project.path.glob('data/*')) and not project.runs


@pytest.mark.parametrize('number', SIGNALS)
def test_training_a_tokenizer(project, number):
    rng = random.Random(0)
    # Merges of so many different words take many seconds
    words = (''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=10)) for _ in range(400_000))
    project.text.write_text(' '.join(words))
    result = interrupt(project, number, 'Training the tokenizer, bpe …', f'text_path={project.text}', 'tokenizer=bpe')
    assert result.stderr == 'Interrupted before training began\n'
    files = [path.name for path in project.path.glob('data/tokens/*') if not path.name.endswith('.lock')]
    # What the first pass has found
    assert len(files) == 1 and files[0].endswith('.json') and not files[0].endswith('.tokenizer.json')
    assert not project.runs


@pytest.mark.parametrize('number', SIGNALS)
def test_compiling(project, number):
    result = interrupt(project, number, 'Compiling the model …', f'text_path={project.text}', 'compile=true',
                       env={'TORCHINDUCTOR_CACHE_DIR': str(project.path / 'cache')})
    assert result.stderr.startswith('Interrupted after 0 tokens. There is no checkpoint yet. To resume: python '
                                    'train.py --resume ')
    assert project.status() == 'interrupted'
    # Nothing goes on without it
    deadline = time.monotonic() + 10
    while left := _processes_of(project.path / 'cache'):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _processes_of(cache):
    """The command lines of processes with this cache of the compiler in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/environ', 'rb') as environ, open(f'/proc/{pid}/cmdline', 'rb') as command:
                if str(cache).encode() in environ.read():
                    found.append(command.read().replace(b'\0', b' '))
        except OSError:  # it has ended, or is another user's
            pass
    return found
