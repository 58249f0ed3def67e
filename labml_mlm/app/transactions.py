"""
# One request, one transaction

Upstream saves a run, its folder, its project and its index one by one. Here each API request is processed completely
before the next one starts, and answered only when everything it saved is on the disk. A request that fails saves
nothing. Nor does a `GET`: upstream saves defaults for each name that it is asked for, and any page can make a browser
send one. They are made again the next time.

Where the disk is full, pages can still be read.
"""
import asyncio
import contextlib
import re
import sqlite3
import sys
import traceback
from collections.abc import Callable
from typing import Any

from labml_mlm.app.guard import Receive, Send, respond
from labml_mlm.app.store import StoreFullError

# Raised by upstream's code when something in a request, or in the store, is missing or has another type
BAD_DATA = ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError

# What pages are made of and upstream has as `POST`. It saves defaults that can be made again
_READS = re.compile(r'/api/v1/((compare/)?metrics|logs/\w+|auth)/[^/]+')


class Transactions:
    """
    ## An ASGI application whose API requests are transactions

    * `app` is the application
    * `transaction` returns a context manager for one transaction
    """

    def __init__(self, app: Any, transaction: Callable[[], contextlib.AbstractContextManager]):
        self.app = app
        self.transaction = transaction
        self._lock = asyncio.Lock()

    async def __call__(self, scope: dict, receive: Receive, send: Send):
        if scope['type'] != 'http' or not scope['path'].startswith('/api/'):
            await self.app(scope, receive, send)
            return
        is_get = scope['method'] in ('GET', 'HEAD')
        messages: list[dict] = []

        async def collect(message: dict):
            messages.append(message)

        async with self._lock:
            try:
                with self.transaction():
                    await self.app(scope, receive, collect)
                    if is_get or messages[0]['status'] >= 400:
                        raise _Rollback
            except _Rollback:
                pass
            except StoreFullError as e:
                if not _READS.fullmatch(scope['path']):
                    messages = []
                error = e
            except Exception as e:
                messages = []
                error = e
        if messages:
            for message in messages:
                await send(message)
        elif isinstance(error, BAD_DATA) or type(error) is Exception:  # upstream raises plain `Exception`s
            await respond(send, 400, f'the labml app cannot process this request: {type(error).__name__}')
        elif isinstance(error, StoreFullError):
            await respond(send, 507, 'the disk with the store of the labml app is full; nothing of this was saved')
        else:
            traceback.print_exception(error, file=sys.stderr)
            reason = f': {error}' if isinstance(error, sqlite3.Error) else ''
            await respond(send, 500, f'the labml app failed{reason}')


class _Rollback(Exception):
    """Rolls back the transaction of a request that saves nothing."""
