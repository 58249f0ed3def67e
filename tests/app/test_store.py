import errno
import math
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labml_db import Index, Key, Model

from labml_mlm.app.encoding import decode, encode
from labml_mlm.app.store import Store, StoreFullError
from labml_mlm.common.errors import UserError
from labml_mlm.common.files import ProcessLock

keys = st.text() | st.integers() | st.sampled_from(['$key', '$set', '$array', '$dict', '$tuple'])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
nested = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner) |
                      st.lists(inner).map(tuple) | st.sets(scalars) | st.text().map(Key), max_leaves=20)


class Thing(Model['Thing']):
    name: str
    parts: set

    @classmethod
    def defaults(cls):
        return {'name': '', 'parts': set()}


class Thingy(Model['Thingy']):
    name: str


class ThingIndex(Index['Thing']):
    pass


@pytest.fixture
def open_store(tmp_path):
    stores = []

    def open_store(path=tmp_path / 'store.sqlite'):
        stores.append(Store(path))
        stores[-1].drive([Thing, Thingy], [ThingIndex])
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@given(nested)
def test_decode_inverts_encode(value):
    back = decode(encode(value))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize('array', [np.array([]), np.array([1., math.inf, math.nan]), np.arange(6, dtype=np.int32),
                                   np.zeros((2, 3), np.float32), np.array([True])])
def test_arrays_keep_dtype_and_shape_and_are_writable(array):
    back = decode(encode({'series': [array]}))['series'][0]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)
    back[...] = 0


def test_lone_surrogate_is_replaced():
    assert decode(encode(['\ud800 and \u00e4, \U0001f600'])) == ['? and \u00e4, \U0001f600']


def test_numpy_scalars_become_numbers():
    assert decode(encode([np.float64(0.5), np.int64(3)])) == [0.5, 3]


@pytest.mark.parametrize('value', [object(), {'a': [b'bytes']}, np.array([object()])])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError):
        encode(value)


def test_models_and_indexes_are_stored(open_store):
    store = open_store()
    thing, other = Thing(name='one', parts={'a', 'b'}), Thingy(name='other')
    for model in (thing, other):
        model.save()
    ThingIndex.set('first', thing.key)
    assert thing.key.load().parts == {'a', 'b'}
    assert ThingIndex.get('first') == thing.key
    assert ThingIndex.get('second') is None
    assert ThingIndex.mget(['second', 'first']) == [None, thing.key]
    assert ThingIndex.get_all() == [str(thing.key)]
    # Without those of `Thingy`, whose name has the same prefix
    assert Thing.get_all() == [thing.key]
    more = [Thing(name=str(i)) for i in range(3)]
    Thing.msave(more)
    assert [found.name for found in Thing.mload([str(model.key) for model in more])] == ['0', '1', '2']
    thing.delete()
    ThingIndex.delete('first')
    assert Thing.load(str(thing.key)) is None and ThingIndex.get('first') is None

    # Still there after a restart
    store.close()
    open_store()
    assert Thing.load(str(more[1].key)).name == '1'


def test_transaction_is_atomic(open_store):
    store = open_store()
    thing = Thing(name='before')
    thing.save()
    with pytest.raises(KeyError), store.transaction():
        thing.name = 'within'
        thing.save()
        ThingIndex.set('first', thing.key)
        raise KeyError
    assert thing.key.load().name == 'before' and ThingIndex.get('first') is None
    with store.transaction():
        thing.save()
        ThingIndex.set('first', thing.key)
    assert thing.key.load().name == 'within' and ThingIndex.get('first') == thing.key


def test_second_process_is_refused(open_store, tmp_path):
    store = open_store()
    code = f'''
from pathlib import Path
from labml_mlm.app.store import Store
from labml_mlm.common import files
# Seconds to wait for a lock
files._PATIENCE = 0.1
Store(Path({str(store.path)!r}))
'''
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert f'the store {store.path} is in use by another labml app, in process' in result.stderr
    store.close()
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize('content', [b'no database' * 100, b'{"a": 1}'])
def test_other_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / 'other'
    path.write_bytes(content)
    with pytest.raises(UserError, match='is not an SQLite file'):
        Store(path)
    assert path.read_bytes() == content


def test_other_database_is_refused_and_kept(tmp_path):
    path = tmp_path / 'other.sqlite'
    connection = sqlite3.connect(path)
    connection.execute('CREATE TABLE mine (value TEXT)')
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match='is a database of another program'):
        Store(path)
    assert path.read_bytes() == before


def test_folder_that_cannot_be_written_is_an_error():
    with pytest.raises(OSError):
        Store(Path('/proc/none/store.sqlite'))


@pytest.fixture
def full_store(tmp_path):
    """A store of some pages, which is closed."""
    store = Store(tmp_path / 'full.sqlite')
    store.drive([Thing], [ThingIndex])
    with store.transaction():
        for i in range(300):
            Thing(name=f'{i} ' * 200).save()
            ThingIndex.set(f'name {i}', str(i))
    store.close()
    return store.path


@pytest.mark.parametrize('part', [0.5, 0.9, 'one page'])
def test_store_that_was_cut_is_damaged_and_kept(full_store, part):
    data = full_store.read_bytes()
    data = data[:4096] if part == 'one page' else data[:int(len(data) * part)]
    full_store.write_bytes(data)
    with pytest.raises(UserError, match=f'the store {full_store} is damaged .*--store takes another file.* .recover'):
        Store(full_store)
    assert full_store.read_bytes() == data


@pytest.mark.parametrize('place', [100, 5000, 20_000, 0.5, 0.75, -2000])
def test_damaged_store_is_told_in_one_message_or_still_works(full_store, place):
    """A byte within a text may be any other."""
    data = bytearray(full_store.read_bytes())
    at = int(place * len(data)) if isinstance(place, float) else place
    data[at:at + 300] = b'\xff' * len(data[at:at + 300])
    full_store.write_bytes(data)
    try:
        Store(full_store).close()
    except UserError as e:
        assert 'is damaged' in str(e) and '\n' not in str(e)
        assert full_store.read_bytes() == data


def test_store_without_a_home_folder_says_what_to_give(monkeypatch):
    monkeypatch.setenv('HOME', '/proc')
    with pytest.raises(OSError, match='cannot make the folder /proc/.labml: .*; give --store FILE, or set HOME'):
        Store(Path('~/.labml/app.sqlite'))
    with pytest.raises(UserError, match='there is no home folder of that name here; give --store FILE, or set HOME'):
        Store(Path('~nobody-is-called-so/app.sqlite'))


def no_space():
    """In a new process: as on a full disk, no file can have more than a few bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))


def test_app_starts_on_a_full_disk_to_be_read(start_app):
    uuid, path = 'a' * 32, f"default/track?run_uuid={'a' * 32}&labml_version=0.5.3"
    server = start_app()
    server.ask(path, [{'name': 'mine', 'lives': []}])
    server.stop()
    app = start_app(preexec_fn=no_space)
    assert 'the disk with the store is full' in app.process.stdout.readline()
    assert [run['name'] for run in app.ask('runs/null')['runs']] == ['mine']
    edit = {'Content-Type': 'application/json'}
    code, answer = app.status_of(f'/api/v1/run/{uuid}', b'{"name": "other"}', method='POST', headers=edit)
    assert code == 507 and b'is full' in answer
    assert app.ask(f'run/{uuid}')['name'] == 'mine'
    # Once there is space
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(app.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    app.ask(f'run/{uuid}', {'name': 'other'})
    app.stop()
    assert start_app().ask(f'run/{uuid}')['name'] == 'other'


def test_new_store_on_a_full_disk_is_said(tmp_path):
    path = tmp_path / 'new.sqlite'
    result = subprocess.run([sys.executable, '-m', 'labml_mlm', 'app', '--port', '0', '--store', path],
                            capture_output=True, text=True, timeout=60, preexec_fn=no_space)
    assert (result.returncode, result.stdout) == (1, '')
    assert f'the disk with the store {path} is full' in result.stderr and result.stderr.count('\n') == 1


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_without_space_for_the_lock(tmp_path, monkeypatch, code):
    def acquire(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(ProcessLock, 'acquire', acquire)
    with pytest.raises(StoreFullError, match=f'the disk with the store {tmp_path}/new.sqlite is full'):
        Store(tmp_path / 'new.sqlite')
