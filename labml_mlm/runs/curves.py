"""
# The metrics of runs as a tidy table

A row for each value: `run`, `experiment`, `step`, `name`, `value`. So tables of several runs can be put one below the
other, and filtered, grouped and plotted by any column.
"""
import contextlib
import csv
import io
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import open_atomically
from labml_mlm.common.project import logs_path_for
from labml_mlm.runs import log_lines
from labml_mlm.runs.log_lines import Skipped
from labml_mlm.runs.metrics_log import read_values
from labml_mlm.runs.run import Run, find_run

if TYPE_CHECKING:
    from pandas import DataFrame

# The uuid of a run, its name, labml's global step (training tokens), an indicator, and its value there
COLUMNS = 'run', 'experiment', 'step', 'name', 'value'
# The name of standard output
STDOUT = Path('-')
_SUFFIXES = '.csv', '.parquet'
# Rows that are written at once
_ROWS = 50_000

Row = tuple[str, str, int, str, float]


def metrics(run: str | Path, *, folder: str | Path = '.') -> 'DataFrame | dict[str, np.ndarray]':
    """
    All metrics of a run, also while it trains: a frame of pandas where pandas is installed, else a dict of arrays. Its
    columns are `COLUMNS`.

    * `run` is a run's uuid or the beginning of it, its name, its folder, or `last` for the newest
    * `folder` is in the labml project whose runs are meant

    Warns of damaged lines, which are skipped. Raises `UserError` if there is no such run.
    """
    found, _ = find_run(logs_path_for(run, folder), str(run))
    skipped = Skipped()
    columns = list(zip(*_rows(found, skipped), strict=True)) or [()] * len(COLUMNS)
    kinds = np.str_, np.str_, np.int64, np.str_, np.float64
    table = {name: np.array(column, kind) for name, column, kind in zip(COLUMNS, columns, kinds, strict=True)}
    for path, n in skipped.items():
        warnings.warn(log_lines.skipped(n, path), stacklevel=2)
    try:
        import pandas
    except ImportError:
        return table
    return pandas.DataFrame(table)


def export_metrics(runs: Sequence[Run], path: Path, *, skipped: Skipped | None = None) -> int:
    """
    Writes the metrics of runs into a file, as a whole or not at all. Returns the number of values.

    * `path` ends in `.csv` or `.parquet`, or is `-` for CSV on standard output
    * `skipped` counts damaged lines

    Raises `UserError` for another name, without pyarrow, and for a run without metrics.
    """
    _check_target(path)
    for run in runs:
        damaged = Skipped()
        if next(_rows(run, damaged), None) is None:
            raise UserError(f'the run {run.uuid} has no metrics in {run.log}'
                            + (f': {log_lines.skipped(n, run.log)}' if (n := damaged[run.log]) else ''))
    rows = itertools.chain.from_iterable(_rows(run, skipped) for run in runs)
    if path == STDOUT:
        return _write_csv(sys.stdout, rows)
    with open_atomically(path) as f:
        if path.suffix.lower() == '.parquet':
            return _write_parquet(f, rows)
        with _as_text(f) as text:
            return _write_csv(text, rows)


def _rows(run: Run, skipped: Skipped | None = None) -> Iterator[Row]:
    for step, name, value in read_values(run.log, skipped):
        yield run.uuid, run.experiment, int(step), name, float(value)


def _check_target(path: Path):
    if path == STDOUT:
        return
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f'-o {path}: it must end in {" or ".join(_SUFFIXES)}, or be - for CSV on standard output')
    if path.is_dir():
        raise UserError(f'-o {path}: it is a folder')
    if not path.parent.is_dir():
        raise UserError(f'-o {path}: there is no folder {path.parent}')
    if path.suffix.lower() == '.parquet':
        try:
            import pyarrow.parquet  # noqa: F401  as a check
        except ImportError as e:
            raise UserError(f"-o {path} needs pyarrow, which is not installed ({e}): pip install 'labml_mlm[parquet]', "
                            'or write .csv') from None


@contextlib.contextmanager
def _as_text(f: BinaryIO) -> Iterator[TextIO]:
    text = io.TextIOWrapper(f, encoding='utf-8', newline='')
    yield text
    # The file is still open
    text.detach()


def _write_csv(f: TextIO, rows: Iterable[Row]) -> int:
    n, writer = 0, csv.writer(f, lineterminator='\n')
    writer.writerow(COLUMNS)
    for n, row in enumerate(rows, 1):  # noqa: B007  counts them
        writer.writerow(row)
    return n


def _write_parquet(f: BinaryIO, rows: Iterator[Row]) -> int:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = pa.string(), pa.string(), pa.int64(), pa.string(), pa.float64()
    schema, n = pa.schema(list(zip(COLUMNS, kinds, strict=True))), 0
    with ParquetWriter(f, schema) as writer:
        while block := list(itertools.islice(rows, _ROWS)):
            n += len(block)
            columns = [pa.array(column, kind) for column, kind in zip(zip(*block, strict=True), kinds, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))
    return n
