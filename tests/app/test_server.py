"""The labml app as it is started, over sockets."""
import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

from labml_mlm.__main__ import main

# What an update of labml's clients has first
INTRODUCTION = {'name': 'an experiment', 'python_file': 'train.py', 'computer': 'c' * 16, 'lives': [],
                'configs': {'seq_len': {'name': 'seq_len', 'computed': 16}}}


def track(steps, values=None, name='loss'):
    return {'lives': [], 'track': {name: {'step': list(steps), 'value': [float(v) for v in values or steps]}}}


@pytest.fixture
def uuid(request):
    return f'{abs(hash(request.node.name)):032x}'


def test_a_run_is_listed_at_once(app, uuid):
    answer = app.update(uuid, INTRODUCTION)
    assert answer['errors'] == [] and answer['is_new']
    assert answer['url'] == f'{app.url}/run/{uuid}'
    [run] = [run for run in app.ask('runs/null')['runs'] if run['run_uuid'] == uuid]
    assert run['name'] == 'an experiment' and run['run_status']['status'] == 'in progress'
    data = app.ask(f'run/{uuid}')
    # What the page's banner and its `claim` go by
    assert data['is_claimed'] and data['is_project_run']
    assert data['configs'] == [{'key': 'seq_len', 'name': 'seq_len', 'computed': 16}]
    app.update(uuid, {'lives': [], 'status': {'status': 'completed', 'details': None, 'time': 3.}})
    assert app.ask(f'run/status/{uuid}')['run_status']['status'] == 'completed'


def test_it_can_be_deleted(app, uuid):
    app.update(uuid, INTRODUCTION)
    assert app.ask('runs', {'run_uuids': [uuid]}, method='PUT') == {'is_successful': True}
    assert uuid not in [run['run_uuid'] for run in app.ask('runs/null')['runs']]


def test_each_step_once(app, uuid):
    app.update(uuid, INTRODUCTION)
    assert app.update(uuid, track([1, 2, 3]))['received'] == {'loss': 3}
    # The answer was lost, and then some more came with it
    assert app.update(uuid, track([1, 2, 3]))['received'] == {'loss': 3}
    app.update(uuid, track([2, 3, 4]), track([4, 5]))
    assert app.points(uuid) == {((1, 2, 3, 4, 5), (1, 2, 3, 4, 5))}


def test_a_run_that_goes_on_from_a_checkpoint(app, uuid):
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track(range(1, 11)), track([10], [7], 'late'))
    again = {**track(range(7, 9), [70, 80]), 'lives': [6]}
    for _ in range(2):  # an answer was lost
        assert app.update(uuid, again)['received'] == {'loss': 8}
        assert app.points(uuid) == {((*range(1, 9),), (*range(1, 7), 70, 80))}
        assert app.points(uuid, 'late') == set()
    # Two lives that the app has not heard of, and values of the one before
    app.update(uuid, {**track([5], [50]), 'lives': [6, 7, 4]})
    assert app.points(uuid) == {((1, 2, 3, 4, 5), (1, 2, 3, 4, 50))}
    answer = app.update(uuid, {**track([9], [9]), 'lives': [6]})
    assert answer['errors'][0]['error'] == 'old_life'
    assert app.points(uuid) == {((1, 2, 3, 4, 5), (1, 2, 3, 4, 50))}
    # Back to the beginning
    app.update(uuid, {**track([1], [9]), 'lives': [6, 7, 4, 0]}, )
    assert app.points(uuid) == {((1,), (9,))}


def test_clients_of_labml_itself(app, uuid):
    """They know nothing of lives and of what was received."""
    first = {key: value for key, value in INTRODUCTION.items() if key != 'lives'}
    app.update(uuid, {**first, 'track': {'loss': {'step': [1, 2], 'value': [1., 2.]}}})
    app.update(uuid, {'track': {'loss': {'step': [3], 'value': [3.]}}, 'stdout': 'hello\n'})
    assert app.points(uuid) == {((1, 2, 3), (1, 2, 3))}
    assert app.ask(f'logs/stdout/{uuid}', {'page': -1})['pages'] == {'0': 'hello\n'}


def test_an_earlier_store(app, uuid):
    """The app has less than it once said: it takes nothing that would leave a hole."""
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2, 3]))
    answer = app.update(uuid, {**track([7, 8]), 'received': {'loss': 6}})
    assert answer['received'] == {'loss': 3}
    assert app.points(uuid) == {((1, 2, 3), (1, 2, 3))}
    app.update(uuid, {**track([4, 5, 6, 7, 8]), 'received': {'loss': 3}})
    assert app.points(uuid) == {((*range(1, 9),), (*range(1, 9),))}


def test_ranks(app, uuid):
    """As labml's own clients report, and as ours do."""
    for rank in range(2):
        for about in ({}, {'lives': []}):
            name = f'{uuid[:20]}{len(about)}'
            ask = f'default/track?run_uuid={name}&labml_version=0.5.3&world_size=2&rank={rank}'
            app.ask(ask, [{**INTRODUCTION, **about}])
            app.ask(ask, [{**track([1, 2, 3]), **about}])
            stored = f'{name}_{rank}' if rank else f'{name}_0'
            assert app.points(stored) == {((1, 2, 3), (1, 2, 3))}


def test_a_deleted_run_may_report_again(app, uuid):
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2]))
    app.ask('runs', {'run_uuids': [uuid]}, method='PUT')
    assert app.update(uuid, track([3]))['is_new']
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2, 3]))
    assert app.points(uuid) == {((1, 2, 3), (1, 2, 3))}
    assert uuid in [run['run_uuid'] for run in app.ask('runs/null')['runs']]


def test_an_update_of_a_run_that_is_not_known(app, uuid):
    """The app has lost its store: ours begin anew, from the introduction on."""
    answer = app.update(uuid, track([8, 9]))
    assert answer['is_new'] and answer['received'] == {}
    assert uuid not in [run['run_uuid'] for run in app.ask('runs/null')['runs']]


@pytest.mark.parametrize('path', [
    '/../../etc/passwd', '/..%2f..%2fetc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '/%2e%2e%2f%2e%2e%2fetc%2fpasswd',
    '/..%5c..%5cetc/passwd', '//etc/passwd', '/js/../../../../../../../etc/passwd', '/....//....//etc/passwd',
    '/%252e%252e%252fetc/passwd', '/..;/..;/etc/passwd', '/images/..%00/etc/passwd', '/vendor/../../../etc/passwd',
    '/%c0%ae%c0%ae/etc/passwd', '/etc/passwd', 'http://localhost/../../etc/passwd',
])
def test_no_path_leads_out(app, path):
    """As bytes: clients would put paths in order before they send them."""
    for climb in ('', '/..' * 8):
        status, body = app.status_of(path.replace('/etc', f'{climb}/etc', 1))
        assert b'root:' not in body and b'/bin/' not in body
        assert status in (200, 404)
        assert status == 404 or b'<title>labml.ai</title>' in body


def test_pages(app):
    for path in ('/', '/run/abc', '/runs', '/index.html'):
        status, page = app.status_of(path)
        assert status == 200
        # Nothing is fetched from elsewhere
        assert not re.search(rb'(src|href)="(https?:)?//', page)
    for path in re.findall(r'(?:src|href)="(/[^"]*)"', page.decode()):
        status, body = app.status_of(path)
        assert status == 200 and b'<title>' not in body and len(body) > 100, path
    [style] = re.findall(r'href="(/vendor/fontawesome[^"]*)"', page.decode())
    status, body = app.status_of(style)
    for font in set(re.findall(r'url\(\.\./([^)]*\.woff2)\)', body.decode())):
        assert app.status_of(f'{style.rpartition("/css/")[0]}/{font}')[1][:4] == b'wOF2'
    assert app.status_of('/', method='HEAD') == (200, b'')
    with urllib.request.urlopen(f'{app.url}/') as response:
        assert response.headers['Content-Security-Policy'] == "frame-ancestors 'none'"
    assert app.status_of('/api/v1/nothing')[0] == 404


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:5005', 'localhost.evil.example', '', '127.0.0.1.evil',
                                  '192.168.0.9', 'localhost@evil.example', '[::2]:80', '[bad'])
def test_a_foreign_host(app, host):
    for path in ('/', '/api/v1/runs/null', '/js/bundle.min.js'):
        assert app.status_of(path, headers={'Host': host})[0] in (400, 403)


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1:5005', '[::1]:5005', 'LOCALHOST:80'])
def test_our_own_hosts(app, host):
    assert app.status_of('/', headers={'Host': host})[0] == 200


JSON = {'Content-Type': 'application/json'}


@pytest.mark.parametrize('headers, status', [
    ({**JSON, 'Origin': 'https://evil.example'}, 403), ({**JSON, 'Origin': 'null'}, 403),
    ({**JSON, 'Origin': 'http://localhost:1'}, 403), ({**JSON, 'Origin': 'https://app.labml.ai'}, 403),
    ({**JSON, 'Origin': 'http://[bad'}, 403),
    ({**JSON, 'Origin': 'ftp://localhost'}, 403),
    ({'Content-Type': 'text/plain'}, 415), ({'Content-Type': 'application/x-www-form-urlencoded'}, 415),
    ({'Content-Type': 'text/plain; application/json'}, 415), ({}, 415),
    (JSON, 200), ({'Content-Type': 'application/json; charset=utf-8'}, 200),
])
def test_requests_that_a_foreign_page_can_send(app, uuid, headers, status):
    path = f'/api/v1/default/track?run_uuid={uuid}&labml_version=0.5.3'
    answered, body = app.status_of(path, json.dumps([INTRODUCTION]).encode(), method='POST', headers=headers)
    assert answered == status
    is_listed = uuid in [run['run_uuid'] for run in app.ask('runs/null')['runs']]
    assert is_listed == (status == 200)


def test_our_own_origin_and_no_grant_to_others(app):
    own = f'localhost:{app.port}'
    with urllib.request.urlopen(urllib.request.Request(
            f'http://{own}/api/v1/auth/user', b'{}', {**JSON, 'Origin': f'http://{own}'})) as response:
        assert json.loads(response.read())['is_successful']
        assert not [name for name in response.headers if name.lower().startswith('access-control-allow')]
    assert app.status_of('/api/v1/runs/null', method='OPTIONS', headers={
        'Origin': 'https://app.labml.ai', 'Access-Control-Request-Method': 'PUT'})[0] == 403


@pytest.mark.parametrize('body', [
    b'{', b'no JSON', b'\xff\xfe', b'[' * 100_000, b'5', b'"text"', b'[5]', b'[[]]', b'[{"track": 5}]',
    b'[{"track": {"loss": 5}}]', b'[{"track": {"loss": {"step": [1], "value": [1, 2]}}}]',
    b'[{"track": {"loss": {"step": ["1"], "value": [1]}}}]', b'[{"track": {"loss": {"step": [NaN], "value": [1]}}}]',
    b'[{"configs": {"a": 1}}]', b'[{"configs": {"a": {"name": "a"}}}]', b'[{"status": "completed"}]',
    b'[{"stdout": 5}]', b'[{"track": {"loss": {"step": [1e400], "value": [1]}}}]',
    b'[{"track": {"loss": {"step": [1' + b'0' * 400 + b'], "value": [1]}}}]',
    b'[{"name": "x", "note": ' + b'[' * 900 + b']' * 900 + b', "configs": {"a": {"name": "a", "computed": '
    + b'[' * 900 + b']' * 900 + b'}}}]',
    b'[{"status": {"status": "foo"}}]', b'[{"status": {"status": 5}}]', b'[{"status": {"status": [1]}}]',
    b'[{"status": {"time": "now"}}]', b'[{"status": {"time": NaN}}]', b'[{"began": Infinity}]',
    b'[{"received": {"loss": "1"}}]', b'[{"lives": [null]}]',
    b'[{"lives": 5}]', b'[{"name": {}}]', b'[{"tags": "mlm"}]',
])
def test_malformed_updates(app, uuid, body):
    path = f'/api/v1/default/track?run_uuid={uuid}&labml_version=0.5.3'
    status, answer = app.status_of(path, body, method='POST', headers=JSON)
    assert status == 400
    assert b'Traceback' not in answer and b'.py' not in answer and b'error' in answer or b'detail' in answer
    assert uuid not in [run['run_uuid'] for run in app.ask('runs/null')['runs']]


@pytest.mark.parametrize('method, path, body', [
    ('POST', 'default/track?run_uuid=0123456789&rank=x&labml_version=0.5.3', b'[]'),
    ('POST', 'default/track?run_uuid=0123456789&labml_version=x', b'[]'),
    ('POST', 'metrics/0123456789', b'{}'), ('POST', 'metrics/0123456789', b''), ('PUT', 'runs', b'{}'),
    ('PUT', 'runs', b'[]'), ('POST', 'runs/archive', b'5'), ('POST', 'run/0123456789', b'{}'), ('POST', 'user', b'{}'),
    ('POST', 'logs/stdout/0123456789', b'[]'),
])
def test_other_requests_that_lack_something(app, method, path, body):
    status, answer = app.status_of(f'/api/v1/{path}', body, method=method, headers=JSON)
    assert 400 <= status < 500
    assert b'Traceback' not in answer and b'.py' not in answer


def test_bodies_that_are_too_large(app):
    path = 'POST /api/v1/default/track?run_uuid=0123456789&labml_version=0.5.3 HTTP/1.1\r\nHost: localhost\r\n'
    updates = json.dumps([{}] * 101).encode()
    assert app.status_of(path.split()[1], updates, method='POST', headers=JSON)[0] == 413
    head = f'{path}Content-Type: application/json\r\n'
    assert app.raw(f'{head}Content-Length: 100000000\r\n\r\n'.encode())[0] == 413
    chunk = b'100000\r\n' + b'1' * 0x100000 + b'\r\n'
    # The connection may be closed before all is sent
    with contextlib.suppress(ConnectionError):
        assert app.raw(f'{head}Transfer-Encoding: chunked\r\n\r\n'.encode() + chunk * 9)[0] == 413
    assert app.raw(f'{head}Content-Length: x\r\n\r\n'.encode())[0] in (400, 413)
    # It is there as before
    assert app.ask('runs/null')['runs'] is not None


def test_texts_that_are_none(app, uuid):
    """Half a surrogate pair in one run keeps nobody from seeing the list."""
    app.update(uuid, {**INTRODUCTION, 'name': 'half \ud800'})
    assert 'half ?' in [run['name'] for run in app.ask('runs/null')['runs']]


def test_values_that_are_not_finite(app, uuid):
    app.update(uuid, INTRODUCTION)
    app.update(uuid, track([1, 2, 3, 4], [1, float('nan'), float('inf'), 4]))
    # As upstream has it
    assert app.points(uuid) == {((1, 2, 3, 4), (1, 1, 1, 4))}


def test_what_is_not_finite_keeps_nobody_from_seeing_pages(app, uuid):
    nan = float('nan')
    app.update(uuid, {**INTRODUCTION, 'configs': {'rate': {'name': 'rate', 'computed': nan}},
                      'status': {'status': 'completed', 'details': [float('inf')], 'time': 1.}})
    assert uuid in [run['run_uuid'] for run in app.ask('runs/null')['runs']]
    assert app.ask(f'run/{uuid}')['configs'][0]['computed'] == 'nan'
    app.ask(f'default/computer?session_uuid={uuid}&computer_uuid={uuid}&labml_version=0.5.3',
            [{'status': {'status': 'in progress', 'details': nan, 'time': 1.}}])
    assert app.ask('sessions/null')['sessions']


def test_a_run_uuid_that_upstream_refuses(app):
    assert app.update('short', INTRODUCTION)['errors'][0]['error'] == 'invalid_run_uuid'


def test_a_killed_server_has_all_that_it_acknowledged(start_app):
    """Killed again and again while four runs report."""
    server = start_app()
    acknowledged = {f'{i:032x}': 0 for i in range(4)}
    is_over = threading.Event()

    def report(uuid):
        step = 0
        is_known = False
        while not is_over.is_set():
            update = track(range(step + 1, step + 4)) if is_known else INTRODUCTION
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


def run_app(*arguments):
    return subprocess.run([sys.executable, '-m', 'labml_mlm', 'app', *map(str, arguments)], capture_output=True,
                          text=True, timeout=60)


def test_a_second_server(app, tmp_path):
    result = run_app('--port', 0, '--store', app.store)
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == (f'the store {app.store} is in use by another labml app, in process {app.process.pid}\n')
    result = run_app('--port', app.port, '--store', tmp_path / 'other.sqlite')
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == f'cannot listen at 127.0.0.1, port {app.port}: Address already in use. ' \
                            '--port takes another one\n'
    assert not (tmp_path / 'other.sqlite').exists()
    (tmp_path / 'link.sqlite').symlink_to(app.store)
    assert 'is in use by another labml app' in run_app('--port', 0, '--store', tmp_path / 'link.sqlite').stderr


@pytest.mark.parametrize('arguments, code, message', [
    (['--host', 'no.such.host.invalid'], 2, 'no.such.host.invalid is no address to listen at'),
    (['--host', '192.0.2.1'], 2, 'cannot listen at 192.0.2.1, port 0: Cannot assign requested address'),
    (['--port', '70000'], 2, '70000: a port is a number from 0 to 65535'),
    (['--store', '/proc/none/store.sqlite'], 1, '/proc/none'),
])
def test_what_cannot_be_served(arguments, code, message):
    result = run_app('--port', 0, *arguments)
    assert (result.returncode, result.stdout) == (code, '')
    assert message in result.stderr and 'Traceback' not in result.stderr


def test_ctrl_c_ends_it(start_app):
    server = start_app()
    out, err = server.stop(signal.SIGINT)
    assert (server.process.returncode, out, err) == (0, '', '')
    # All is in the one file
    assert {path.name for path in server.store.parent.glob('store.sqlite*')} == {'store.sqlite', 'store.sqlite.lock'}
    # What it has goes on
    assert start_app().ask('runs/null')['runs'] == []


def test_another_host(start_app):
    server = start_app('--host', '0.0.0.0', '--allow-host', 'lab.example', '--allow-host', 'other.example:5005')
    assert 'The labml app is at http://0.0.0.0:' in server.line
    assert 'the labml app has no login' in server.process.stdout.readline()
    for host, status in [('lab.example:80', 200), ('other.example', 200), ('192.168.0.9', 200), ('localhost', 200),
                         ('evil.example', 403)]:
        assert server.status_of('/', headers={'Host': host})[0] == status


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'labml_app', None)
    monkeypatch.delitem(sys.modules, 'labml_mlm.app.server', raising=False)
    with pytest.raises(SystemExit) as caught:
        main(['app'])
    assert caught.value.code == 2
    assert "the labml app is not installed" in capsys.readouterr().err
