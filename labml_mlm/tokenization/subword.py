"""
# Words and subwords as tokens

`SubwordTokenizer` wraps a tokenizer of Hugging Face's `tokenizers`, from a `tokenizer.json` or trained on a text
(`train_tokenizer`).
"""
import functools
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import read_ordinary
from labml_mlm.data.chunks import CHUNK, LONGEST_LINE, split_chunks
from labml_mlm.data.documents import Piece
from labml_mlm.tokenization.hf_tokenizers import (
    cannot_encode,
    content_of,
    find_pair_template,
    find_special_tokens,
    find_template,
    hide_special_pieces,
    is_the_same_in_chunks,
    rust_errors,
    token_texts,
)
from labml_mlm.tokenization.word_boundaries import WordBoundaries

FILE = 'tokenizer.json'
# Bytes of it: those of a million tokens take a tenth of that
_MAX_BYTES = 2 ** 30
# Characters of a chunk where the beginning of a text changes its tokens, and of a batch of chunks
_LONG_CHUNK = 1 << 22
_BATCH = (1 << 17) * (os.cpu_count() or 1)
# Batches in flight, those that wait included
_N_IN_FLIGHT = 3
# For a masked token: what most tokenizers cut from its neighbours
_STAND_INS = '\n', '!', ',', '.', '-', '1', 'x', 'e', 'a', '0', '\u4e00'


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
        self.template = find_template(tokenizer, self.special)
        self.pair_template = find_pair_template(tokenizer, self.special)
        self.files = {FILE: content_of(tokenizer)}
        # Not part of the file
        hide_special_pieces(tokenizer)
        # RoBERTa's takes white space from the offsets of tokens
        tokenizer.post_processor = None
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        # The text of each id, as `tokens` has it; bytes where a token may be a part of a character
        self.texts = token_texts(tokenizer)
        is_special = set(self.special.all)
        self.tokens = [text if isinstance(text, str) else text.decode('utf-8', 'replace') for text in self.texts]
        self.is_spaced = any(token[:1] == ' ' and token[1:2].isalnum() for i, token in enumerate(self.tokens)
                             if i not in is_special)

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
    def from_file(cls, path: Path, *, is_link_followed: bool = True) -> 'SubwordTokenizer':
        """
        From a `tokenizer.json`, which may be a link if `is_link_followed`. Raises `UserError` if it cannot be read, is
        invalid, or has no `[MASK]`.
        """
        try:
            text = read_ordinary(path, max_bytes=_MAX_BYTES, is_link_followed=is_link_followed).decode()
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f'cannot read {path}: {getattr(e, "strerror", None) or "it is not UTF-8"}') from None
        return cls.from_json(text, source=path)

    def __reduce__(self) -> tuple:
        """For `pickle`: `tokenizers` would forget that special tokens in a text are text."""
        return type(self).from_json, (self.files[FILE],)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return len(self.texts)

    @functools.cached_property
    def words(self) -> WordBoundaries:
        """Which tokens begin words."""
        return WordBoundaries(self.texts, special_tokens=sorted({*self.special.all, *self.template.ids}))

    def to_dict(self) -> dict:
        """With `files`, all it takes to build the tokenizer again; for JSON."""
        return {'kind': self.kind, 'sha256': hashlib.sha256(self.files[FILE].encode()).hexdigest()}

    def encode(self, text: str) -> np.ndarray:
        """Token ids, `int32` of shape `[n]`. Raises `UserError` for lone surrogates."""
        with rust_errors():
            try:
                return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
            except Exception as e:  # tokenizers raises nothing more special
                raise cannot_encode([text], e) from None

    def normalize(self, text: str) -> str:
        """The text as the tokenizer normalises it before it is split."""
        return text if self.tokenizer.normalizer is None else self.tokenizer.normalizer.normalize_str(text)

    def encode_documents(self, pieces: Iterable[Piece]) -> Iterator[tuple[np.ndarray, bool]]:
        """
        Token ids of documents that come in pieces, each with whether it ends its document; on all cores. Raises what
        `encode` does.
        """
        pieces = iter(pieces)
        first = list(itertools.islice(pieces, 1))
        with rust_errors():
            is_the_same = is_the_same_in_chunks(self.tokenizer, first[0][0][:LONGEST_LINE] if first else '')
        size = CHUNK if is_the_same else _LONG_CHUNK
        # `tokenizers` encodes a batch on all cores, but converts input and output on one: meanwhile another is encoded
        with ThreadPoolExecutor(_N_IN_FLIGHT - 1) as pool:
            pending: deque = deque()
            for batch in _batches(split_chunks(itertools.chain(first, pieces), size)):
                pending.append(pool.submit(self._encode_batch, batch))
                if len(pending) == _N_IN_FLIGHT:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()

    def encode_masked(self, pieces: Sequence[str]) -> np.ndarray:
        """
        Token ids of the pieces of a text, with `[MASK]` between every two; raises what `encode` does.

        A piece alone would have other tokens than in its text: many tokenizers put a space in front of a text, strip
        it, or look at what comes next. So they are encoded together, with a stand-in for each mask that has tokens of
        its own. Where tokens include the space before them, so does the masked one.
        """
        if self.is_spaced:
            pieces = [*(piece.removesuffix(' ') for piece in pieces[:-1]), *pieces[-1:]]
        stand_ins = [self._stand_ins[0]] * (len(pieces) - 1)
        ids, crossed = self._encode_between(pieces, stand_ins)
        for i in sorted(crossed):
            # Whatever stands for the other masks
            candidates = ([*stand_ins[:i], stand_in, *stand_ins[i + 1:]] for stand_in in self._stand_ins)
            stand_ins = next((some for some in candidates if i not in self._encode_between(pieces, some)[1]), stand_ins)
        if crossed:
            ids, crossed = self._encode_between(pieces, stand_ins)
        if crossed:
            ids = [self.encode(piece) for piece in pieces]
        mask = np.array([self.special.mask], np.int32)
        return np.concatenate([part for of_piece in ids for part in (mask, of_piece)][1:])

    @functools.cached_property
    def _stand_ins(self) -> list[str]:
        # After a space, the word before it is whole
        return [space + text for text in _STAND_INS for space in ((' ', '') if self.is_spaced else ('',))]

    def _encode_between(self, pieces: Sequence[str], stand_ins: Sequence[str]) -> tuple[list[np.ndarray], set[int]]:
        """
        The ids of each piece of a text, with `stand_ins` between them; and the numbers of the stand-ins that share a
        token with a piece, all if the text cannot be encoded.
        """
        parts = [part for pair in zip(pieces, [*stand_ins, ''], strict=True) for part in pair]
        ends = np.cumsum([len(part) for part in parts])
        try:
            with rust_errors():
                encoded = self.tokenizer.encode(''.join(parts), add_special_tokens=False)
        except UserError:
            raise
        except Exception as e:  # tokenizers raises nothing more special
            if not stand_ins:
                raise cannot_encode(list(pieces), e) from None
            return [np.zeros(0, np.int32)] * len(pieces), set(range(len(stand_ins)))
        ids: list[list[int]] = [[] for _ in parts]
        crossed = set()
        for i, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
            # Parts of its first and its last character: pieces have even numbers
            first, last = np.searchsorted(ends, [begin, max(begin, end - 1)], 'right')
            if first != last:
                crossed |= {part // 2 for part in range(first, last + 1) if part % 2}
            elif first < len(parts):
                ids[first].append(i)
        # Offsets go wrong where a tokenizer drops what it does not know
        crossed |= {i for i, stand_in in enumerate(stand_ins)
                    if ids[2 * i + 1] != [self.special.unk] and self.decode(ids[2 * i + 1]).strip() not in
                    (stand_in.strip(), '')}
        return [np.array(of_piece, np.int32) for of_piece in ids[::2]], crossed

    def unknown(self, text: str) -> list[str]:
        """The parts of `text` that are not in the vocabulary, sorted, each once."""
        with rust_errors():
            encoded = self.tokenizer.encode(text, add_special_tokens=False)
        spans = [span for span, i in zip(encoded.offsets, encoded.ids, strict=True) if i == self.special.unk]
        return sorted({text[begin:end] for begin, end in spans})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens by their names, and U+FFFD for invalid UTF-8."""
        texts = [self.texts[i] for i in ids]
        data = b''.join(text if isinstance(text, bytes) else text.encode() for text in texts)
        text = data.decode('utf-8', 'replace')
        return text.removeprefix(' ') if texts and isinstance(texts[0], str) and self.adds_space else text

    @functools.cached_property
    def adds_space(self) -> bool:
        """Does the first token of a text include a space that is not in the text?"""
        for i, token in enumerate(self.tokens):
            if token.strip().isalnum() and i not in self.special.all:
                ids = self.encode(token.strip())
                if len(ids) and self.special.unk not in ids:
                    return self.tokens[ids[0]].startswith(' ')
        return False

    def _encode_batch(self, batch: list[Piece]) -> list[tuple[np.ndarray, bool]]:
        texts = [text for text, _ in batch]
        with rust_errors():
            try:
                encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            except Exception as e:  # tokenizers raises nothing more special
                raise cannot_encode(texts, e) from None
        return [(np.fromiter(of_text.ids, np.int32, len(of_text)), is_last)
                for of_text, (_, is_last) in zip(encoded, batch, strict=True)]


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
