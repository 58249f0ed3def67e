import contextlib
import http.server
import threading
import time
import urllib.request

import pytest

from labml_mlm.data import sources


class Handler(http.server.BaseHTTPRequestHandler):
    body = b''
    # Number of bytes after which the connection is closed, and seconds to wait before sending any
    n_sent = None
    delay = 0.
    is_chunked = False
    status = 200

    def do_GET(self):
        self.protocol_version = 'HTTP/1.1'
        self.send_response(self.status)
        if self.is_chunked:
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            # Announces a longer chunk than it sends
            self.wfile.write(b'50\r\n' + self.body)
            self.close_connection = True
            return
        self.close_connection = True
        self.send_header('Content-Length', str(len(self.body)))
        self.end_headers()
        time.sleep(self.delay)
        with contextlib.suppress(OSError):
            self.wfile.write(self.body[:self.n_sent])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    class OwnHandler(Handler):
        pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), OwnHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        OwnHandler.url = f'http://127.0.0.1:{server.server_address[1]}/input.txt'
        yield OwnHandler
        server.shutdown()


def test_download_returns_the_content_and_reports_progress(server):
    server.body = bytes(range(256)) * 1000
    fractions = []
    assert sources.download(server.url, size=256_000, progress=fractions.append) == server.body
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize('attributes, message', [
    ({'body': b'x' * 99}, 'got 99 bytes only instead of 100'),
    ({'body': b'x' * 100, 'n_sent': 40}, 'got 40 bytes only instead of 100'),
    ({'body': b'x' * 500_000}, 'instead of 100'),
    ({'body': b'x' * 100, 'status': 404}, 'Not Found'),
    ({'body': b'x' * 10, 'is_chunked': True}, 'IncompleteRead'),
])
def test_download_of_the_wrong_size_or_status_is_refused(server, attributes, message):
    for name, value in attributes.items():
        setattr(server, name, value)
    with pytest.raises(OSError, match=message):
        sources.download(server.url, size=100)


@pytest.mark.parametrize('socket_timeout', [0.01, 30.])
def test_download_times_out_without_data(server, monkeypatch, socket_timeout):
    """Whether the time-out of the socket or that of the download comes first."""
    urlopen = urllib.request.urlopen
    monkeypatch.setattr(urllib.request, 'urlopen', lambda url, timeout: urlopen(url, timeout=socket_timeout))
    monkeypatch.setattr(sources, 'TIMEOUT', 0.2)
    server.body, server.delay = b'x' * 100, 30.
    with pytest.raises(TimeoutError, match='no answer for 0.2 seconds'):
        sources.download(server.url, size=100)


@pytest.mark.parametrize('url', ['http://127.0.0.1:1/', 'no address', 'http://name.invalid/', 'http://na me/'])
def test_error_of_an_unreachable_address_names_it(url):
    with pytest.raises(OSError) as e:
        sources.download(url, size=100)
    assert url in str(e.value)


def test_tiny_shakespeare_is_downloaded_and_cached(server, shakespeare, tmp_path):
    server.body = shakespeare.read_bytes()
    data_path = tmp_path / 'data'
    assert sources.cached_tiny_shakespeare(data_path) is None
    text = sources.download_tiny_shakespeare(data_path, server.url, lambda fraction: None)
    assert text == shakespeare.read_text()
    assert sources.cached_tiny_shakespeare(data_path) == text
    assert [path.name for path in data_path.iterdir()] == ['tiny_shakespeare.txt']
    # A damaged cache is ignored
    (data_path / 'tiny_shakespeare.txt').write_text(text[:-1] + '?')
    assert sources.cached_tiny_shakespeare(data_path) is None


def test_another_text_of_the_same_size_is_refused(server, tmp_path):
    server.body = b'x' * sources.TINY_SHAKESPEARE_BYTES
    with pytest.raises(OSError, match='SHA-256'):
        sources.download_tiny_shakespeare(tmp_path, server.url, lambda fraction: None)
    assert not list(tmp_path.iterdir())


def test_python_topics_are_a_long_text():
    topics = sources.python_topics()
    assert len(topics) > 300_000
    assert 'The "if" statement' in topics
