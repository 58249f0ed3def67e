import asyncio
import json
import resource
import sqlite3

import pytest
from labml_db import Model

from labml_mlm.app.store import Store
from labml_mlm.app.transactions import Transactions


class Note(Model['Note']):
    text: str


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / 'store.sqlite')
    store.drive([Note], [])
    yield store
    store.close()


def ask(application, *, path='/api/v1/note', method='POST'):
    """The status and the JSON of the answer."""
    messages = []

    async def send(message):
        messages.append(message)

    asyncio.run(application({'type': 'http', 'path': path, 'method': method}, None, send))
    return messages[0]['status'], json.loads(messages[1]['body'] or 'null')


def answering(status, act):
    """An application that calls `act` and answers."""
    async def application(scope, receive, send):
        act()
        await send({'type': 'http.response.start', 'status': status, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'"answer"'})
    return application


def save():
    Note(text='kept').save()


def save_and_raise(error):
    save()
    raise error


def test_successful_request_is_saved(store):
    assert ask(Transactions(answering(200, save), store.transaction)) == (200, 'answer')
    assert len(Note.get_all()) == 1


def test_error_answer_saves_nothing(store):
    assert ask(Transactions(answering(404, save), store.transaction)) == (404, 'answer')
    assert Note.get_all() == []


@pytest.mark.parametrize('error, status', [
    (KeyError('page'), 400), (TypeError('/home/me/file.py'), 400), (Exception('Invalid Run UUID'), 400),
    (OSError(28, 'No space left on device'), 500), (RuntimeError('/home/me/file.py'), 500),
])
def test_exception_saves_nothing_and_reveals_no_paths(store, error, status, capsys):
    application = Transactions(answering(200, lambda: save_and_raise(error)), store.transaction)
    answered, body = ask(application)
    assert answered == status
    assert 'labml app' in body['error'] and '.py' not in body['error']
    assert Note.get_all() == []
    # Errors of the server are logged
    assert ('Traceback' in capsys.readouterr().err) == (status == 500)


def test_request_is_committed_before_it_is_answered(store, tmp_path):
    """Another connection sees it at the time of the answer."""
    seen = []

    async def send(message):
        with sqlite3.connect(tmp_path / 'store.sqlite') as other:
            seen.append(other.execute('SELECT COUNT(*) FROM models').fetchone()[0])

    asyncio.run(Transactions(answering(200, save), store.transaction)(
        {'type': 'http', 'path': '/api/v1/note', 'method': 'POST'}, None, send))
    assert seen == [1, 1]


def test_requests_are_processed_one_at_a_time(store):
    """Even if one of them awaits something."""
    seen = []

    async def application(scope, receive, send):
        seen.append('begin')
        await asyncio.sleep(0.01)
        seen.append('end')
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})

    async def send(_):
        pass

    async def both():
        wrapped = Transactions(application, store.transaction)
        request = {'type': 'http', 'path': '/api/v1/note', 'method': 'POST'}
        await asyncio.gather(*(wrapped(request, None, send) for _ in range(3)))

    asyncio.run(both())
    assert seen == ['begin', 'end'] * 3


@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_get_saves_nothing(store, method):
    assert ask(Transactions(answering(200, save), store.transaction), method=method) == (200, 'answer')
    assert Note.get_all() == []


@pytest.fixture
def is_full(store, tmp_path):
    """A function that makes the disk of the store full, or gives it space again."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = tmp_path / 'store.sqlite-wal'

    def is_full(is_so):
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size if is_so else hard, hard))
    yield is_full
    is_full(False)


@pytest.mark.parametrize('path, status', [('/api/v1/note', 507), ('/api/v1/metrics/abc', 200),
                                          ('/api/v1/logs/stdout/abc', 200), ('/api/v1/metrics/preferences/abc', 507),
                                          ('/api/v1/default/track', 507)])
def test_full_disk_ends_writes_alone(store, is_full, path, status):
    """Nothing that was acknowledged is lost, and the next request after there is space is as ever."""
    application = Transactions(answering(200, save), store.transaction)
    ask(application)
    is_full(True)
    try:
        answers = [ask(application, path=path), ask(application, path='/api/v1/runs/null', method='GET')]
    finally:
        is_full(False)
    assert [answer[0] for answer in answers] == [status, 200]
    assert status == 200 or 'full' in answers[0][1]['error']
    assert len(Note.get_all()) == 1
    assert ask(application) == (200, 'answer')
    assert len(Note.get_all()) == 2
