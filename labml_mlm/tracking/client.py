"""
# HTTP to a labml app

What answers may be anything: a server that never stops sending, one that sends a byte now and then, something else
than an app. So an exchange has one deadline, from the connection to the last byte; answers have a bound; redirects are
not followed, as an update is for the address that a person set; and an answer is taken only if it is what it must be.
"""
import contextlib
import http.client
import json
import math
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NoReturn

# Bytes of an answer
MAX_ANSWER = 1_000_000
_NO_APP = 'it does not answer as a labml app does'
_LATE = 'it does not answer in time'


class Undelivered(Exception):
    """
    Why an app has not taken an update. If `is_refusal`, it answered, and may take another run; `status` is that of an
    error of HTTP.
    """

    def __init__(self, message: str, *, is_refusal: bool = False, status: int | None = None):
        super().__init__(message)
        self.is_refusal = is_refusal
        self.status = status


def post_updates(url: str, updates: list[dict], *, timeout: float) -> dict:
    """
    Sends updates of a run to an app, and returns its answer. The whole exchange may take `timeout` seconds.

    Raises `Undelivered` if the app cannot be reached, does not take them, or is not a labml app.
    """
    request = urllib.request.Request(url, json.dumps(updates).encode(),
                                     {'Content-Type': 'application/json; charset=utf-8'})
    return _checked(exchange(request, timeout=timeout))


def exchange(request: urllib.request.Request, *, timeout: float) -> dict:
    """
    The answer of an app, an object of JSON. The whole exchange may take `timeout` seconds.

    Raises `Undelivered` if there is none, or another one.
    """
    with _open(request, timeout) as (response, deadline):
        try:
            body = response.read(MAX_ANSWER + 1)
        except (OSError, ValueError, http.client.HTTPException) as e:
            raise Undelivered(_LATE if deadline.has_passed else _error_text(e)) from None
        kind = response.headers.get_content_type()
    if deadline.has_passed:
        raise Undelivered(_LATE)
    if len(body) > MAX_ANSWER:
        raise Undelivered(f'its answer is longer than {MAX_ANSWER:,} bytes')
    if kind != 'application/json':
        raise Undelivered(_NO_APP)
    try:
        answer = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Undelivered(_NO_APP) from None
    if not isinstance(answer, dict):
        raise Undelivered(_NO_APP)
    return answer


def is_answering(url: str, *, timeout: float) -> bool:
    """Does an HTTP server answer there, whatever it says? It may have so many seconds in all."""
    try:
        with _open(urllib.request.Request(url), timeout):
            return True
    except Undelivered as e:
        # It takes posts only; what matters is that it answers
        return e.is_refusal


def _checked(answer: dict) -> dict:
    """The answer to updates. Raises `Undelivered` if the app refuses them, or if this is none."""
    if not isinstance(answer.get('errors', []), list):
        raise Undelivered(_NO_APP)
    for error in answer.get('errors', []):
        if not isinstance(error, dict) or 'warning' not in error:
            message = (error.get('message') or error.get('error')) if isinstance(error, dict) else error
            raise Undelivered(f'it refuses: {_plain(message)}', is_refusal=True)
    received = answer.get('received', {})
    if not (isinstance(received, dict) and all(map(_is_step, received.values()))
            and isinstance(answer.get('is_new', False), bool) and ('url' not in answer or _is_address(answer['url']))):
        raise Undelivered(_NO_APP)
    return answer


def _no_number(name: str) -> NoReturn:
    """`NaN` and `Infinity` are not JSON."""
    raise ValueError(name)


def _is_step(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_address(value: Any) -> bool:
    """Can it be shown, and opened in a browser?"""
    if not isinstance(value, str) or not value.isprintable():
        return False
    try:
        parts = urllib.parse.urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ('http', 'https') and bool(parts.hostname)


def _plain(text: Any) -> str:
    """Some words of an app as they can be printed on one line."""
    return ''.join(c if c.isprintable() else ' ' for c in str(text)[:200]).strip()


class _Deadline:
    """Shuts down the sockets that it is told of once its time has passed, so that whoever waits for one goes on."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.has_passed = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> '_Deadline':
        self._timer.start()
        return self

    def __exit__(self, *_: Any):
        self._timer.cancel()

    def watch(self, connection: http.client.HTTPConnection):
        """Shuts down its socket, which it has once it is connected."""
        connect = connection.connect

        def connect_and_watch():
            connect()
            self._sockets.append(connection.sock)
            if self.has_passed:
                self._pass()

        connection.connect = connect_and_watch

    def _pass(self):
        self.has_passed = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are answers like any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _watched(kind: type[urllib.request.AbstractHTTPHandler], deadline: _Deadline) -> urllib.request.BaseHandler:
    """A handler whose connections end at the deadline."""
    class Handler(kind):
        def do_open(self, http_class: Any, req: urllib.request.Request, **arguments: Any) -> Any:
            def connection(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
                made = http_class(*args, **kwargs)
                deadline.watch(made)
                return made
            return super().do_open(connection, req, **arguments)
    return Handler()


@contextlib.contextmanager
def _open(request: urllib.request.Request, timeout: float) -> Iterator[tuple[http.client.HTTPResponse, _Deadline]]:
    """
    The response of a server, never through a proxy if it is on this machine. Raises `Undelivered` if there is none, or
    an error.
    """
    if request.type not in ('http', 'https'):
        raise Undelivered(f'{_plain(request.full_url)} is not an address that begins with http:// or https://')
    is_local = urllib.parse.urlsplit(request.full_url).hostname in ('localhost', '127.0.0.1', '::1')
    with _Deadline(timeout) as deadline:
        opener = urllib.request.build_opener(
            _NoRedirect, *(_watched(kind, deadline) for kind in (urllib.request.HTTPHandler,
                                                                  urllib.request.HTTPSHandler)),
            *([urllib.request.ProxyHandler({})] if is_local else []))
        try:
            response = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as e:
            with e:
                raise Undelivered(f'it answers {e.code} {_reason(e)}'.rstrip(), is_refusal=True,
                                  status=e.code) from None
        except (OSError, ValueError, http.client.HTTPException) as e:
            reason = e.reason if isinstance(e, urllib.error.URLError) else e
            raise Undelivered(_LATE if deadline.has_passed else _error_text(reason)) from None
        with response:
            if deadline.has_passed:
                # It ended the headers
                raise Undelivered(_LATE)
            yield response, deadline


def _reason(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(Exception):
        answer = json.loads(error.read(1000))
        return f'({_plain(answer.get("error") or answer["detail"])})'
    return _plain(error.reason)


def _error_text(error: Any) -> str:
    """What went wrong on the way, in words."""
    if isinstance(error, TimeoutError):
        return _LATE
    return _plain(getattr(error, 'strerror', None) or error) or type(error).__name__
