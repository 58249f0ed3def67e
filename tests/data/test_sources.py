import contextlib
import http.server
import threading
import time
import urllib.request

import pytest

from labml_mlm.data import sources as text


class Handler(http.server.BaseHTTPRequestHandler):
    body = b''
    # Bytes to send before the connection ends, and seconds to wait before each
    cut = None
    wait = 0.
    is_chunked = False
    status = 200
    n_requests = 0

    def do_GET(self):
        type(self).n_requests += 1
        self.protocol_version = 'HTTP/1.1'
        self.send_response(self.status)
        if self.is_chunked:
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            # The size of a chunk that does not come
            self.wfile.write(b'50\r\n' + self.body)
            self.close_connection = True
            return
        self.close_connection = True
        self.send_header('Content-Length', str(len(self.body)))
        self.end_headers()
        time.sleep(self.wait)
        with contextlib.suppress(OSError):
            self.wfile.write(self.body[:self.cut])

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


def test_download(server):
    server.body = bytes(range(256)) * 1000
    shares = []
    assert text.download(server.url, size=256_000, progress=shares.append) == server.body
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize('attributes, message', [
    ({'body': b'x' * 99}, 'got 99 bytes only, not 100'),
    ({'body': b'x' * 100, 'cut': 40}, 'got 40 bytes only, not 100'),
    ({'body': b'x' * 500_000}, 'not 100'),
    ({'body': b'x' * 100, 'status': 404}, 'Not Found'),
    ({'body': b'x' * 10, 'is_chunked': True}, 'IncompleteRead'),
])
def test_wrong_downloads(server, attributes, message):
    for name, value in attributes.items():
        setattr(server, name, value)
    with pytest.raises(OSError, match=message):
        text.download(server.url, size=100)


@pytest.mark.parametrize('of_socket', [0.01, 30.])
def test_silence_ends_a_download(server, monkeypatch, of_socket):
    """Whichever time-out comes first."""
    urlopen = urllib.request.urlopen
    monkeypatch.setattr(urllib.request, 'urlopen', lambda url, timeout: urlopen(url, timeout=of_socket))
    monkeypatch.setattr(text, 'TIMEOUT', 0.2)
    server.body, server.wait = b'x' * 100, 30.
    with pytest.raises(TimeoutError, match='no answer for 0.2 seconds'):
        text.download(server.url, size=100)


@pytest.mark.parametrize('url', ['http://127.0.0.1:1/', 'no address', 'http://name.invalid/', 'http://na me/'])
def test_unreachable(url):
    with pytest.raises(OSError) as e:
        text.download(url, size=100)
    assert url in str(e.value)


def test_tiny_shakespeare_is_fetched_once(server, shakespeare, tmp_path):
    server.body = shakespeare.read_bytes()
    data_path = tmp_path / 'data'
    assert text.cached_tiny_shakespeare(data_path) is None
    fetched = text.download_tiny_shakespeare(data_path, server.url, lambda share: None)
    assert fetched == shakespeare.read_text()
    assert text.cached_tiny_shakespeare(data_path) == fetched
    assert [path.name for path in data_path.iterdir()] == ['tiny_shakespeare.txt']
    # A damaged cache counts for none
    (data_path / 'tiny_shakespeare.txt').write_text(fetched[:-1] + '?')
    assert text.cached_tiny_shakespeare(data_path) is None


def test_another_text_of_the_same_size_is_refused(server, tmp_path):
    server.body = b'x' * text.TINY_SHAKESPEARE_BYTES
    with pytest.raises(OSError, match='SHA-256'):
        text.download_tiny_shakespeare(tmp_path, server.url, lambda share: None)
    assert not list(tmp_path.iterdir())


def test_python_topics():
    topics = text.python_topics()
    assert len(topics) > 300_000
    assert 'The "if" statement' in topics
