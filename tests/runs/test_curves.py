import csv
import io
import sys
import types

import numpy as np
import pytest
from support.runs import log_metrics

from labml_mlm import metrics
from labml_mlm.common.errors import UserError
from labml_mlm.runs.curves import COLUMNS, STDOUT, export_metrics


@pytest.fixture
def runs(make):
    first, second = make('abcd'), make('cafe', 'other')
    log_metrics(first, loss_train={10: 2.5, 20: 0.1 + 0.2}, loss_valid={20: float('nan')})
    log_metrics(second, loss_train={10: 1.})
    return [first, second]


EXPECTED = [('abcd', 'test', 10, 'loss.train', 2.5), ('abcd', 'test', 20, 'loss.train', 0.1 + 0.2),
            ('abcd', 'test', 20, 'loss.valid', float('nan')), ('cafe', 'other', 10, 'loss.train', 1.)]


def same(rows):
    return [tuple(row[:4]) for row in rows] == [row[:4] for row in EXPECTED] and np.array_equal(
        [row[4] for row in rows], [row[4] for row in EXPECTED], equal_nan=True)


def test_csv_has_every_value_exactly(runs, tmp_path, capsys):
    path = tmp_path / 'runs.csv'
    assert export_metrics(runs, path) == 4
    header, *rows = csv.reader(io.StringIO(path.read_text()))
    assert tuple(header) == COLUMNS
    assert same([(run, name, int(step), indicator, float(value)) for run, name, step, indicator, value in rows])
    export_metrics(runs, STDOUT)
    assert capsys.readouterr().out == path.read_text()


def test_parquet_has_every_value_exactly(runs, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    assert export_metrics(runs, tmp_path / 'runs.parquet') == 4
    table = parquet.read_table(tmp_path / 'runs.parquet')
    assert tuple(table.column_names) == COLUMNS
    assert same([tuple(row.values()) for row in table.to_pylist()])


@pytest.mark.parametrize('name, message', [
    ('runs.xlsx', r'it must end in \.csv or \.parquet, or be - for CSV'), ('folder.csv', 'it is a folder'),
    ('none/runs.csv', 'there is no folder .*none')])
def test_wrong_targets_are_refused(runs, tmp_path, name, message):
    (tmp_path / 'folder.csv').mkdir()
    with pytest.raises(UserError, match=message):
        export_metrics(runs, tmp_path / name)


def test_a_run_without_metrics_is_refused_and_the_file_stays(runs, make, tmp_path):
    path = tmp_path / 'runs.csv'
    path.write_text('before')
    with pytest.raises(UserError, match='the run dada has no metrics in .*log.jsonl'):
        export_metrics([*runs, make('dada')], path)
    assert path.read_text() == 'before'
    assert not list(tmp_path.glob('.runs*'))


def test_parquet_without_pyarrow_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    with pytest.raises(UserError, match=r"needs pyarrow.*pip install 'labml_mlm\[parquet\]', or write \.csv"):
        export_metrics(runs, tmp_path / 'runs.parquet')


def test_metrics_are_arrays_without_pandas(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pandas', None)
    (tmp_path / '.labml.yaml').touch()
    table = metrics('abcd', folder=tmp_path)
    assert tuple(table) == COLUMNS
    assert (table['step'].dtype, table['value'].dtype) == (np.int64, np.float64)
    assert same([*zip(*table.values(), strict=True), EXPECTED[3]])
    # Also by the folder, which needs no project
    assert metrics(runs[1].path, folder='/')['value'].tolist() == [1.]


def test_metrics_are_a_frame_with_pandas(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pandas', types.SimpleNamespace(DataFrame=lambda table: ('frame', table)))
    (tmp_path / '.labml.yaml').touch()
    kind, table = metrics('other', folder=tmp_path)
    assert kind == 'frame' and table['run'].tolist() == ['cafe']


def test_metrics_of_a_run_that_has_none_yet(make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pandas', None)
    assert {name: len(column) for name, column in metrics(make('dada').path).items()} == dict.fromkeys(COLUMNS, 0)
    (tmp_path / '.labml.yaml').touch()
    with pytest.raises(UserError, match='there is no run nope in '):
        metrics('nope', folder=tmp_path)
