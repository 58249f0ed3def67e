"""
# The pages of the labml app, from memory

Upstream's pages are the files of its `static` folder; any other path gets `index.html`, whose script reads the path.
That page would load three libraries from other sites. Here they come from Python packages that contain them. All files
are read at startup, so a requested path never becomes a path on the disk.
"""
import importlib.util
import mimetypes
import re
from pathlib import Path

from fastapi import FastAPI, Request, Response

from labml_mlm.common.errors import UserError

# What the page loads from other sites, by a part of the URL: the package that contains it, and which of its files. The
# page asks for the first one
_LIBRARIES = {
    'd3': ('mpld3', ['js/d3.v5.min.js']),
    'bootstrap': ('flask_bootstrap', ['static/bootstrap5/css/bootstrap.min.css']),
    'font-awesome': ('fontawesomefree', ['static/fontawesomefree/css/all.min.css',
                                         'static/fontawesomefree/webfonts/*.woff2']),
}
_EXTERNAL_TAG = re.compile(r'<(?:link|script)\b[^>]*"(https?://[^"]*)"[^>]*>')


def add_pages(app: FastAPI):
    """Adds the pages. Call this after the API was added, as it takes all remaining paths."""
    static = _package_folder('labml_app') / 'static'
    files = {path.relative_to(static).as_posix(): path.read_bytes() for path in static.rglob('*') if path.is_file()}
    files |= _library_files()
    files['index.html'] = _with_local_urls(files['index.html'].decode()).encode()

    async def page(path: str, request: Request) -> Response:
        if path.startswith('api/') or '..' in path or '\\' in path:
            return Response(status_code=404)
        name = path if path in files else 'index.html'
        type_ = mimetypes.guess_type(name)[0] or 'application/octet-stream'
        return Response(files[name] if request.method == 'GET' else b'', media_type=type_, headers={
            'Cache-Control': 'max-age=86400' if name.startswith('vendor/') else 'no-cache',
            # No other site may show it in a frame and trick people into clicking its buttons
            'Content-Security-Policy': "frame-ancestors 'none'", 'X-Content-Type-Options': 'nosniff'})

    app.add_api_route('/{path:path}', page, methods=['GET', 'HEAD'])


def _library_files() -> dict[str, bytes]:
    return {f'vendor/{package}/{path.relative_to(_package_folder(package)).as_posix()}': path.read_bytes()
            for package, patterns in _LIBRARIES.values() for pattern in patterns
            for path in _package_folder(package).glob(pattern)}


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
