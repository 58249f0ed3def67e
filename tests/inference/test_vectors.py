"""Files of vectors."""
import json

import numpy as np
import pytest

from labml_mlm.common.errors import UserError
from labml_mlm.inference.embed import Block
from labml_mlm.inference.texts import Text
from labml_mlm.inference.vectors import check_target, open_vectors

TEXTS = [Text(i, text) for i, text in enumerate(['a', 'é "quoted"', '', 'b,c\n'], start=1)]
VECTORS = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
BLOCKS = [Block(TEXTS[:3], VECTORS[:3]), Block(TEXTS[3:], VECTORS[3:])]


def write(path, blocks=BLOCKS):
    with open_vectors(path, d_model=5) as append:
        for block in blocks:
            append(block)


@pytest.mark.parametrize('n', [0, 1, 3])
def test_npy_is_one_array(tmp_path, n):
    """However many rows there are: the header is written before they are counted."""
    path = tmp_path / 'new' / 'vectors.npy'
    write(path, BLOCKS * n)
    found = np.load(path)
    assert found.dtype == np.float32 and found.shape == (4 * n, 5)
    assert np.array_equal(found, np.concatenate([VECTORS] * n) if n else np.empty((0, 5)))
    assert np.array_equal(np.load(path, mmap_mode='r'), found)


def test_parquet_has_texts_beside_their_vectors(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    path = tmp_path / 'vectors.parquet'
    write(path)
    table = parquet.read_table(path)
    assert table.column_names == ['line', 'text', 'vector']
    rows = table.to_pylist()
    assert [Text(row['line'], row['text']) for row in rows] == TEXTS
    assert np.array_equal(np.array([row['vector'] for row in rows], np.float32), VECTORS)


def test_json_lines_are_exact_and_short(tmp_path, capsys):
    write(tmp_path.__class__('-'))
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Text(row['line'], row['text']) for row in rows] == TEXTS
    assert np.array_equal(np.array([row['vector'] for row in rows]).astype(np.float32), VECTORS)
    assert max(len(str(number)) for row in rows for number in row['vector']) < 14


@pytest.mark.parametrize('suffix', ['npy', 'parquet'])
@pytest.mark.parametrize('error', [KeyboardInterrupt, UserError])
def test_nothing_is_left_behind_after_an_error(tmp_path, suffix, error):
    pytest.importorskip('pyarrow')
    path = tmp_path / f'vectors.{suffix}'

    def failing():
        yield BLOCKS[0]
        raise error('stop')

    with pytest.raises(error):
        write(path, failing())
    assert list(tmp_path.iterdir()) == []
    path.write_text('before')
    with pytest.raises(error):
        write(path, failing())
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == 'before'


def test_other_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r'vectors.csv: it must end in .npy or .parquet, or be - for JSON lines'):
        check_target(tmp_path / 'vectors.csv')
    (tmp_path / 'folder.npy').mkdir()
    with pytest.raises(UserError, match='folder.npy: it is a folder'):
        check_target(tmp_path / 'folder.npy')
    monkeypatch.setitem(__import__('sys').modules, 'pyarrow.parquet', None)
    with pytest.raises(UserError, match=r'needs pyarrow, which is not installed .*pip install .labml_mlm\[parquet\]'):
        check_target(tmp_path / 'vectors.parquet')
