import socket

import pytest

from labml_mlm.tracking.client import Undelivered, post_updates

NO_APP = 'it does not answer as a labml app does'


@pytest.mark.parametrize('code, answer, reason, is_refusal', [
    (200, b'{"errors": [{"error": "invalid_run", "message": "no such run"}]}', 'it refuses: no such run', True),
    (200, b'{"errors": [{"other": 1}]}', 'it refuses: None', True), (200, b'[]', NO_APP, False),
    (200, b'no JSON', NO_APP, False), (500, b'', 'it answers 500 Internal Server Error', True),
    (200, b'{"errors": 5}', NO_APP, False), (404, b'{}', 'it answers 404 Not Found', True),
    (200, b'{"errors": [], "received": 5}', NO_APP, False),
    (200, b'{"errors": [], "received": {"loss": "x"}}', NO_APP, False),
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
