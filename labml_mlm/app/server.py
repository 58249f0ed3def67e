"""Assembles and serves the labml app."""
import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from labml_app import db, handlers, settings
from labml_app.logger import logger
from labml_db import Index
from labml_db.index_driver.mongo import MongoIndexDbDriver

from labml_mlm.app import curves, first_look, lists, preferences, updates
from labml_mlm.app.guard import LOOPBACK, Guard
from labml_mlm.app.known import Known
from labml_mlm.app.pages import add_pages
from labml_mlm.app.store import Store, StoreFullError, damaged
from labml_mlm.app.transactions import BAD_DATA, Transactions
from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import Terminated

_WILDCARDS = {'0.0.0.0', '::'}


@contextlib.contextmanager
def _suppress_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the app as it is meant to; other signals are seen by what waits for the process."""
    try:
        yield
    except Terminated:
        raise
    except KeyboardInterrupt:
        pass


def serve(*, host: str, port: int, store: Path, allowed_hosts: list[str]):
    """
    Serves the labml app until a signal arrives.

    * `store` is the file in which runs are stored; if the environment has `MONGO_HOST`, they are stored in that MongoDB
    * `allowed_hosts` are names that requests may have as `Host`, besides `host` and the names of the loopback interface

    Raises `UserError` if it cannot listen on the address, or if the store is in use or another kind of file, and
    `OSError` if the store cannot be written.
    """
    with _suppress_ctrl_c(), _listen(host, port) as listener, contextlib.ExitStack() as stack:
        address, port, *_ = listener.getsockname()
        if 'MONGO_HOST' in os.environ:
            transaction, close, where = _connect_mongo(), lambda: None, f"the MongoDB at {os.environ['MONGO_HOST']}"
            known = None
        else:
            opened = Store(store)
            opened.drive(db.models, [*db.indexes, updates.LivesIndex])
            transaction, close, where, known = opened.transaction, opened.close, str(opened.path), opened.known
        stack.callback(close)
        try:
            is_full = not _create_projects(transaction)
        except BAD_DATA:
            wrong = 'its list of runs cannot be read'
            raise UserError(f'the data in {where} are damaged ({wrong})' if known is None else
                            damaged(opened.path, wrong)) from None
        app = Guard(Transactions(_build_app(close, known), transaction),
                    hosts={*LOOPBACK, host, address, *allowed_hosts}, is_any_address=host in _WILDCARDS)
        shown = f'[{host}]' if ':' in host else host
        print(f'The labml app is at http://{shown}:{port}, with its runs in {where}. '
              'Ctrl-C ends it', flush=True)
        if is_full:
            print('Note: the disk with the store is full. Runs can be looked at, and nothing new is stored until there '
                  'is space', flush=True)
        if host not in LOOPBACK:
            print('Note: the labml app has no login. Anybody who can reach this address can see and delete all runs',
                  flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level='critical', access_log=False, proxy_headers=False,
                                      server_header=False, timeout_graceful_shutdown=3)).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        [family, type_, protocol, _, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as e:
        raise UserError(f'cannot listen on {host}: {e.strerror}') from None
    listener = socket.socket(family, type_, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as e:
        listener.close()
        raise UserError(f'cannot listen on {host}, port {port}: {e.strerror}. --port chooses another port') from None
    return listener


def _connect_mongo() -> Any:
    try:
        client = db.init_mongo_db()
    except Exception as e:  # upstream raises plain `Exception`s
        raise OSError(str(e)) from None
    Index.set_db_drivers([MongoIndexDbDriver(index, client['labml']) for index in [*db.indexes, updates.LivesIndex]])
    return contextlib.nullcontext


def _create_projects(transaction: Callable[[], contextlib.AbstractContextManager]) -> bool:
    """
    Assigns every run to the local user from the start, so that none needs to be claimed. Returns whether there is space
    in the store, which has them from an earlier start otherwise.

    Raises one of `BAD_DATA` if the store has the user or the project, but damaged, and `StoreFullError` if it has none
    and there is no space.
    """
    try:
        with transaction():
            _create()
    except StoreFullError:
        if not db.project.ProjectIndex.get(''):
            raise
        return False
    return True


def _create():
    db.project.create_project(settings.FLOAT_PROJECT_TOKEN, 'float project')
    db.project.create_project(settings.SAMPLES_PROJECT_TOKEN, 'samples project')
    local = db.user.get_or_create_user('local', is_local_user=True)
    # labml's clients send no token
    db.project.ProjectIndex.set('', local.projects[0])
    # Every request needs it
    local.projects[0].load().runs.keys()


def _build_app(close: Callable[[], None], known: Known | None) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        # Not only in `serve`: after the lifespan uvicorn re-raises SIGTERM, which ends the process
        close()

    logger.setLevel(logging.ERROR)
    # At each look at a run whose repository is not on GitHub
    logger.addFilter(lambda record: not record.getMessage().startswith('unknown repo url'))
    # Upstream computes means of curves that are still empty
    warnings.filterwarnings('ignore', category=RuntimeWarning, module='numpy')
    # FastAPI's own pages load scripts from other sites
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan,
                  dependencies=[Depends(preferences.check_request)])
    curves.keep_all_indicators()
    updates.add_routes(app)
    first_look.add_routes(app)
    lists.add_routes(app, known)
    handlers.add_handlers(app)
    add_pages(app)
    return app
