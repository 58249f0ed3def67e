"""
# The pages of the labml app, from memory

Upstream's pages are the files of its `static` folder; any other path gets `index.html`, whose script reads the path.
That page would load three libraries from other sites. Here they come from Python packages that contain them, and the
style sheet and the script get some changes of ours. All files are read at startup, so a requested path never becomes a
path on the disk.
"""
import importlib.util
import json
import mimetypes
import re
from pathlib import Path

from fastapi import FastAPI, Request, Response

from labml_mlm.app import CURVES, NOT_FINITE
from labml_mlm.common.errors import UserError

# What the page loads from other sites, by a part of the URL: the package that contains it, and which of its files. The
# page asks for the first one
_LIBRARIES = {
    'd3': ('mpld3', ['js/d3.v5.min.js']),
    'bootstrap': ('flask_bootstrap', ['static/bootstrap5/css/bootstrap.min.css']),
    'font-awesome': ('fontawesomefree', ['static/fontawesomefree/css/all.min.css',
                                         'static/fontawesomefree/webfonts/*.woff2']),
}
# Upstream cuts names and options of configs, even where there is room, and lines of output on a phone; and it shows
# buttons that have no page to go to: those of the process and the computer, without `labml monitor`
_STYLE = '''
.process-row .disabled { display: none; }
.terminal-card.no-scroll { overflow-x: auto; }
.configs .config { display: flex; flex-wrap: wrap; align-items: center; }
.configs .config.ignored { display: none; }
.configs .info_list > span.key { width: 15rem; white-space: normal; overflow-wrap: anywhere; }
.configs .config .combined { flex: 1; width: auto; min-width: 10rem; overflow-wrap: anywhere; }
.configs .config .options > span { display: inline-block; }
@media (max-width: 600px) { .configs .info_list > span.key { width: 8rem; } }
'''
# In its script, what is to be found and what comes in its place: a chart for which nobody has selected anything, as one
# of a comparison, is empty, and a compared run has its name alone, which all runs of a script have
_SCRIPT = {
    'for(var i of e)s.push(-1);return s':
        f'for(var i of e)s.push({json.dumps(CURVES)}.includes(i.name)||i.name.startsWith("{NOT_FINITE}")?1:-1);'
        'return s',
    'this.baseRun.name+" "': 'this.baseRun.name+" "+this.baseRun.comment',
}
# All comes from this server, and no script stands in a page. Upstream colours output by attributes. No other site may
# show a page in a frame and trick people into clicking its buttons
_POLICY = ("default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
           "style-src-attr 'unsafe-inline'; img-src 'self' data:; font-src 'self'; manifest-src 'self'; "
           "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
_EXTERNAL_TAG = re.compile(r'<(?:link|script)\b[^>]*"(https?://[^"]*)"[^>]*>')


def add_pages(app: FastAPI):
    """Adds the pages. Call this after the API was added, as it takes all remaining paths."""
    static = _package_folder('labml_app') / 'static'
    files = {path.relative_to(static).as_posix(): path.read_bytes() for path in static.rglob('*') if path.is_file()}
    files |= _library_files()
    files['css/style.css'] += _STYLE.encode()
    files['js/bundle.min.js'] = _with_changes(files['js/bundle.min.js'].decode()).encode()
    files['index.html'] = _with_local_urls(files['index.html'].decode()).encode()

    async def page(path: str, request: Request) -> Response:
        if path.startswith('api/') or '..' in path or '\\' in path:
            return Response(status_code=404)
        name = path if path in files else 'index.html'
        type_ = mimetypes.guess_type(name)[0] or 'application/octet-stream'
        return Response(files[name] if request.method == 'GET' else b'', media_type=type_, headers={
            'Cache-Control': 'max-age=86400' if name.startswith('vendor/') else 'no-cache',
            'Content-Security-Policy': _POLICY, 'X-Content-Type-Options': 'nosniff'})

    app.add_api_route('/{path:path}', page, methods=['GET', 'HEAD'])


def _library_files() -> dict[str, bytes]:
    return {f'vendor/{package}/{path.relative_to(_package_folder(package)).as_posix()}': path.read_bytes()
            for package, patterns in _LIBRARIES.values() for pattern in patterns
            for path in _package_folder(package).glob(pattern)}


def _with_changes(script: str) -> str:
    for found, changed in _SCRIPT.items():
        script = script.replace(found, changed)
    return script


def _with_local_urls(page: str) -> str:
    """The page with libraries from this server in place of those from other sites."""
    def local_tag(tag: re.Match) -> str:
        for part, (package, [path, *_]) in _LIBRARIES.items():
            if part in tag[1]:
                url = f'/vendor/{package}/{path}'
                return (f'<script src="{url}">' if path.endswith('.js') else
                        f'<link href="{url}" rel="stylesheet">')
        return tag[0]

    return _EXTERNAL_TAG.sub(local_tag, page)


def _package_folder(package: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"the labml app is incomplete: {package} is not installed. pip install 'labml_mlm[app]'")
    return Path(spec.submodule_search_locations[0])
