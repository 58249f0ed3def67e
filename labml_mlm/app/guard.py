"""
# Access to the labml app

The app has no login: anybody who can reach it can see and delete all runs. So it listens on this machine only by
default. Even then, any web page open in a browser on this machine can send it requests. `Guard` refuses

* a `Host` that is not one of the server's names: with DNS rebinding, the page of another site has a name that resolves
  to this machine, and requests from it carry that name
* an `Origin` other than the app itself: a page of another site that sends requests (cross-site request forgery)
* requests to `/api/` of which the browser says (`Sec-Fetch-Site`) that another site's page makes them, as an image, for
  example: those have no `Origin`. Another port of this machine is another page's, too
* addresses that are too long
* bodies that are not `application/json`: pages of other sites can send other types without a CORS preflight
* bodies that are too large or not JSON, which has neither NaN nor infinity; only updates, with metrics, may have them
"""
import asyncio
import ipaddress
import json
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

MAX_BODY = 8 * 2 ** 20
# Characters of a path with its query
MAX_URL = 8000
# Seconds within which a body must arrive
_TIMEOUT = 30.

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]

# RFC 9110, section 7.2
_HOST = re.compile(r'(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(:\d{1,5})?')
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
        self.hosts = {_host_name(host) or host.lower() for host in hosts}
        self.is_any_address = is_any_address

    async def __call__(self, scope: dict, receive: Receive, send: Send):
        if scope['type'] == 'http':
            try:
                headers = {name.decode('latin-1').lower(): value.decode('latin-1')
                           for name, value in scope['headers']}
                if len(scope['raw_path'] or scope['path']) + len(scope['query_string']) > MAX_URL:
                    raise Refused(414, f'an address must not be longer than {MAX_URL:,} characters')
                self._check_sender(headers, is_api=scope['path'].startswith('/api/'))
                async with asyncio.timeout(_TIMEOUT):
                    body = await _read_body(headers, receive)
                _check_body(headers, body, is_update=scope['path'].endswith(('/track', '/computer')))
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

    def _check_sender(self, headers: dict[str, str], *, is_api: bool):
        host = headers.get('host', '')
        name = _host_name(host)
        if name not in self.hosts and not (self.is_any_address and _is_address(name)):
            raise Refused(403, f'{name!r} is not a name of this server; --allow-host NAME accepts it')
        origin = headers.get('origin')
        if origin is not None and origin.lower() not in (f'http://{host}'.lower(), f'https://{host}'.lower()):
            raise Refused(403, f'requests from pages of {origin!r} are not accepted')
        if is_api and headers.get('sec-fetch-site', 'none') not in ('same-origin', 'none'):
            raise Refused(403, 'requests from pages of other sites are not accepted')


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


def _check_body(headers: dict[str, str], body: bytes, *, is_update: bool):
    if not body:
        return
    if headers.get('content-type', '').partition(';')[0].strip().lower() != 'application/json':
        raise Refused(415, 'the body must be application/json')
    try:
        json.loads(body, **({} if is_update else {'parse_constant': _finite, 'parse_float': _finite}))
    except (ValueError, RecursionError):
        raise Refused(400, 'the body is not JSON') from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _host_name(host: str) -> str:
    """The name or the address in a `Host`, which may have a port; empty if it is malformed."""
    match = _HOST.fullmatch(host.lower())
    return (match['address'] or match['name']) if match else ''


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
