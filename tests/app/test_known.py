import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labml_db import Key, Model

from labml_mlm.app import known as known_
from labml_mlm.app.encoding import decode, encode
from labml_mlm.app.known import Known
from labml_mlm.app.store import Store

STATEMENT = 'SELECT data FROM models WHERE key = ?'


class Shelf(Model['Shelf']):
    books: dict


@pytest.fixture
def rows():
    """What writes a text under a key, what is known of the texts, and those that were decoded."""
    connection, seen = sqlite3.connect(':memory:', isolation_level=None), []
    connection.execute('CREATE TABLE models (key TEXT PRIMARY KEY, data TEXT)')

    def write(key, text):
        connection.execute('INSERT OR REPLACE INTO models VALUES (?, ?)', [key, text])

    def read(text):
        seen.append(text)
        return decode(text)

    return write, Known(connection, read), seen


@given(st.recursive(st.none() | st.integers() | st.text() | st.text().map(Key), lambda inner: st.lists(inner) | st.sets(
    st.integers()) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple), max_leaves=20))
def test_a_value_is_decoded_once_and_belongs_to_the_caller(value):
    text, seen = encode({'value': value, 'array': np.arange(3.)}), []
    known = Known(sqlite3.connect(':memory:'), lambda text: seen.append(text) or decode(text))
    for _ in range(3):
        found = known.decoded('Shelf:1', text)
        array = found.pop('array')
        assert found == {'value': value} and array.tolist() == [0, 1, 2]
        array[:] = 7
        _change(found)
    assert len(seen) == 1


def _change(value):
    """Changes all that can be changed in a value."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _change(inner)
    if isinstance(value, dict | list | set):
        value.clear()


def test_another_text_is_decoded_again(rows):
    _, known, seen = rows
    assert [known.decoded('a', text) for text in ('[1]', '[2]', '[2]', '[1]')] == [[1], [2], [2], [1]]
    assert seen == ['[1]', '[2]', '[1]']


def test_only_so_many_characters_are_kept(rows, monkeypatch):
    _, known, seen = rows
    monkeypatch.setattr(known_, '_MAX_TEXT', 10)
    for key in ('a', 'b', 'a', 'c', 'a', 'b'):
        known.decoded(key, f'["{key}"]')
    # Two of five characters each: `b` had to go for `c`
    assert seen == ['["a"]', '["b"]', '["c"]', '["b"]']
    assert len(known.decoded('d', '[' + '1,' * 20 + '1]')) == 21


def test_result_is_computed_again_once_something_that_was_read_differs(rows):
    write, known, _ = rows
    calls = []

    def total():
        calls.append(1)
        first = int(known.read(STATEMENT, 'first') or 0)
        # The second is read only if there is a first one
        return first and first + int(known.read(STATEMENT, 'second') or 0)

    def ask(is_kept=True):
        return known.result('total', total, is_kept=lambda _: is_kept), len(calls)

    assert ask() == ask() == (0, 1)
    write('second', '5')
    assert ask() == (0, 1)
    write('first', '1')
    assert ask() == ask() == (6, 2)
    write('second', '7')
    assert ask() == ask() == (8, 3)
    write('other', '9')
    assert ask() == (8, 3)
    write('first', '2')
    assert ask(is_kept=False) == (9, 4)
    assert ask(is_kept=False) == (9, 5)


def test_failed_computation_is_not_kept(rows):
    write, known, _ = rows
    for text, error in (('x', ValueError), ('x', ValueError)):
        write('first', text)
        with pytest.raises(error):
            known.result('n', lambda: int(known.read(STATEMENT, 'first')), is_kept=lambda _: True)
    write('first', '3')
    assert known.result('n', lambda: int(known.read(STATEMENT, 'first')), is_kept=lambda _: True) == 3


def test_what_was_rolled_back_is_not_known(tmp_path):
    store = Store(tmp_path / 'store.sqlite')
    store.drive([Shelf], [])
    shelf = Shelf(books={'a': 1})
    shelf.save()
    with pytest.raises(KeyError), store.transaction():
        shelf.books['b'] = 2
        shelf.save()
        assert shelf.key.load().books == {'a': 1, 'b': 2}
        raise KeyError
    assert shelf.key.load().books == {'a': 1}
    # Without a save nothing is changed
    shelf.key.load().books['c'] = 3
    assert shelf.key.load().books == {'a': 1}
    store.close()
