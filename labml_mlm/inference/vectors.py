"""
# Files of vectors

Each is written block by block, so that a file may be larger than memory, and takes its name when it is complete.
"""
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import open_atomically
from labml_mlm.common.untrusted import to_json
from labml_mlm.inference.embed import Block

# Writes a block
Write = Callable[[Block], None]
# The name of standard output
STDOUT = Path('-')


def check_target(path: Path):
    """Raises `UserError` if a file of vectors cannot have this name, or if what writes it is not installed."""
    if path != STDOUT and path.suffix.lower() not in _WRITERS:
        raise UserError(f'-o {path}: it must end in {" or ".join(_WRITERS)}, or be - for JSON lines on standard output')
    if path.is_dir():
        raise UserError(f'-o {path}: it is a folder')
    if path.suffix.lower() == '.parquet':
        try:
            import pyarrow.parquet  # noqa: F401  as a check
        except ImportError as e:
            raise UserError(f"-o {path} needs pyarrow, which is not installed ({e}): pip install 'labml_mlm[parquet]', "
                            'or write .npy') from None


@contextlib.contextmanager
def open_vectors(path: Path, *, d_model: int) -> Iterator[Write]:
    """
    Inside, a function that appends blocks of vectors of size `d_model`.

    * `path` ends in `.npy`, an array `[n_texts, d_model]`, or in `.parquet`, a table with the columns `line`, `text`
      and `vector`, or is `-` for JSON lines with the same fields on standard output

    After any error there is no file, or the one that was there before. Raises what `check_target` does.
    """
    check_target(path)
    if path == STDOUT:
        yield _print
        return
    with open_atomically(path) as f, _WRITERS[path.suffix.lower()](f, d_model) as write:
        yield write


@contextlib.contextmanager
def _npy(f: BinaryIO, d_model: int) -> Iterator[Write]:
    n = 0

    def write_header():
        # numpy leaves room for the first dimension to grow
        np.lib.format.write_array_header_1_0(f, {'descr': '<f4', 'fortran_order': False, 'shape': (n, d_model)})

    def write(block: Block):
        nonlocal n
        f.write(np.ascontiguousarray(block.vectors, '<f4').data)
        n += len(block.vectors)

    write_header()
    begin = f.tell()
    yield write
    f.seek(0)
    write_header()
    assert f.tell() == begin


@contextlib.contextmanager
def _parquet(f: BinaryIO, d_model: int) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([('line', pa.int64()), ('text', pa.string()), ('vector', pa.list_(pa.float32(), d_model))])
    with ParquetWriter(f, schema) as writer:

        def write(block: Block):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.vectors.ravel(), pa.float32()), d_model)
            columns = [[text.line for text in block.texts], [text.text for text in block.texts], vectors]
            writer.write_table(pa.table(columns, schema=schema))

        yield write


def _print(block: Block):
    for (line, text), vector in zip(block.texts, block.vectors, strict=True):
        print(to_json({'line': line, 'text': text, 'vector': shortest(vector)}))
    sys.stdout.flush()


def shortest(vector: np.ndarray) -> list[float]:
    """Numbers in single precision as those with the fewest digits that are the same again."""
    return [float(str(number)) for number in vector]


_WRITERS: dict[str, Callable[[BinaryIO, int], Any]] = {'.npy': _npy, '.parquet': _parquet}
