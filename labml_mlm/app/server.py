"""The labml app, put together and served."""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from labml_app import db, handlers, settings
from labml_app.logger import logger
from labml_db import Index
from labml_db.index_driver.mongo import MongoIndexDbDriver

from labml_mlm.app import updates
from labml_mlm.app.guard import LOOPBACK, Guard
from labml_mlm.app.pages import add_pages
from labml_mlm.app.store import Store
from labml_mlm.app.transactions import Transactions
from labml_mlm.common.errors import UserError

_WILDCARDS = {'0.0.0.0', '::'}


def serve(*, host: str, port: int, store: Path, allowed_hosts: list[str]):
    """
    Serves the labml app until a signal comes.

    * `store` is the file that runs are kept in; with `MONGO_HOST` in the environment it is that MongoDB instead
    * `allowed_hosts` are names that requests may have as `Host`, beside `host` and those of the loopback

    Raises `UserError` if the address cannot be listened at, or if the store is not for use, and `OSError` if it cannot
    be written.
    """
    with contextlib.suppress(KeyboardInterrupt), _listening(host, port) as listening, contextlib.ExitStack() as stack:
        address, port, *_ = listening.getsockname()
        if 'MONGO_HOST' in os.environ:
            transaction, close, where = _use_mongo(), lambda: None, f"the MongoDB at {os.environ['MONGO_HOST']}"
        else:
            opened = Store(store)
            opened.drive(db.models, [*db.indexes, updates.LivesIndex])
            transaction, close, where = opened.transaction, opened.close, str(opened.path)
        stack.callback(close)
        with transaction():
            _prepare()
        app = Guard(Transactions(_application(close), transaction), hosts={*LOOPBACK, host, address, *allowed_hosts},
                    is_any_address=host in _WILDCARDS)
        shown = f'[{host}]' if ':' in host else host
        print(f'The labml app is at http://{shown}:{port}, with its runs in {where}. '
              'Ctrl-C ends it', flush=True)
        if host not in LOOPBACK:
            print('Note: the labml app has no login. Whoever reaches this address sees all runs, and can delete them',
                  flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level='critical', access_log=False, proxy_headers=False,
                                      server_header=False, timeout_graceful_shutdown=3)).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        [family, type_, protocol, _, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as e:
        raise UserError(f'{host} is no address to listen at: {e.strerror}') from None
    listening = socket.socket(family, type_, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as e:
        listening.close()
        raise UserError(f'cannot listen at {host}, port {port}: {e.strerror}. --port takes another one') from None
    return listening


def _use_mongo() -> Any:
    try:
        client = db.init_mongo_db()
    except Exception as e:  # upstream raises no other
        raise OSError(str(e)) from None
    Index.set_db_drivers([MongoIndexDbDriver(index, client['labml']) for index in [*db.indexes, updates.LivesIndex]])
    return contextlib.nullcontext


def _prepare():
    """Has every run belong to the local user from the start, so that none has to be claimed."""
    db.project.create_project(settings.FLOAT_PROJECT_TOKEN, 'float project')
    db.project.create_project(settings.SAMPLES_PROJECT_TOKEN, 'samples project')
    local = db.user.get_or_create_user('local', is_local_user=True)
    # labml's clients give no token
    db.project.ProjectIndex.set('', local.projects[0])


def _application(close: Callable[[], None]) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        # Here, too: after it uvicorn lets SIGTERM end the process
        close()

    logger.setLevel(logging.ERROR)
    # Upstream takes means of curves that are empty so far
    warnings.filterwarnings('ignore', category=RuntimeWarning, module='numpy')
    # The pages of FastAPI's own come from elsewhere
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    updates.add_routes(app)
    handlers.add_handlers(app)
    add_pages(app)
    return app

