"""
# Each text becomes tokens once

Beside labml's data a folder has, of texts that are files, what was found out by reading them, and their tokens: under
names that come from all that decides what they are. So whatever changes, another name is looked for, and nothing that
is there is ever wrong; a file that was damaged since is found out when it is opened, and written anew.
"""
import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from labml import logger
from labml.logger import Text

from labml_mlm import corpus as corpora
from labml_mlm.corpus import Corpus
from labml_mlm.documents import Piece
from labml_mlm.files import write_atomically
from labml_mlm.token_file import Damaged, TokenFile, Writer, only_one

# Of what is below; another one makes all files anew
_VERSION = 1
# Characters
_PROGRESS_INTERVAL = 1 << 20


class Tokenizer(Protocol):
    """What makes tokens."""
    n_tokens: int

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `[n]`."""

    def to_dict(self) -> dict:
        """All that it takes to build it again, for JSON."""


class TokenCache:
    """
    ## What is known of one text, on the disk

    * `folder` is where it is kept
    * `documents` is the text; its `identity` is what its files are known by
    * `valid_share` is the share that is for validation
    * `progress` is called with the share of the work that is done
    """

    def __init__(self, folder: Path, documents: Any, *, valid_share: float,
                 progress: Callable[[float], None] = lambda share: None):
        self.folder = folder
        self.documents: Iterable[Piece] = documents
        self.valid_share = valid_share
        self.progress = progress
        # Is it said if they are there?
        self.is_said = True
        self._is_valid: np.ndarray | None = None
        self._corpus_path = folder / f'{_key([documents.identity, valid_share])}.json'

    def corpus(self) -> Corpus:
        """What is known of it; it is read if that is not known yet."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Corpus(**json.loads(self._corpus_path.read_bytes()))
        corpus, self._is_valid = corpora.read(self.documents, valid_share=self.valid_share)
        write_atomically(self._corpus_path, json.dumps(corpus._asdict()).encode())
        return corpus

    def tokens(self, corpus: Corpus, tokenizer: Tokenizer) -> TokenFile:
        """
        Its tokens; they are made if they are not there, or were damaged.

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
        if self._is_valid is None:
            _, self._is_valid = corpora.read(self.documents, valid_share=self.valid_share)
        # A token is a character at the least; the parts and the whole are there at the same time
        needed = 2 * corpus.n_characters * Writer.dtype_of(tokenizer.n_tokens)().itemsize
        if (free := shutil.disk_usage(path.parent).free) < needed:
            raise OSError(errno.ENOSPC, f'the tokens take up to {needed / 1e6:,.0f} MB while they are written, and '
                                        f'{free / 1e6:,.0f} MB are free', str(path.parent))
        writer = Writer(path.parent, n_tokens=tokenizer.n_tokens)
        done = shown = number = 0
        for piece, is_last in self.documents:
            writer.add(tokenizer.encode(piece), is_last=is_last, is_valid=bool(self._is_valid[number]))
            number += is_last
            done += len(piece)
            if done - shown > _PROGRESS_INTERVAL:
                shown = done
                self.progress(done / corpus.n_characters)
        writer.finish(path, about=corpus.sha256, valid_share=self.valid_share)


def _key(about: Any) -> str:
    return hashlib.sha256(json.dumps([_VERSION, about]).encode()).hexdigest()[:32]
