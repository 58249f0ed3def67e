import re
import urllib.request

import pytest

from labml_mlm.app import pages


@pytest.mark.parametrize('path', [
    '/../../etc/passwd', '/..%2f..%2fetc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '/%2e%2e%2f%2e%2e%2fetc%2fpasswd',
    '/..%5c..%5cetc/passwd', '//etc/passwd', '/js/../../../../../../../etc/passwd', '/....//....//etc/passwd',
    '/%252e%252e%252fetc/passwd', '/..;/..;/etc/passwd', '/images/..%00/etc/passwd', '/vendor/../../../etc/passwd',
    '/%c0%ae%c0%ae/etc/passwd', '/etc/passwd', 'http://localhost/../../etc/passwd',
])
def test_path_cannot_leave_the_static_folder(app, path):
    """Sent as bytes, because HTTP clients normalize paths."""
    for climb in ('', '/..' * 8):
        status, body = app.status_of(path.replace('/etc', f'{climb}/etc', 1))
        assert b'root:' not in body and b'/bin/' not in body
        assert status in (200, 404)
        assert status == 404 or b'<title>labml.ai</title>' in body


def test_pages_load_nothing_from_other_sites(app):
    for path in ('/', '/run/abc', '/runs', '/index.html'):
        status, page = app.status_of(path)
        assert status == 200
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
        policy = response.headers['Content-Security-Policy']
    assert "default-src 'none'; script-src 'self'; " in policy and "frame-ancestors 'none'" in policy
    assert app.status_of('/api/v1/nothing')[0] == 404


def test_what_changes_in_the_script_and_the_style_sheet_is_there(app):
    """Another version of upstream may have other code."""
    _, script = app.status_of('/js/bundle.min.js')
    for found, changed in pages._SCRIPT.items():
        assert script.count(changed.encode()) == 1 and script.count(found.encode()) == changed.count(found)
    _, style = app.status_of('/css/style.css')
    for name in set(re.findall(r'\.([a-z_-]+)', pages._STYLE)):
        assert f'.{name}'.encode() in style.removesuffix(pages._STYLE.encode()) + script, name
