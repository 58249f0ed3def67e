"""`labml-mlm app`: its start, its end, and what survives a kill."""
import http.client
import signal
import sqlite3
import sys
import threading

import pytest
from support.project import outcome

import labml_mlm.app
from labml_mlm.__main__ import main
from labml_mlm.common import files


@pytest.mark.parametrize('method, path, body', [
    ('POST', 'default/track?run_uuid=0123456789&rank=x&labml_version=0.5.3', b'[]'),
    ('POST', 'default/track?run_uuid=0123456789&labml_version=x', b'[]'),
    ('POST', 'metrics/0123456789', b'{}'), ('POST', 'metrics/0123456789', b''), ('PUT', 'runs', b'{}'),
    ('PUT', 'runs', b'[]'), ('PUT', 'runs', b'{"run_uuids": [[]]}'), ('POST', 'runs/archive', b'5'),
    ('POST', 'run/0123456789', b'{}'), ('POST', 'user', b'{}'), ('POST', 'logs/stdout/0123456789', b'[]'),
])
def test_incomplete_request_is_a_client_error(app, method, path, body):
    status, answer = app.status_of(f'/api/v1/{path}', body, method=method,
                                   headers={'Content-Type': 'application/json'})
    assert 400 <= status < 500
    assert b'Traceback' not in answer and b'.py' not in answer


def test_killed_server_keeps_what_it_acknowledged(start_app):
    """It is killed repeatedly while four runs report."""
    server = start_app()
    acknowledged = {f'{i:032x}': 0 for i in range(4)}
    is_over = threading.Event()

    def report(uuid):
        step = 0
        is_known = False
        while not is_over.is_set():
            steps = list(range(step + 1, step + 4))
            update = {'lives': [], 'track': {'loss': {'step': steps, 'value': list(map(float, steps))}}}
            if not is_known:
                update = {'name': 'an experiment', 'python_file': 'train.py', 'computer': 'c' * 16, 'lives': [],
                          'configs': {'seq_len': {'name': 'seq_len', 'computed': 16}}}
            try:
                server.update(uuid, update)
            except (OSError, http.client.HTTPException, ValueError):
                is_over.wait(0.01)
                continue
            if is_known:
                step = acknowledged[uuid] = step + 3
            is_known = True

    threads = [threading.Thread(target=report, args=[uuid]) for uuid in acknowledged]
    for thread in threads:
        thread.start()
    try:
        for i in range(4):
            before = sum(acknowledged.values())
            while sum(acknowledged.values()) < before + 60 + 17 * i or not all(acknowledged.values()):
                is_over.wait(0.001)
            server.stop(signal.SIGKILL)
            had = dict(acknowledged)
            server = start_app(port=server.port)
            for uuid, step in had.items():
                [(steps, values)] = server.points(uuid)
                assert len(steps) == len(set(steps)) and steps == values
                assert steps[-1] >= step and steps == tuple(range(1, int(steps[-1]) + 1))
                assert server.ask(f'run/{uuid}')['name'] == 'an experiment'
            assert {run['run_uuid'] for run in server.ask('runs/null')['runs']} == set(acknowledged)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def run_app(capsys):
    """`labml-mlm app` with arguments that end it at once: exit code, output and errors."""
    def run(*arguments):
        return outcome(capsys, 'app', *map(str, arguments))
    return run


def test_second_server_is_refused(app, run_app, tmp_path, monkeypatch):
    # Seconds to wait for a lock
    monkeypatch.setattr(files, '_PATIENCE', 0.1)
    assert run_app('--port', 0, '--store', app.store) == (
        2, '', f'the store {app.store} is in use by another labml app, in process {app.process.pid}\n')
    assert run_app('--port', app.port, '--store', tmp_path / 'other.sqlite') == (
        2, '', f'cannot listen on 127.0.0.1, port {app.port}: Address already in use. --port chooses another port\n')
    assert not (tmp_path / 'other.sqlite').exists()
    (tmp_path / 'link.sqlite').symlink_to(app.store)
    assert 'is in use by another labml app' in run_app('--port', 0, '--store', tmp_path / 'link.sqlite')[2]


@pytest.mark.parametrize('arguments, code, message', [
    (['--host', 'no.such.host.invalid'], 2, 'cannot listen on no.such.host.invalid: '),
    (['--host', '192.0.2.1'], 2, 'cannot listen on 192.0.2.1, port 0: Cannot assign requested address'),
    (['--port', '70000'], 2, '70000: a port must be from 0 to 65535'),
    (['--store', '/proc/none/store.sqlite'], 1, '/proc/none'),
])
def test_invalid_arguments_are_reported(run_app, arguments, code, message):
    found, out, err = run_app('--port', 0, *arguments)
    assert (found, out) == (code, '')
    assert message in err and 'Traceback' not in err


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_stops_it(start_app, number, code):
    """Ctrl-C is how it ends; what waits for the process sees other signals."""
    server = start_app()
    # It says its address before it answers
    server.ask('runs/null')
    out, err = server.stop(number)
    assert (server.process.returncode, out, err) == (code, '', '')
    # Everything is in a single file
    assert {path.name for path in server.store.parent.glob('store.sqlite*')} == {'store.sqlite', 'store.sqlite.lock'}
    # The store can be opened again
    assert start_app().ask('runs/null')['runs'] == []


def test_any_address_and_allowed_hosts(start_app):
    server = start_app('--host', '0.0.0.0', '--allow-host', 'lab.example', '--allow-host', 'other.example:5005')
    assert 'The labml app is at http://0.0.0.0:' in server.line
    assert 'the labml app has no login' in server.process.stdout.readline()
    for host, status in [('lab.example:80', 200), ('other.example', 200), ('192.168.0.9', 200), ('localhost', 200),
                         ('evil.example', 403)]:
        assert server.status_of('/', headers={'Host': host})[0] == status


def test_missing_extra_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'labml_app', None)
    monkeypatch.delitem(sys.modules, 'labml_mlm.app.server', raising=False)
    monkeypatch.delattr(labml_mlm.app, 'server', raising=False)
    with pytest.raises(SystemExit) as caught:
        main(['app'])
    assert caught.value.code == 2
    assert "the labml app is not installed" in capsys.readouterr().err


def test_run_of_a_repository_elsewhere_is_no_error(start_app):
    """Upstream prints one at each look at it."""
    server = start_app()
    uuid = 'a' * 32
    server.update(uuid, {'name': 'test', 'repo_remotes': ['/home/me/notes'], 'commit': 'unknown', 'time': 0})
    assert server.ask(f'run/{uuid}')['repo_remotes'] == ''
    out, err = server.stop()
    assert 'ERROR' not in out + err and 'unknown repo url' not in out + err


@pytest.mark.parametrize('path', [
    'custom_metrics/{}', 'metrics/preferences/{}', 'compare/preferences/{}', 'computer/{}', 'run/{}', 'run/status/{}',
    'session/{}', 'runs/{}', 'sessions/{}', 'battery/preferences/{}', 'cpu/{}', 'process/{}/details/x'])
def test_get_requests_do_not_grow_the_store(app, path):
    """Any page can make a browser send them; browsers that do not say from where, too."""
    def rows():
        with sqlite3.connect(f'file:{app.store}?mode=ro', uri=True) as store:
            counts = [store.execute(f'SELECT COUNT(*) FROM {name}').fetchone() for name in ('models', 'indexes')]
        store.close()
        return counts

    before = rows()
    for i in range(3):
        app.status_of(f'/api/v1/{path.format(f"{i:032d}")}')
    assert rows() == before
