"""
# The data of the labml app in one SQLite file

labml-db has models (dictionaries stored under a key) and indexes (which map names to keys); drivers decide where they
are stored. `ModelDriver` and `IndexDriver` store them in SQLite. Values are JSON, so nothing in the store is ever
executed.

A kill at any instant loses nothing that was committed: SQLite writes a transaction to its write-ahead log and syncs the
log before it reports success, and ignores an incomplete transaction at the end of the log at the next start
(https://sqlite.org/wal.html).
"""
import contextlib
import errno
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labml_db import Index, Model
from labml_db.driver import DbDriver
from labml_db.index_driver import IndexDbDriver

from labml_mlm.app.encoding import decode, encode
from labml_mlm.app.known import Known
from labml_mlm.app.preferences import mend
from labml_mlm.common.errors import UserError
from labml_mlm.common.files import ProcessLock

# Marks the file as a store of this app: 'lmlm'
_APPLICATION_ID = 0x6c6d6c6d
_VERSION = 1
# What SQLite files begin with
_MAGIC = b'SQLite format 3\0'
_TABLES = '''
CREATE TABLE models (key TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE indexes (name TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (name, key)) WITHOUT ROWID;
'''


# What reads the text under a key
_MODEL = 'SELECT data FROM models WHERE key = ?'
_INDEX = 'SELECT value FROM indexes WHERE name = ? AND key = ?'
# A full disk, and a quota or a limit of a file's size
_FULL = 'SQLITE_FULL', 'SQLITE_IOERR_WRITE'
# No space for the file with the index of the write-ahead log
_NO_INDEX = 'SQLITE_IOERR_SHMSIZE', 'SQLITE_IOERR_SHMOPEN'


class StoreFullError(OSError):
    """There is no space for a transaction."""

    def __init__(self, path: Path, reason: Any):
        super().__init__(f'the disk with the store {path} is full ({reason}): --store takes a file on another one')


def damaged(path: Path, wrong: Any) -> str:
    """What to say of a store that cannot be read."""
    return (f'the store {path} is damaged ({wrong}) and stays as it is. --store takes another file, or a copy with '
            f'what can be read: sqlite3 {shlex.quote(str(path))} .recover | sqlite3 NEW')


class Store:
    """
    ## The store in the file `path`, which is created if it does not exist

    It is locked until `close` or the end of the process. Raises `UserError` if another process uses it, if it is
    another kind of file, or damaged; it stays as it is then. Raises `OSError` if it cannot be written. On a full disk a
    store that exists can still be read; for a new one it raises `StoreFullError`.
    """

    def __init__(self, path: Path):
        # Resolved, because a store has one lock, by whichever path it is opened
        try:
            path = path.expanduser().resolve()
        except RuntimeError:
            raise UserError(f'{path}: there is no home folder of that name here; give --store FILE, or set '
                            'HOME') from None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise OSError(f'cannot make the folder {path.parent}: {e.strerror}; give --store FILE, or set HOME') from e
        self.path = path
        self._lock = ProcessLock(path.with_name(f'{path.name}.lock'))
        try:
            owner = self._lock.acquire()
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFullError(path, e.strerror) from e
            raise
        if owner is not None:
            raise UserError(f'the store {path} is in use by another labml app, in process {owner}')
        try:
            try:
                self._open()
            except sqlite3.OperationalError as e:
                if e.sqlite_errorname not in _NO_INDEX:
                    raise
                self._connection.close()
                self._open(is_index_in_memory=True)
        except sqlite3.OperationalError as e:
            if e.sqlite_errorname in _FULL:
                raise StoreFullError(path, e) from e
            raise OSError(f'cannot open the store {path}: {e}') from e
        except sqlite3.DatabaseError as e:
            with open(path, 'rb') as f:
                is_sqlite = f.read(len(_MAGIC)) == _MAGIC
            if is_sqlite:
                raise UserError(damaged(path, e)) from None
            raise UserError(f'{path} is not an SQLite file: --store takes a file of a labml app or a new one') from None

    def _open(self, *, is_index_in_memory: bool = False):
        # One thread at a time uses it, though not always the same one
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.known = Known(self._connection, decode)
        execute = self._connection.execute
        if is_index_in_memory:
            # Other programs cannot look into the store then
            execute('PRAGMA locking_mode = EXCLUSIVE')
        [application], [version] = (execute(f'PRAGMA {name}').fetchone() for name in ('application_id', 'user_version'))
        is_new = not application and not execute('SELECT * FROM sqlite_master').fetchone()
        if not is_new and (application, version) != (_APPLICATION_ID, _VERSION):
            raise UserError(f'{self.path} is a database of another program, or of another version of this one')
        [wrong] = execute('PRAGMA quick_check(1)').fetchone()
        if wrong != 'ok':
            raise UserError(damaged(self.path, wrong.rpartition('\n')[2]))
        execute('PRAGMA journal_mode = WAL')
        execute('PRAGMA synchronous = FULL')
        # Nothing of a transaction is written before it is committed, so that a full disk does not matter to one that is
        # rolled back
        execute('PRAGMA cache_spill = OFF')
        if is_new:
            with self.transaction():
                for statement in _TABLES.split(';'):
                    execute(statement)
                execute(f'PRAGMA application_id = {_APPLICATION_ID}')
                execute(f'PRAGMA user_version = {_VERSION}')

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """
        Commits everything done inside, or nothing if an exception is raised.

        Raises `StoreFullError` if there is no space for it.
        """
        self._connection.execute('BEGIN')
        try:
            yield
            self._connection.execute('COMMIT')
        except BaseException as e:
            # SQLite itself rolls back after some errors
            if self._connection.in_transaction:
                self._connection.execute('ROLLBACK')
            if getattr(e, 'sqlite_errorname', '') in _FULL:
                raise StoreFullError(self.path, e) from e
            raise

    def close(self):
        """Closes the store; another process may open it."""
        self._connection.close()
        self._lock.release()

    def drive(self, models: list[type[Model]], indexes: list[type[Index]]):
        """Makes labml-db store these models and indexes here."""
        Model.set_db_drivers([ModelDriver(model, self._connection, self.known) for model in models])
        Index.set_db_drivers([IndexDriver(index, self._connection, self.known) for index in indexes])


class ModelDriver(DbDriver):
    """Models of one class, under keys like `Run:…`."""

    def __init__(self, model_cls: type[Model], connection: sqlite3.Connection, known: Known):
        super().__init__(None, model_cls)
        self._execute = connection.execute
        self._known = known
        self._model = model_cls

    def load_dict(self, key: str) -> dict | None:
        """The model under `key`, if there is one."""
        text = self._known.read(_MODEL, str(key))
        return None if text is None else mend(self._model, self._known.decoded(str(key), text))

    def mload_dict(self, key: list[str]) -> list[dict | None]:
        """The models under these keys, in the same order."""
        return [self.load_dict(key) for key in key]

    def save_dict(self, key: str, data: dict):
        """Stores `data` under `key`, replacing any earlier model."""
        self._execute('INSERT OR REPLACE INTO models VALUES (?, ?)', [str(key), encode(data)])

    def msave_dict(self, key: list[str], data: list[dict]):
        """Stores each model under its key."""
        for one_key, one_data in zip(key, data, strict=True):
            self.save_dict(one_key, one_data)

    def delete(self, key: str):
        """Deletes the model under `key`."""
        self._execute('DELETE FROM models WHERE key = ?', [str(key)])

    def get_all(self) -> list[str]:
        """All keys of this class."""
        # `;` is the character after `:`
        return [key for [key] in self._execute('SELECT key FROM models WHERE key >= ? AND key < ?',
                                               [f'{self.model_name}:', f'{self.model_name};'])]


class IndexDriver(IndexDbDriver):
    """One index."""

    def __init__(self, index_cls: type[Index], connection: sqlite3.Connection, known: Known):
        super().__init__(index_cls)
        self._execute = connection.execute
        self._known = known

    def get(self, index_key: str) -> str | None:
        """The key stored under the name `index_key`, if there is one."""
        return self._known.read(_INDEX, self.index_name, index_key)

    def mget(self, index_key: list[str]) -> list[str | None]:
        """The keys stored under these names, in the same order."""
        return [self.get(key) for key in index_key]

    def set(self, index_key: str, model_key: str):
        """Stores a key under the name `index_key`, replacing any earlier one."""
        self._execute('INSERT OR REPLACE INTO indexes VALUES (?, ?, ?)', [self.index_name, index_key, model_key])

    def delete(self, index_key: str):
        """Deletes the name `index_key`."""
        self._execute('DELETE FROM indexes WHERE name = ? AND key = ?', [self.index_name, index_key])

    def get_all(self) -> list[str]:
        """All keys."""
        return [value for [value] in self._execute('SELECT value FROM indexes WHERE name = ?', [self.index_name])]
