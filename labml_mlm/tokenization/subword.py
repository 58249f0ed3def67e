"""
# Words and subwords as tokens

`SubwordTokenizer` wraps a tokenizer of Hugging Face's `tokenizers`, from a `tokenizer.json` or trained on a text
(`train_tokenizer`).
"""
import functools
import hashlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from labml_mlm.common.errors import UserError
from labml_mlm.data.documents import Piece
from labml_mlm.tokenization.chunks import CHUNK, split_chunks
from labml_mlm.tokenization.hf_vocab import find_special_tokens, token_texts
from labml_mlm.tokenization.word_boundaries import WordBoundaries

FILE = 'tokenizer.json'
# Characters of a chunk where the beginning of a text changes its tokens, and of a batch of chunks
_LONG_CHUNK = 1 << 22
_BATCH = (1 << 17) * (os.cpu_count() or 1)
# Batches in flight, those that wait included
_N_IN_FLIGHT = 3
LONE_SURROGATE = re.compile('[\ud800-\udfff]')


class SubwordTokenizer:
    """
    ## A tokenizer of Hugging Face's `tokenizers`

    * `tokenizer` is that; its padding and truncation are switched off

    Special tokens in a text are read as text. Without `[PAD]` or `[SEP]` it gets those. Raises `UserError` if it has no
    `[MASK]`.
    """
    kind = 'tokenizers'

    def __init__(self, tokenizer: Tokenizer):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.special = find_special_tokens(tokenizer)
        self.files = {FILE: tokenizer.to_str(pretty=True)}
        # Not part of the file
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self._texts = token_texts(tokenizer)
        is_special = set(self.special.all)
        self.tokens = [text if isinstance(text, str) else text.decode('utf-8', 'replace') for text in self._texts]
        self.is_spaced = any(token[0] == ' ' and len(token) > 1 for i, token in enumerate(self.tokens)
                             if token and i not in is_special)

    @classmethod
    def from_json(cls, text: str, *, source: Any = FILE) -> 'SubwordTokenizer':
        """From the content of a `tokenizer.json`. Raises `UserError`, which names `source`, if it is invalid."""
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as e:  # tokenizers raises nothing more special
            raise UserError(f'{source} is not a tokenizer.json: {e}') from None
        try:
            return cls(tokenizer)
        except UserError as e:
            raise UserError(f'{source} {e}') from None

    @classmethod
    def from_file(cls, path: Path) -> 'SubwordTokenizer':
        """From a `tokenizer.json`. Raises `UserError` if it cannot be read, is invalid, or has no `[MASK]`."""
        try:
            text = path.read_text(encoding='utf-8')
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f'cannot read {path}: {getattr(e, "strerror", None) or "it is not UTF-8"}') from None
        return cls.from_json(text, source=path)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self._texts)

    @functools.cached_property
    def words(self) -> WordBoundaries:
        """Which tokens begin words."""
        return WordBoundaries(self._texts, special_tokens=self.special.all)

    def to_dict(self) -> dict:
        """With `files`, all it takes to build the tokenizer again; for JSON."""
        return {'kind': self.kind, 'sha256': hashlib.sha256(self.files[FILE].encode()).hexdigest()}

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `int32` of shape `[n]`. Raises `UserError` for lone surrogates."""
        try:
            return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
        except Exception as e:  # tokenizers raises nothing more special
            raise cannot_encode([text], e) from None

    def encode_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, bool]]:
        """
        Token ids of documents that come in pieces, each with whether it ends its document; on all cores. Raises what
        `encode` does.
        """
        size = CHUNK if self._is_the_same_in_chunks else _LONG_CHUNK
        # `tokenizers` encodes a batch on all cores, but converts input and output on one: meanwhile another is encoded
        with ThreadPoolExecutor(_N_IN_FLIGHT - 1) as pool:
            pending: deque = deque()
            for batch in _batches(split_chunks(pieces, size)):
                pending.append(pool.submit(self._encode_batch, batch))
                if len(pending) == _N_IN_FLIGHT:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()

    def encode_masked(self, pieces: Sequence[str]) -> np.ndarray:
        """Token ids of the pieces of a text, with `[MASK]` between every two; raises what `encode` does."""
        names = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        if any(name in piece for piece in pieces for name in names):
            # Not as one text: these would be read as special tokens
            mask = np.array([self.special.mask], np.int32)
            return np.concatenate([part for piece in pieces for part in (mask, self.encode(piece))][1:])
        self.tokenizer.encode_special_tokens = False
        try:
            return self.encode(self.tokenizer.id_to_token(self.special.mask).join(pieces))
        finally:
            self.tokenizer.encode_special_tokens = True

    def unknown(self, text: str) -> list[str]:
        """The parts of `text` that are not in the vocabulary, sorted, each once."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        spans = [span for span, i in zip(encoded.offsets, encoded.ids, strict=True) if i == self.special.unk]
        return sorted({text[begin:end] for begin, end in spans})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names, and U+FFFD for invalid UTF-8."""
        texts = [self._texts[i] for i in ids]
        data = b''.join(text if isinstance(text, bytes) else text.encode() for text in texts)
        text = data.decode('utf-8', 'replace')
        # Where every word includes a space, that of the first word is not in the text
        return text.removeprefix(' ') if texts and isinstance(texts[0], str) else text

    def _encode_batch(self, batch: list[Piece]) -> list[tuple[np.ndarray, bool]]:
        texts = [text for text, _ in batch]
        try:
            encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as e:  # tokenizers raises nothing more special
            raise cannot_encode(texts, e) from None
        return [(np.fromiter(of_text.ids, np.int32, len(of_text)), is_last)
                for of_text, (_, is_last) in zip(encoded, batch, strict=True)]

    @functools.cached_property
    def _is_the_same_in_chunks(self) -> bool:
        """Does a text have the tokens of its chunks? Not if the tokenizer puts something in front of a text."""
        parts = 'Some words,\n  and', '\n\n more of them.', '\n\nend', ' x'
        of_parts = [i for part in parts for i in self.encode(part).tolist()]
        return self.encode(''.join(parts)).tolist() == of_parts


def cannot_encode(texts: list[str], reason: Any) -> UserError:
    """The error for texts that `tokenizers` refuses, for a `reason` of its own."""
    surrogate = next(filter(None, map(LONE_SURROGATE.search, texts)), None)
    return UserError(f'the text has a lone surrogate: U+{ord(surrogate[0]):04X}' if surrogate else
                     f'the tokenizer cannot encode the text: {reason}')


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Batches with enough characters to keep all cores busy."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
