"""The texts in a column of a Parquet file, which is read one batch of a row group after the other."""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labml_mlm.common.errors import UserError
from labml_mlm.reading.files import COMPRESSED, open_text
from labml_mlm.reading.lines import Wrong, no_field

SUFFIXES = ('.parquet',)
# Rows that are decoded at once
_BATCH = 1 << 10


def stream_column(path: Path, field: str, *, role: str, decoding: str = 'strict') \
        -> Iterator[tuple[int, str | None | Wrong]]:
    """
    The texts of a column, each with the number of its row from 1; `None` for null, and what is wrong with others.

    * `role` is the item that names the `field`
    * `decoding` is that of `decoded_lines`

    Raises `UserError` without pyarrow, and `OSError` if the file cannot be read.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as e:
        raise UserError(f"{path} needs pyarrow, which is not installed ({e}): pip install 'labml_mlm[parquet]'") \
            from None
    if path.suffix.lower() in COMPRESSED:
        yield 0, Wrong(f'is compressed as a whole, and Parquet cannot be read so: decompress it to {path.stem}', True)
        return
    with open_text(path) as f:
        number = 0
        try:
            file = parquet.ParquetFile(f)
            if wrong := _wrong_column(file.schema_arrow, field, role):
                yield 0, Wrong(wrong, True)
                return
            for batch in file.iter_batches(_BATCH, columns=[field], use_threads=False):
                column = batch.column(0)
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary_decode()
                # Which does not check that it is UTF-8, so that errors have a row
                for data in column.cast(pa.large_binary()).to_pylist():
                    number += 1
                    yield number, data if data is None else _decoded(data, decoding)
        except pa.ArrowException as e:
            yield 0, Wrong(f'is no Parquet file, or a damaged one: {" ".join(str(e).split())}', True)


def _wrong_column(schema: Any, field: str, role: str) -> str:
    """What is wrong with the column of that name; empty if it has texts."""
    import pyarrow as pa

    if schema.names.count(field) != 1:
        return f'has {schema.names.count(field)} columns `{field}` ({role})' if field in schema.names else \
            no_field(field, role, schema.names)
    kind = schema.field(field).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
        return f'has no text in its column `{field}` ({role}), but values of type {kind}'
    return ''


def _decoded(data: bytes, decoding: str) -> str | Wrong:
    if b'\0' in data:
        return Wrong('is not text: it contains NUL characters')
    try:
        return data.decode('utf-8', decoding)
    except UnicodeDecodeError as e:
        return Wrong(f'is not UTF-8: invalid byte 0x{data[e.start]:02x}')
