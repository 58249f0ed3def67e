"""
# Tokens on the disk

A text is tokenized once; after that a run maps the file into memory and reads what its batches need. The file is

    magic, version, length of the header | SHA-256 of the header | header, JSON | tokens | ends of documents

with the tokens in the smallest of `uint8`, `uint16` and `uint32` that holds the vocabulary, training documents first.
The header has checksums of blocks all over the tokens. Each time the file is opened, the header, the size and those
blocks are verified; so a truncated file, or one of another text, is found out in milliseconds. A flipped bit between
two blocks is not.

It is written under another name, and renamed when complete.
"""
import array
import hashlib
import json
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labml_mlm.common.files import open_ordinary, sync_folder
from labml_mlm.common.untrusted import is_integer, is_list_of

_MAGIC = b'MLMtoken'
_VERSION = 1
_HEAD = struct.Struct('<8sII32s')
# Bytes before the tokens
_TOKENS_AT = 1 << 14
# Types of tokens, and numbers in the header
_DTYPES = [np.dtype(name).str for name in ('uint8', 'uint16', 'uint32')]
_SIZES = 'n_tokens', 'n_train_tokens', 'n_documents', 'n_train_documents', 'ends_at', 'size'
# Blocks of tokens with a checksum, and the bytes of one
_N_BLOCKS = 64
_BLOCK = 4096


class DamagedTokens(Exception):
    """Why a file is not a token file, or not complete."""


class TokenFile:
    """
    ## The tokens of a text, in a file

    `train` and `valid` are token ids, `[n]` each, and `train_ends` and `valid_ends` the ends of their documents.
    `about` is what the writer was given. Raises `DamagedTokens` if it is not complete, and `OSError` if it cannot be
    read.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open_ordinary(path) as f:
                header = _header(f)
                size = os.fstat(f.fileno()).st_size
                if not _is_header(header):
                    raise DamagedTokens(f'the header of {path} does not fit its size')
                self.about = header['about']
                if size != header['size']:
                    raise DamagedTokens(f'{path} has {size:,} bytes instead of {header["size"]:,}')
                for at, length, checksum in header['blocks']:
                    f.seek(at)
                    if zlib.crc32(f.read(length)) != checksum:
                        raise DamagedTokens(f'{path} was altered at byte {at:,}')
        except (ValueError, RecursionError, struct.error) as e:
            raise DamagedTokens(f'{path} is not a token file: {e}') from None
        n, cut, n_train = header['n_tokens'], header['n_train_tokens'], header['n_train_documents']
        # `c`: torch warns of read-only arrays; writes stay in memory
        tokens = np.memmap(path, header['dtype'], 'c', _TOKENS_AT, (n,)) if n else np.zeros(0, header['dtype'])
        n_documents = header['n_documents']
        ends = np.memmap(path, np.int64, 'c', header['ends_at'], (n_documents,)) if n_documents else np.zeros(0, int)
        self.train, self.valid = tokens[:cut], tokens[cut:]
        self.train_ends, self.valid_ends = ends[:n_train], ends[n_train:] - cut


class TokenFileWriter:
    """
    ## Writes a token file

    * `folder` is where it is written, in files without a name until it is complete
    * `n_tokens` is the size of the vocabulary
    """

    def __init__(self, folder: Path, *, n_tokens: int):
        self.dtype = np.min_scalar_type(n_tokens - 1)
        self._parts = [_Part(folder), _Part(folder)]

    @property
    def n_bytes(self) -> int:
        """Bytes so far."""
        return sum(part.n for part in self._parts) * self.dtype.itemsize

    def add(self, tokens: np.ndarray, *, is_last: bool, is_valid: bool):
        """Adds the next tokens of a document, and whether they are its last."""
        self._parts[is_valid].add(tokens.astype(self.dtype, copy=False), is_last=is_last)

    def finish(self, path: Path, *, about: Any, valid_fraction: float | None):
        """
        Puts the file together at `path`. If no document is for validation, the last `valid_fraction` of all tokens is,
        unless it is `None`.
        """
        train, valid = self._parts
        n, cut, n_train = train.n + valid.n, train.n, len(train.ends)
        ends = np.concatenate([np.array(train.ends, np.int64), np.array(valid.ends, np.int64) + train.n])
        if not valid.ends and valid_fraction is not None:
            cut = int(n * (1 - valid_fraction))
            n_train = int((ends < cut).sum()) + 1
            ends = np.concatenate([ends[ends < cut], [cut], ends[ends > cut]])
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', suffix='.new', delete=False) as f:
            try:
                f.seek(_TOKENS_AT)
                for part in self._parts:
                    part.file.seek(0)
                    shutil.copyfileobj(part.file, f, 1 << 22)
                # Integers must be aligned to be mapped
                ends_at = -(-f.tell() // 8) * 8
                f.seek(ends_at)
                f.write(ends.tobytes())
                header = {'dtype': self.dtype.str, 'n_tokens': n, 'n_train_tokens': cut, 'about': about,
                          'n_documents': len(ends), 'n_train_documents': n_train, 'ends_at': ends_at, 'size': f.tell()}
                header['blocks'] = _checksums(f, n * self.dtype.itemsize)
                data = json.dumps(header).encode()
                assert _HEAD.size + len(data) <= _TOKENS_AT
                f.seek(0)
                f.write(_HEAD.pack(_MAGIC, _VERSION, len(data), hashlib.sha256(data).digest()) + data)
                f.flush()
                os.fsync(f.fileno())
                os.replace(f.name, path)
            except BaseException:
                os.unlink(f.name)
                raise
        sync_folder(path.parent)


class _Part:
    """Tokens so far, in a file without a name."""

    def __init__(self, folder: Path):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  it lives as long as this
        self.n = 0
        self.ends = array.array('q')

    def add(self, tokens: np.ndarray, *, is_last: bool):
        self.file.write(tokens.tobytes())
        self.n += len(tokens)
        if is_last:
            self.ends.append(self.n)


def _header(f: BinaryIO) -> dict:
    """Raises `DamagedTokens`, or whatever parsing an invalid header raises."""
    magic, version, length, checksum = _HEAD.unpack(f.read(_HEAD.size))
    if magic != _MAGIC or version != _VERSION:
        raise DamagedTokens(f'{f.name} is not a token file, or of another version')
    data = f.read(min(length, _TOKENS_AT))
    if hashlib.sha256(data).digest() != checksum:
        raise DamagedTokens(f'the header of {f.name} was altered')
    return json.loads(data)


def _is_header(header: Any) -> bool:
    """Is it what `finish` writes: are its parts in a file of its size, one after the other?"""
    if not isinstance(header, dict) or not all(is_integer(header.get(name)) and header[name] >= 0 for name in _SIZES):
        return False
    n, n_documents, ends_at, size = (header[name] for name in ('n_tokens', 'n_documents', 'ends_at', 'size'))
    if header.get('dtype') not in _DTYPES or 'about' not in header or not isinstance(header.get('blocks'), list):
        return False
    return (header['n_train_tokens'] <= n and header['n_train_documents'] <= n_documents and ends_at % 8 == 0
            and _TOKENS_AT + n * np.dtype(header['dtype']).itemsize <= ends_at and ends_at + 8 * n_documents == size
            and all(is_list_of(int, block) and len(block) == 3 and block[0] >= 0 and 0 <= block[1] <= _BLOCK
                    for block in header['blocks']))


def _checksums(f: BinaryIO, n_bytes: int) -> list[tuple[int, int, int]]:
    """Places, lengths and checksums of blocks of tokens, the first and the last ones included."""
    checksums = []
    for begin in np.unique(np.linspace(0, max(0, n_bytes - _BLOCK), _N_BLOCKS).astype(np.int64)).tolist():
        f.seek(_TOKENS_AT + begin)
        data = f.read(min(_BLOCK, n_bytes - begin))
        checksums.append((_TOKENS_AT + begin, len(data), zlib.crc32(data)))
    return checksums
