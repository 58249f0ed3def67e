"""
# Words and subwords as tokens

What Hugging Face's `tokenizers` does, as a tokenizer of ours. Three kinds can be trained on a text:

* `bpe`: byte pair encoding ([Sennrich et al. 2016](https://arxiv.org/abs/1508.07909)) of bytes, as GPT-2 has it: any
  text has tokens, and they give back the text as it was
* `wordpiece`: BERT's, with upper and lower case; what goes on a word has `##` in front of it in the vocabulary
* `basic_english`: one token a word, in lower case, with the rules of labml_nn's experiments (torchtext's tokenizer of
  that name): most punctuation stands alone, and quotation marks, semicolons and colons are dropped

or one comes as a `tokenizer.json`.
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
from labml_mlm.tokenization.chunks import SEGMENT, segments
from labml_mlm.tokenization.hf_vocab import parts_of, special_of
from labml_mlm.tokenization.word_boundaries import Words

FILE = 'tokenizer.json'
# Characters of a segment where what is in front of a text changes its tokens, and of a batch of segments
_LONG_SEGMENT = 1 << 22
_BATCH = (1 << 17) * (os.cpu_count() or 1)
# Batches, those that wait included
_N_AT_ONCE = 3
_HALF = re.compile('[\ud800-\udfff]')


class SubwordTokenizer:
    """
    ## A tokenizer of Hugging Face's `tokenizers`

    * `tokenizer` is that; what it would do beside tokens, as padding, is switched off

    Special tokens in a text are read as the text that they are. Without `[PAD]` or `[SEP]` it gets those. Raises
    `UserError` if it has no `[MASK]`.
    """
    kind = 'tokenizers'

    def __init__(self, tokenizer: Tokenizer):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.special = special_of(tokenizer)
        self.files = {FILE: tokenizer.to_str(pretty=True)}
        # Is not in the file
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self._parts = parts_of(tokenizer)
        is_special = set(self.special.all)
        self.tokens = [part if isinstance(part, str) else part.decode('utf-8', 'replace') for part in self._parts]
        self.is_spaced = any(token[0] == ' ' and len(token) > 1 for i, token in enumerate(self.tokens)
                             if token and i not in is_special)

    @classmethod
    def from_json(cls, text: str, *, source: Any = FILE) -> 'SubwordTokenizer':
        """That of the content of a `tokenizer.json`. Raises `UserError` if it is none; `source` is named then."""
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as e:  # tokenizers raises nothing more special
            raise UserError(f'{source} is no tokenizer.json: {e}') from None
        try:
            return cls(tokenizer)
        except UserError as e:
            raise UserError(f'{source} {e}') from None

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self._parts)

    @functools.cached_property
    def words(self) -> Words:
        """Which tokens begin words."""
        return Words(self._parts, special_tokens=self.special.all)

    def to_dict(self) -> dict:
        """With `files`, all that it takes to build it again; for JSON."""
        return {'kind': self.kind, 'sha256': hashlib.sha256(self.files[FILE].encode()).hexdigest()}

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `int32` of shape `[n]`. Raises `UserError` for what is no Unicode text (half of a character)."""
        try:
            return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
        except Exception as e:  # tokenizers raises nothing more special
            raise _cannot_encode([text], e) from None

    def encode_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, bool]]:
        """
        Token ids of documents that come in pieces, each with whether it ends its document; on all cores. Raises what
        `encode` does.
        """
        size = SEGMENT if self._is_the_same_in_segments else _LONG_SEGMENT
        # `tokenizers` encodes a batch on all cores, but takes it and gives it back on one: meanwhile another is encoded
        with ThreadPoolExecutor(_N_AT_ONCE - 1) as pool:
            pending: deque = deque()
            for batch in _batches(segments(pieces, size)):
                pending.append(pool.submit(self._encode_batch, batch))
                if len(pending) == _N_AT_ONCE:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()

    def encode_masked(self, pieces: Sequence[str]) -> np.ndarray:
        """Token ids of the pieces of a text, with that of `[MASK]` between each two; raises what `encode` does."""
        names = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        if any(name in piece for piece in pieces for name in names):
            # Not as one text: those would be read as special tokens
            mask = np.array([self.special.mask], np.int32)
            return np.concatenate([part for piece in pieces for part in (mask, self.encode(piece))][1:])
        self.tokenizer.encode_special_tokens = False
        try:
            return self.encode(self.tokenizer.id_to_token(self.special.mask).join(pieces))
        finally:
            self.tokenizer.encode_special_tokens = True

    def unknown(self, text: str) -> list[str]:
        """What in `text` is not in the vocabulary, sorted, each once."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        places = [at for at, i in zip(encoded.offsets, encoded.ids, strict=True) if i == self.special.unk]
        return sorted({text[begin:end] for begin, end in places})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names, and U+FFFD for bytes that are no characters."""
        parts = [self._parts[i] for i in ids]
        data = b''.join(part if isinstance(part, bytes) else part.encode() for part in parts)
        text = data.decode('utf-8', 'replace')
        # Where all words bring a space, that of the first one is none of the text
        return text.removeprefix(' ') if parts and isinstance(parts[0], str) else text

    def _encode_batch(self, batch: list[Piece]) -> list[tuple[np.ndarray, bool]]:
        texts = [text for text, _ in batch]
        try:
            encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as e:  # tokenizers raises nothing more special
            raise _cannot_encode(texts, e) from None
        return [(np.fromiter(of_text.ids, np.int32, len(of_text)), is_last)
                for of_text, (_, is_last) in zip(encoded, batch, strict=True)]

    @functools.cached_property
    def _is_the_same_in_segments(self) -> bool:
        """Does a text have the tokens of its parts? A tokenizer that puts something in front of a text has not."""
        parts = 'Some words,\n  and', '\n\n more of them.', '\n\nend', ' x'
        of_parts = [i for part in parts for i in self.encode(part).tolist()]
        return self.encode(''.join(parts)).tolist() == of_parts


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Of so many characters that all cores have something to do."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def from_file(path: Path) -> SubwordTokenizer:
    """That of a `tokenizer.json`. Raises `UserError` if it cannot be read, is none, or has no `[MASK]`."""
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f'cannot read {path}: {getattr(e, "strerror", None) or "it is no UTF-8 text"}') from None
    return SubwordTokenizer.from_json(text, source=path)


def _cannot_encode(texts: list[str], reason: Any) -> UserError:
    half = next(filter(None, map(_HALF.search, texts)), None)
    return UserError(f'the text has half of a character: U+{ord(half[0]):04X}' if half else
                     f'the tokenizer cannot encode the text: {reason}')

