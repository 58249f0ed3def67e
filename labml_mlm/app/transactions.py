"""
# One request, one transaction

Upstream saves a run, its folder, its project and its index one by one. Here a request of the API is dealt with as a
whole before the next one begins, and is answered once what it has saved is on the disk; one that fails saves nothing.
"""

import asyncio
import contextlib
import sqlite3
import sys
import traceback
from collections.abc import Callable
from typing import Any

from labml_mlm.app.guard import Receive, Send, respond

# What upstream's code comes to when a request lacks something, or has it in another shape
_UNFIT = ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError


class Transactions:
    """
    ## An ASGI application whose API works in transactions

    * `app` is the application
    * `transaction` makes a context for one
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
                        raise _Failed
            except _Failed:
                pass
            except Exception as e:
                messages = []
                error = e
        if messages:
            for message in messages:
                await send(message)
        elif isinstance(error, _UNFIT) or type(error) is Exception:  # what upstream raises itself
            await respond(send, 400, f'the labml app cannot take this request: {type(error).__name__}')
        else:
            traceback.print_exception(error, file=sys.stderr)
            reason = f': {error}' if isinstance(error, sqlite3.OperationalError) else ''
            await respond(send, 500, f'the labml app failed{reason}')


class _Failed(Exception):
    """Ends a transaction whose request was answered with an error."""

