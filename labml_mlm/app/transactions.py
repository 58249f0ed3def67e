"""
# One request, one transaction

Upstream saves a run, its folder, its project and its index one by one. Here each API request is processed completely
before the next one starts, and answered only when everything it saved is on the disk. A request that fails saves
nothing.
"""
import asyncio
import contextlib
import sqlite3
import sys
import traceback
from collections.abc import Callable
from typing import Any

from labml_mlm.app.guard import Receive, Send, respond

# Raised by upstream's code when something in a request is missing or has another type
_BAD_REQUEST = ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError


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
        messages: list[dict] = []

        async def collect(message: dict):
            messages.append(message)

        async with self._lock:
            try:
                with self.transaction():
                    await self.app(scope, receive, collect)
                    if messages[0]['status'] >= 400:
                        raise _Rollback
            except _Rollback:
                pass
            except Exception as e:
                messages = []
                error = e
        if messages:
            for message in messages:
                await send(message)
        elif isinstance(error, _BAD_REQUEST) or type(error) is Exception:  # upstream raises plain `Exception`s
            await respond(send, 400, f'the labml app cannot process this request: {type(error).__name__}')
        else:
            traceback.print_exception(error, file=sys.stderr)
            reason = f': {error}' if isinstance(error, sqlite3.OperationalError) else ''
            await respond(send, 500, f'the labml app failed{reason}')


class _Rollback(Exception):
    """Rolls back a transaction whose request was answered with an error."""
