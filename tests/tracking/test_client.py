import json
import socket
import threading
import time

import pytest

from labml_mlm.tracking.client import Undelivered, is_answering, post_updates

NO_APP = 'it does not answer as a labml app does'


@pytest.mark.parametrize('code, answer, reason, is_refusal', [
    (200, b'{"errors": [{"error": "invalid_run", "message": "no such run"}]}', 'it refuses: no such run', True),
    (200, b'{"errors": [{"other": 1}]}', 'it refuses: None', True), (200, b'[]', NO_APP, False),
    (200, b'no JSON', NO_APP, False), (500, b'', 'it answers 500 Internal Server Error', True),
    (200, b'{"errors": 5}', NO_APP, False), (404, b'{}', 'it answers 404 Not Found', True),
    (200, b'{"errors": [], "received": 5}', NO_APP, False),
    (200, b'{"errors": [], "received": {"loss": "x"}}', NO_APP, False),
    (200, b'{"errors": [], "received": {"loss": NaN}}', NO_APP, False),
    (200, b'{"errors": [], "received": {"loss": 1e999}}', NO_APP, False),
    (200, b'{"errors": [], "received": {"loss": true}}', NO_APP, False),
    (200, b'{"errors": [], "is_new": "yes"}', NO_APP, False), (200, b'[' * 100_000, NO_APP, False),
    (200, b'{"a": ' * 100_000, NO_APP, False), (200, b'\xff\xfe', NO_APP, False),
    *[(200, json.dumps({'errors': [], 'url': url}).encode(), NO_APP, False)
      for url in ({}, None, 5, 'file:///etc/passwd', 'javascript:alert(1)', 'http://a\x1b[2J', 'http://[', 'run/1')],
    (200, b'{"errors": ["a\\u001b[2Jb\\nc"]}', 'it refuses: a [2Jb c', True),
    (403, b'{"error": "not for you"}', 'it answers 403 (not for you)', True),
])
def test_other_answers_are_errors(fake_app, code, answer, reason, is_refusal):
    fake_app.code, fake_app.answer = code, answer
    with pytest.raises(Undelivered) as caught:
        post_updates(f'{fake_app.url}/track?', [{}], timeout=10.)
    assert (str(caught.value), caught.value.is_refusal) == (reason, is_refusal)


def test_app_that_cannot_be_reached_is_not_a_refusal():
    with pytest.raises(Undelivered, match='Connection refused') as caught:
        post_updates('http://localhost:1/track?', [{}], timeout=10.)
    assert not caught.value.is_refusal


def test_timeout_is_an_error():
    with socket.create_server(('127.0.0.1', 0)) as silent, pytest.raises(Undelivered, match='does not answer in time'):
        post_updates(f'http://127.0.0.1:{silent.getsockname()[1]}/track?', [{}], timeout=0.1)


@pytest.mark.parametrize('headers', [{'Content-Type': 'text/html'}, {'Content-Type': None}])
def test_answer_of_another_kind_is_none_of_an_app(fake_app, headers):
    fake_app.headers = headers
    with pytest.raises(Undelivered, match=NO_APP):
        post_updates(f'{fake_app.url}/track?', [{}], timeout=10.)


@pytest.mark.parametrize('code', [301, 302, 307, 308])
def test_redirects_are_not_followed(fake_app, start_fake_app, code):
    other = start_fake_app()
    fake_app.code, fake_app.headers = code, {'Location': f'{other.url}/track'}
    with pytest.raises(Undelivered, match=f'it answers {code} ') as caught:
        post_updates(f'{fake_app.url}/track?', [{}], timeout=10.)
    assert caught.value.is_refusal
    assert other.paths == []


def test_endless_answer_is_read_up_to_a_bound(fake_app):
    sent = 0

    def send(file):
        nonlocal sent
        while True:
            sent += file.write(b' ' * 100_000)

    fake_app.headers, fake_app.after_answer = {'Content-Length': None}, send
    with pytest.raises(Undelivered, match='its answer is longer than 1,000,000 bytes'):
        post_updates(f'{fake_app.url}/track?', [{}], timeout=30.)
    # Some more is in the buffers of both sides
    assert sent < 50_000_000


@pytest.mark.parametrize('head', [b'', b'HTTP/1.1 200 OK\r\n',
                                  b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n'])
@pytest.mark.parametrize('ask', [
    lambda url: post_updates(url, [{}], timeout=0.5), lambda url: is_answering(url, timeout=0.5)])
def test_bytes_now_and_then_do_not_extend_the_deadline(head, ask):
    """In the status line, the headers, and the body."""
    is_over = threading.Event()

    def drip(server):
        connection, _ = server.accept()
        with connection:
            connection.sendall(head)
            while not is_over.wait(0.05):
                try:
                    connection.sendall(b'x')
                except OSError:
                    is_over.set()

    with socket.create_server(('127.0.0.1', 0)) as server:
        thread = threading.Thread(target=drip, args=[server], daemon=True)
        thread.start()
        began = time.monotonic()
        try:
            result = ask(f'http://127.0.0.1:{server.getsockname()[1]}/track?')
        except Undelivered as e:
            result = str(e)
        took = time.monotonic() - began
        # It is told, as the connection ends
        thread.join(10)
    assert result in ('it does not answer in time', False) or (result is True and head.endswith(b'\r\n\r\n'))
    assert took < 5
    assert is_over.is_set()


def test_app_that_does_not_read_is_left_at_the_deadline():
    with socket.create_server(('127.0.0.1', 0)) as server:
        url = f'http://127.0.0.1:{server.getsockname()[1]}/track?'
        with pytest.raises(Undelivered, match='does not answer in time'):
            post_updates(url, [{'stdout': 'x' * 30_000_000}], timeout=0.5)


def test_files_are_no_apps(tmp_path):
    (tmp_path / 'answer.json').write_text('{"errors": []}')
    with pytest.raises(Undelivered, match='is not an address that begins with http'):
        post_updates(f'file://{tmp_path}/answer.json', [{}], timeout=10.)
