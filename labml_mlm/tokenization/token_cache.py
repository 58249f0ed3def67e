"""
# Each text becomes tokens once

Beside labml's data a folder has, of texts that are files, what was found out by reading them, the tokenizers that were
trained on them, and their tokens: under names that come from all that decides what they are. So whatever changes,
another name is looked for, and nothing that is there is ever wrong; a file that was damaged since is found out when it
is opened, and written anew.
"""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from labml import logger
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import only_one, write_atomically
from labml_mlm.data import corpus as corpora
from labml_mlm.data.corpus import Corpus
from labml_mlm.data.documents import Piece
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.chunks import SEGMENT, segments
from labml_mlm.tokenization.token_file import Damaged, TokenFile, Writer

# Of what is below; another one makes all files anew
_VERSION = 2
# Characters
_PROGRESS_INTERVAL = 1 << 20


class TokenCache:
    """
    ## What is known of one text, on the disk

    * `folder` is where it is kept
    * `documents` is the text; its `identity` is what its files are known by, or `None` if it has to be read each time
    * `valid_share` is the share that is for validation; `None` for nothing
    * `progress` is called with the share of the work that is done
    """

    def __init__(self, folder: Path, documents: Any, *, valid_share: float | None,
                 progress: Callable[[float], None] = lambda share: None):
        self.folder = folder
        self.documents = documents
        self._identity: Any = None
        self.valid_share = valid_share
        self.progress = progress
        # Is it said if they are there?
        self.is_said = True
        self._is_valid: np.ndarray | None = None
        self._corpus_path = folder / f'{_key([documents.identity, valid_share])}.json' if documents.identity else None

    def corpus(self) -> Corpus:
        """What is known of it; it is read if that is not known yet."""
        if self._corpus_path is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                return Corpus(**json.loads(self._corpus_path.read_bytes()))
        corpus = self._read()
        if self._corpus_path is not None:
            write_atomically(self._corpus_path, json.dumps(corpus._asdict()).encode())
        return corpus

    def trained(self, corpus: Corpus, about: Any, train: Callable[[Iterable[str]], str], *, sample: int) -> str:
        """
        What `train` makes of the text, or has made of it before: a tokenizer, as JSON.

        * `about` tells it from others that are trained on the same text, for JSON
        * `sample` is how many characters it is trained on, taken from all over the text
        """
        path = self.folder / f'{_key([corpus.sha256, sample, about])}.tokenizer.json'
        if (found := _json_in(path)) is not None:
            if self.is_said:
                logger.log(f'Using the tokenizer in {path}', Text.meta)
            return found
        with only_one(path):
            # Another process may have made it meanwhile
            if (found := _json_in(path)) is not None:
                return found
            made = train(_Sample(self, corpus, sample))
            write_atomically(path, made.encode())
        return made

    def tokens(self, corpus: Corpus, tokenizer: Tokenizer) -> TokenFile:
        """
        Its tokens; they are made if they are not there, or were damaged. Each document of several ends in `[SEP]`.

        Raises `OSError` if there is no space for them. Nothing is left behind then.
        """
        key = _key([corpus.sha256, corpus.n_documents, self.valid_share, tokenizer.to_dict()])
        path = self.folder / f'{key}.tokens'
        if (found := self._opened(path)) is not None:
            return found
        with only_one(path):
            # Another process may have made them meanwhile
            if (found := self._opened(path)) is not None:
                return found
            # What a kill has left
            for leftover in path.parent.glob(f'.{path.name}.*.new'):
                leftover.unlink()
            self._write(path, corpus, tokenizer)
        return TokenFile(path)

    def _opened(self, path: Path) -> TokenFile | None:
        try:
            tokens = TokenFile(path)
        except FileNotFoundError:
            return None
        except (Damaged, OSError) as e:
            logger.log(f'{e}: it is written anew', Text.warning)
            return None
        if self.is_said:
            logger.log(f'Using the tokens in {path}', Text.meta)
        return tokens

    def _write(self, path: Path, corpus: Corpus, tokenizer: Tokenizer):
        try:
            self._try_to_write(path, corpus, tokenizer)
        except OSError as e:
            raise OSError(f'cannot write the tokens to {path.parent}: {e.strerror or e}') from e

    def _try_to_write(self, path: Path, corpus: Corpus, tokenizer: Tokenizer):
        if self._is_valid is None and self._read() != corpus:
            raise _altered()
        writer, number = Writer(path.parent, n_tokens=tokenizer.n_tokens), 0
        # The parts and the whole are there at the same time
        _check_space(path.parent, 2 * self._estimated(corpus, tokenizer) * writer.dtype.itemsize)
        separator = np.array([tokenizer.special.sep] * (corpus.n_documents > 1), writer.dtype)
        for tokens, is_last in tokenizer.encode_documents(self._counted(corpus)):
            if number == len(self._is_valid):
                raise _altered()
            if is_last and len(separator):
                tokens = np.append(tokens, separator)
            writer.add(tokens, is_last=is_last, is_valid=bool(self._is_valid[number]))
            number += is_last
        if number < len(self._is_valid) or self.documents.identity != self._identity:
            raise _altered()
        _check_space(path.parent, writer.n_bytes)
        writer.finish(path, about=corpus.sha256, valid_share=self.valid_share)

    def _read(self) -> Corpus:
        """Reads all of it."""
        # What is found then is only true if it is the same in the end
        self._identity = self.documents.identity
        corpus, self._is_valid = corpora.read(self.documents, valid_share=self.valid_share)
        return corpus

    def _estimated(self, corpus: Corpus, tokenizer: Tokenizer) -> int:
        """How many tokens it has, going by its beginning."""
        beginning = next((piece for piece, _ in self.documents if piece), '')[:SEGMENT]
        return len(tokenizer.encode(beginning)) * corpus.n_characters // max(1, len(beginning))

    def _counted(self, corpus: Corpus) -> Iterator[Piece]:
        """The documents, with progress."""
        done = shown = 0
        for piece in self.documents:
            yield piece
            done += len(piece[0])
            if done - shown > _PROGRESS_INTERVAL:
                shown = done
                self.progress(done / corpus.n_characters)


class _Sample:
    """Segments from all over a text, of so many characters together; it can be read again."""

    def __init__(self, cache: TokenCache, corpus: Corpus, n_characters: int):
        self._pieces = lambda: cache._counted(corpus)
        self._share = n_characters / max(1, corpus.n_characters)

    def __iter__(self) -> Iterator[str]:
        seen = taken = 0
        for segment, _ in segments(self._pieces()):
            seen += len(segment)
            # As much of what is over as of all of it
            if segment and (self._share >= 1 or taken + len(segment) / 2 <= seen * self._share):
                taken += len(segment)
                yield segment


def _json_in(path: Path) -> str | None:
    """The content of a file, if it is there and JSON."""
    try:
        text = path.read_text(encoding='utf-8')
        json.loads(text)
    except (OSError, ValueError):
        return None
    return text


def _altered() -> UserError:
    return UserError('the text was altered while it was read: what it is now was not checked')


def _check_space(folder: Path, needed: int):
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(errno.ENOSPC, f'the tokens take some {needed / 1e6:,.0f} MB more while they are written, and '
                                    f'{free / 1e6:,.0f} MB are free')


def _key(about: Any) -> str:
    return hashlib.sha256(json.dumps([_VERSION, about]).encode()).hexdigest()[:32]

