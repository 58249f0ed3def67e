import contextlib
import json
import urllib.request

import pytest

JSON = {'Content-Type': 'application/json'}


@pytest.mark.parametrize('host', ['evil.example', 'evil.example:5005', 'localhost.evil.example', '', '127.0.0.1.evil',
                                  'localhost:5005.evil.example', 'localhost:x', 'localhost:', '127.0.0.1:80:80',
                                  'localhost/evil', 'localhost#', '[::1', '::1:80', '[::1]x',
                                  '192.168.0.9', 'localhost@evil.example', '[::2]:80', '[bad'])
def test_foreign_host_is_refused(app, host):
    for path in ('/', '/api/v1/runs/null', '/js/bundle.min.js'):
        assert app.status_of(path, headers={'Host': host})[0] in (400, 403)


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1:5005', '[::1]:5005', 'LOCALHOST:80'])
def test_own_host_is_accepted(app, host):
    assert app.status_of('/', headers={'Host': host})[0] == 200


@pytest.mark.parametrize('headers, status', [
    ({**JSON, 'Origin': 'https://evil.example'}, 403), ({**JSON, 'Origin': 'null'}, 403),
    ({**JSON, 'Origin': 'http://localhost:1'}, 403), ({**JSON, 'Origin': 'https://app.labml.ai'}, 403),
    ({**JSON, 'Origin': 'http://[bad'}, 403),
    ({**JSON, 'Origin': 'ftp://localhost'}, 403),
    ({'Content-Type': 'text/plain'}, 415), ({'Content-Type': 'application/x-www-form-urlencoded'}, 415),
    ({'Content-Type': 'text/plain; application/json'}, 415), ({}, 415),
    (JSON, 200), ({'Content-Type': 'application/json; charset=utf-8'}, 200),
])
def test_request_that_a_page_of_another_site_can_send_is_refused(app, uuid, headers, status):
    path = f'/api/v1/default/track?run_uuid={uuid}&labml_version=0.5.3'
    update = {'name': 'an experiment', 'python_file': 'train.py', 'computer': 'c' * 16, 'lives': [],
              'configs': {'seq_len': {'name': 'seq_len', 'computed': 16}}}
    answered, _ = app.status_of(path, json.dumps([update]).encode(), method='POST', headers=headers)
    assert answered == status
    is_listed = uuid in [run['run_uuid'] for run in app.ask('runs/null')['runs']]
    assert is_listed == (status == 200)


def test_own_origin_is_accepted_and_no_other_is_granted_access(app):
    own = f'localhost:{app.port}'
    with urllib.request.urlopen(urllib.request.Request(
            f'http://{own}/api/v1/auth/user', b'{}', {**JSON, 'Origin': f'http://{own}'})) as response:
        assert json.loads(response.read())['is_successful']
        assert not [name for name in response.headers if name.lower().startswith('access-control-allow')]
    assert app.status_of('/api/v1/runs/null', method='OPTIONS', headers={
        'Origin': 'https://app.labml.ai', 'Access-Control-Request-Method': 'PUT'})[0] == 403


def test_large_request_is_refused(app):
    path = 'POST /api/v1/default/track?run_uuid=0123456789&labml_version=0.5.3 HTTP/1.1\r\nHost: localhost\r\n'
    updates = json.dumps([{}] * 101).encode()
    assert app.status_of(path.split()[1], updates, method='POST', headers=JSON)[0] == 413
    head = f'{path}Content-Type: application/json\r\n'
    assert app.raw(f'{head}Content-Length: 100000000\r\n\r\n'.encode())[0] == 413
    chunk = b'100000\r\n' + b'1' * 0x100000 + b'\r\n'
    # The server may close the connection before everything is sent
    with contextlib.suppress(ConnectionError):
        assert app.raw(f'{head}Transfer-Encoding: chunked\r\n\r\n'.encode() + chunk * 9)[0] == 413
    assert app.raw(f'{head}Content-Length: x\r\n\r\n'.encode())[0] in (400, 413)
    # The app still answers
    assert app.ask('runs/null')['runs'] is not None


@pytest.mark.parametrize('site, status', [('same-origin', 200), ('none', 200), ('same-site', 403), ('cross-site', 403),
                                          ('x', 403)])
def test_request_that_the_browser_says_is_of_another_page_is_refused(app, site, status):
    """Without an `Origin`: images and scripts have none."""
    headers = {'Sec-Fetch-Site': site}
    assert app.status_of('/api/v1/runs/null', headers=headers)[0] == status
    # A link to a page is followed
    assert app.status_of('/', headers=headers)[0] == 200


def test_long_address_is_refused(app):
    assert app.status_of('/api/v1/runs/null?x=' + 'x' * 8000)[0] == 414
    assert app.status_of('/api/v1/runs/null?x=' + 'x' * 7000)[0] == 200
