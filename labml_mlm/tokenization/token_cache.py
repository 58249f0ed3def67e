"""
# The token cache

For texts that are files, a folder next to labml's data holds what the first pass found, the tokenizers trained on them,
and their tokens. Names are hashes of all that determines the content. So after any change another name is looked up,
and nothing in the cache is ever out of date; a file that was damaged since is detected when it is opened, and written
again.
"""
import collections
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from labml import logger
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import exclusive, read_ordinary, write_atomically
from labml_mlm.common.untrusted import json_of, parse_json
from labml_mlm.data import corpus as corpora
from labml_mlm.data.chunks import CHUNK, split_chunks
from labml_mlm.data.corpus import Corpus
from labml_mlm.data.documents import Piece
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.losses import Losses
from labml_mlm.tokenization.token_file import DamagedTokens, TokenFile, TokenFileWriter

# Of this format; another version writes all files again
_VERSION = 2
# Characters
_PROGRESS_INTERVAL = 1 << 20
# The share of `[UNK]` that is said each time that tokens are used; how many of them are looked at, in blocks
_MANY_UNKNOWN, _LOOKED_AT, _BLOCK = 0.001, 1 << 22, 1 << 14
# Bytes of a tokenizer
_MAX_BYTES = 2 ** 30
# A quarter of the longest line that is one chunk
_SAMPLED = 16_380


class Units(Protocol):
    """How documents are cut into smaller units."""
    # What the units of a text depend on, for JSON
    identity: Any

    def split_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, bool, bool]]:
        """
        Documents that come in pieces as units, in pieces, too, each with whether it ends its unit, and whether it ends
        its document.
        """


class TokenCache:
    """
    ## The cache of one text

    * `folder` is where it is kept
    * `documents` is the text; its `identity` names its files, or is `None` if it must be read each time
    * `valid_fraction` is the fraction for validation; `None` for no validation set
    * `progress` is called with the fraction of the text that is read, and with `None` when all of it is, while what
      remains takes its time
    """

    def __init__(self, folder: Path, documents: Any, *, valid_fraction: float | None,
                 progress: Callable[[float | None], None] = lambda fraction: None):
        self.folder = folder
        self.documents = documents
        self._identity: Any = None
        self.valid_fraction = valid_fraction
        self.progress = progress
        # Log that files are reused?
        self.is_verbose = True
        self._is_valid: np.ndarray | None = None

    def corpus(self) -> Corpus:
        """
        The result of the first pass over the text, which is read unless that is cached.

        Raises `UserError` if the text changed while it was read.
        """
        path = self._corpus_path
        if path is not None and (found := corpora.from_json(json_of(path))) is not None:
            return found
        corpus = self._scan()
        if path is not None:
            write_atomically(path, json.dumps(corpus._asdict()).encode())
        return corpus

    @property
    def _corpus_path(self) -> Path | None:
        identity = self.documents.identity
        return self.folder / f'{_key([identity, self.valid_fraction])}.json' if identity else None

    def tokenizer_json(self, corpus: Corpus, key: Any, train: Callable[[Iterable[str]], str], *, sample: int) -> str:
        """
        The tokenizer, as JSON, that `train` makes of the text, or has made of it before.

        * `key` tells it from others trained on the same text, for JSON
        * `sample` is how many characters it is trained on, taken from all over the text
        """
        path = self.folder / f'{_key([corpus.sha256, sample, key])}.tokenizer.json'
        if (found := _read_json(path)) is not None:
            if self.is_verbose:
                logger.log(f'Using the tokenizer in {path}', Text.meta)
            return found
        with exclusive(path):
            # Another process may have trained it meanwhile
            if (found := _read_json(path)) is not None:
                return found
            if sample < corpus.n_characters and self.is_verbose:
                logger.log(f'The tokenizer is trained on {sample:,} of {corpus.n_characters:,} characters', Text.meta)
            trained = train(_Sample(self, corpus, sample))
            write_atomically(path, trained.encode())
        return trained

    def tokens(self, corpus: Corpus, tokenizer: Tokenizer, units: Units | None = None) -> TokenFile:
        """
        Its tokens, made if they are missing or damaged. If there are several documents, each ends in `[SEP]`.

        With `units`, such as sentences, the ends are those of units instead, and each document is followed by an empty
        one in place of `[SEP]`. Units without tokens are left out.

        Raises `OSError` if there is no space for them. Nothing is left behind then.
        """
        key = _key([corpus.sha256, corpus.n_documents, self.valid_fraction, tokenizer.to_dict(),
                    *([] if units is None else [units.identity])])
        path = self.folder / f'{key}.tokens'
        if (found := self._open(path, tokenizer)) is not None:
            return found
        with exclusive(path):
            # Another process may have made them meanwhile
            if (found := self._open(path, tokenizer)) is not None:
                return found
            # Leftovers of a kill
            for leftover in path.parent.glob(f'.{path.name}.*.new'):
                leftover.unlink()
            self._write(path, corpus, tokenizer, units)
        return TokenFile(path)

    def _open(self, path: Path, tokenizer: Tokenizer) -> TokenFile | None:
        try:
            tokens = TokenFile(path)
        except FileNotFoundError:
            return None
        except (DamagedTokens, OSError) as e:
            logger.log(f'{e}: it is written again', Text.warning)
            return None
        if self.is_verbose:
            logger.log(f'Using the tokens in {path}', Text.meta)
            # Said in full when they were made
            if (share := _unknown_share(tokens, tokenizer)) > _MANY_UNKNOWN:
                logger.log(f'{share:.1%} of the tokens are [UNK]: the tokenizer does not know that part of the text',
                           Text.warning)
        return tokens

    def _write(self, path: Path, corpus: Corpus, tokenizer: Tokenizer, units: Units | None):
        try:
            self._try_to_write(path, corpus, tokenizer, units)
        except OSError as e:
            raise OSError(f'cannot write the tokens to {path.parent}: {e.strerror or e}') from e

    def _try_to_write(self, path: Path, corpus: Corpus, tokenizer: Tokenizer, units: Units | None):
        if self._is_valid is None and self._scan() != corpus:
            raise self._altered()
        writer, number = TokenFileWriter(path.parent, n_tokens=tokenizer.n_tokens), 0
        # The parts and the whole exist at the same time
        _check_space(path.parent, 2 * self._estimate(corpus, tokenizer) * writer.dtype.itemsize)
        separator = np.array([tokenizer.special.sep] * (corpus.n_documents > 1 and units is None), writer.dtype)
        losses = Losses(tokenizer, corpus)
        pieces = losses.of_text(self.read_with_progress(corpus))
        encoded = ((tokens, is_last, is_last) for tokens, is_last in tokenizer.encode_documents(pieces)) \
            if units is None else _encode_units(tokenizer, units, pieces)
        for tokens, is_last, is_document_end in encoded:
            if number == len(self._is_valid):
                raise self._altered()
            losses.add_tokens(tokens)
            if is_last and len(separator):
                tokens = np.append(tokens, separator)
            writer.add(tokens, is_last=is_last, is_valid=bool(self._is_valid[number]))
            number += is_document_end
        if number < len(self._is_valid) or self.documents.identity != self._identity:
            raise self._altered()
        losses.check()
        for message in losses.messages() if self.is_verbose else ():
            logger.log(message, Text.warning)
        _check_space(path.parent, writer.n_bytes)
        writer.finish(path, about=corpus.sha256, valid_fraction=self.valid_fraction)

    def _scan(self) -> Corpus:
        """The first pass."""
        # The result is valid only if the identity is the same in the end
        self._identity = self.documents.identity
        corpus, self._is_valid = corpora.scan(self.documents, valid_fraction=self.valid_fraction)
        if self.documents.identity != self._identity:
            raise self._altered()
        return corpus

    def _altered(self) -> UserError:
        changed = self._identity and self.documents.what_changed(self._identity)
        return UserError(changed or 'the text was changed while it was read: its documents are others each time')

    def _estimate(self, corpus: Corpus, tokenizer: Tokenizer) -> int:
        """The number of its tokens, estimated from its beginning."""
        beginning = next((piece for piece, _ in self.documents if piece), '')[:CHUNK]
        return len(tokenizer.encode(beginning)) * corpus.n_characters // max(1, len(beginning))

    def read_with_progress(self, corpus: Corpus) -> Iterator[Piece]:
        """The documents. `progress` is called on the way."""
        done = shown = 0
        for piece in self.documents:
            yield piece
            done += len(piece[0])
            if done - shown > _PROGRESS_INTERVAL:
                shown = done
                self.progress(done / corpus.n_characters)
        self.progress(None)


class _Sample:
    """Chunks from all over a text with so many characters in total; can be iterated more than once."""

    def __init__(self, cache: TokenCache, corpus: Corpus, n_characters: int):
        self._pieces = lambda: cache.read_with_progress(corpus)
        self._fraction = n_characters / max(1, corpus.n_characters)

    def __iter__(self) -> Iterator[str]:
        seen = taken = 0
        for chunk, _ in split_chunks(self._pieces()):
            for begin in range(0, len(chunk), _SAMPLED):
                part = chunk[begin:begin + _SAMPLED]
                seen += len(part)
                # So far the same fraction as of the whole
                if self._fraction >= 1 or taken + len(part) / 2 <= seen * self._fraction:
                    taken += len(part)
                    yield part


def _encode_units(tokenizer: Tokenizer, units: Units, pieces: Iterable[Piece]) \
        -> Iterator[tuple[np.ndarray, bool, bool]]:
    """Tokens of units, whether they end their unit, and whether they are the empty unit after a document."""
    # Does a unit end its document? The tokenizer reads ahead
    ends: collections.deque[bool] = collections.deque()

    def texts() -> Iterator[Piece]:
        for text, is_last, is_document_end in units.split_documents(pieces):
            if is_last:
                ends.append(is_document_end)
            yield text, is_last

    is_empty = True
    for tokens, is_last in tokenizer.encode_documents(texts()):
        is_empty = is_empty and not len(tokens)
        yield tokens, is_last and not is_empty, False
        if is_last:
            is_empty = True
            if ends.popleft():
                yield np.zeros(0, np.int32), True, True


def _unknown_share(tokens: TokenFile, tokenizer: Tokenizer) -> float:
    """The fraction of `[UNK]` in tokens, or in blocks from all over them if they are many."""
    unk = tokenizer.special.unk
    parts = [part for part in (tokens.train, tokens.valid) if len(part)]
    if unk is None or not parts:
        return 0.
    n = sum(map(len, parts))
    looked_at = [part[begin:begin + _BLOCK] for part in parts
                 for begin in range(0, len(part), _BLOCK * max(1, n // _LOOKED_AT))]
    return sum(int(np.count_nonzero(block == unk)) for block in looked_at) / sum(map(len, looked_at))


def _read_json(path: Path) -> str | None:
    """The content of a file; `None` if it is missing or not JSON."""
    try:
        text = read_ordinary(path, max_bytes=_MAX_BYTES).decode()
    except (OSError, ValueError):
        return None
    return None if parse_json(text) is None else text


def _check_space(folder: Path, needed: int):
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(errno.ENOSPC, f'the tokens take some {needed / 1e6:,.0f} MB more while they are written, and '
                                    f'{free / 1e6:,.0f} MB are free')


def _key(content: Any) -> str:
    return hashlib.sha256(json.dumps([_VERSION, content]).encode()).hexdigest()[:32]
