"""
# The pages of the labml app, from memory

Upstream's pages are what lies in its `static` folder; any other path is its `index.html`, whose script goes by the
path. That page would fetch three libraries from elsewhere. They come from here instead, out of Python packages that
ship them. A path of a request never becomes one of the disk: all files are read at the start.
"""

import importlib.util
import mimetypes
import re
from pathlib import Path

from fastapi import FastAPI, Request, Response

from labml_mlm.common.errors import UserError

# What the page fetches from elsewhere, by what its address has: the package that ships it, and the files of that, the
# first of which is what the page asks for
_LIBRARIES = {
    'd3': ('mpld3', ['js/d3.v5.min.js']),
    'bootstrap': ('flask_bootstrap', ['static/bootstrap5/css/bootstrap.min.css']),
    'font-awesome': ('fontawesomefree', ['static/fontawesomefree/css/all.min.css',
                                         'static/fontawesomefree/webfonts/*.woff2']),
}
_FOREIGN_TAG = re.compile(r'<(?:link|script)\b[^>]*"(https?://[^"]*)"[^>]*>')


def add_pages(app: FastAPI):
    """To be called after the API was added: it takes all paths that are left."""
    static = _folder('labml_app') / 'static'
    files = {path.relative_to(static).as_posix(): path.read_bytes() for path in static.rglob('*') if path.is_file()}
    files |= _library_files()
    files['index.html'] = _local(files['index.html'].decode()).encode()

    async def page(path: str, request: Request) -> Response:
        if path.startswith('api/') or '..' in path or '\\' in path:
            return Response(status_code=404)
        name = path if path in files else 'index.html'
        type_ = mimetypes.guess_type(name)[0] or 'application/octet-stream'
        return Response(files[name] if request.method == 'GET' else b'', media_type=type_, headers={
            'Cache-Control': 'max-age=86400' if name.startswith('vendor/') else 'no-cache',
            # No page of another site may have it in a frame, and so have its buttons pressed
            'Content-Security-Policy': "frame-ancestors 'none'", 'X-Content-Type-Options': 'nosniff'})

    app.add_api_route('/{path:path}', page, methods=['GET', 'HEAD'])


def _library_files() -> dict[str, bytes]:
    return {f'vendor/{package}/{path.relative_to(_folder(package)).as_posix()}': path.read_bytes()
            for package, patterns in _LIBRARIES.values() for pattern in patterns
            for path in _folder(package).glob(pattern)}


def _local(page: str) -> str:
    """The page with its foreign addresses replaced."""
    def replaced(tag: re.Match) -> str:
        for part, (package, [path, *_]) in _LIBRARIES.items():
            if part in tag[1]:
                address = f'/vendor/{package}/{path}'
                return (f'<script src="{address}">' if path.endswith('.js') else
                        f'<link href="{address}" rel="stylesheet">')
        return tag[0]

    return _FOREIGN_TAG.sub(replaced, page)


def _folder(package: str) -> Path:
    """Where a package lies; it is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"the labml app is not whole (there is no {package}): pip install 'labml_mlm[app]'")
    return Path(spec.submodule_search_locations[0])

