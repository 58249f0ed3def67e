"""
# Access to the labml app

The app has no login: anybody who can reach it can see and delete all runs. So it listens on this machine only by
default. Even then, any web page open in a browser on this machine can send it requests. `Guard` refuses

* a `Host` that is not one of the server's names: with DNS rebinding, the page of another site has a name that resolves
  to this machine, and requests from it carry that name
* an `Origin` other than the app itself: a page of another site that sends requests (cross-site request forgery)
* bodies that are not `application/json`: pages of other sites can send other types without a CORS preflight
* bodies that are too large or not JSON
"""
import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

MAX_BODY = 8 * 2 ** 20
# Seconds within which a body must arrive
_TIMEOUT = 30.

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]

LOOPBACK = {'localhost', '127.0.0.1', '::1'}


class Refused(Exception):
    """A request that is refused, with the HTTP status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Guard:
    """
    ## An ASGI application behind these checks

    * `app` is the application; it receives complete bodies
    * `hosts` are the names and addresses that are accepted as `Host`
    * `is_any_address` also accepts every IP address as `Host`, for a server that listens on all addresses of the
      machine: DNS rebinding needs a name
    """

    def __init__(self, app: Any, *, hosts: set[str], is_any_address: bool = False):
        self.app = app
        self.hosts = {_host_name(f'//{host}') or host.lower() for host in hosts}
        self.is_any_address = is_any_address

    async def __call__(self, scope: dict, receive: Receive, send: Send):
        if scope['type'] == 'http':
            try:
                headers = {name.decode('latin-1').lower(): value.decode('latin-1')
                           for name, value in scope['headers']}
                self._check_sender(headers)
                async with asyncio.timeout(_TIMEOUT):
                    body = await _read_body(headers, receive)
                _check_body(headers, body)
            except Refused as e:
                await respond(send, e.status, str(e))
                return
            except TimeoutError:
                await respond(send, 408, 'the body did not arrive in time')
                return
            receive = replay(body)
        elif scope['type'] != 'lifespan':
            return  # the app has no websockets
        await self.app(scope, receive, send)

    def _check_sender(self, headers: dict[str, str]):
        host = headers.get('host', '')
        name = _host_name(f'//{host}')
        if name not in self.hosts and not (self.is_any_address and _is_address(name)):
            raise Refused(403, f'{name!r} is not a name of this server; --allow-host NAME accepts it')
        origin = headers.get('origin')
        if origin is not None and origin.lower() not in (f'http://{host}'.lower(), f'https://{host}'.lower()):
            raise Refused(403, f'requests from pages of {origin!r} are not accepted')


async def _read_body(headers: dict[str, str], receive: Receive) -> bytes:
    """The complete body. Raises `Refused` if it is too large."""
    too_large = Refused(413, f'the body of a request must not exceed {MAX_BODY:,} bytes')
    length = headers.get('content-length', '0')
    if not length.isdecimal() or int(length) > MAX_BODY:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message['type'] == 'http.disconnect':
            raise Refused(400, 'the connection was closed')
        body += message.get('body', b'')
        if len(body) > MAX_BODY:
            raise too_large
        if not message.get('more_body'):
            return bytes(body)


def _check_body(headers: dict[str, str], body: bytes):
    if not body:
        return
    if headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json':
        raise Refused(415, 'the body must be application/json')
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, 'the body is not JSON') from None


def _host_name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or '').lower()
    except ValueError:
        return ''


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


def replay(body: bytes) -> Receive:
    """Passes a body that was already read on to an application."""
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def receive() -> dict:
        return messages.pop() if messages else {'type': 'http.disconnect'}

    return receive


async def respond(send: Send, status: int, error: str):
    """Answers with an error."""
    body = json.dumps({'error': error}).encode()
    await send({'type': 'http.response.start', 'status': status,
                # The rest of the request's body is not read
                'headers': [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode()),
                            (b'connection', b'close')]})
    await send({'type': 'http.response.body', 'body': body})
