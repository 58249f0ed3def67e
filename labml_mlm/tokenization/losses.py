"""
# What a tokenizer does not keep of a text

Most published tokenizers normalise: they lower-case, strip marks, or drop characters that are not seen. What a model is
trained on is not what was written then: Hindi and Vietnamese without marks are other words, and Persian without its
joiners is misspelt. And what is not in the vocabulary becomes `[UNK]`. So while the tokens of a text are made, both are
counted.
"""
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.data.blocks import Block, Piece, pieces_of
from labml_mlm.data.corpus import Corpus, code_points
from labml_mlm.tokenization.base import Tokenizer

_N_CODE_POINTS = 0x110000
_KINDS = 'none', 'case', 'marks', 'invisible characters', 'width or form', 'others'
_N_EXAMPLES = 3


class Losses:
    """
    ## Counts of what a tokenizer does not keep

    * `corpus` is about the text

    Normalisation is looked at character by character, so rules for several characters are not found. What is dropped
    without normalisation is found where nothing is `[UNK]`.
    """

    def __init__(self, tokenizer: Tokenizer, corpus: Corpus):
        self._tokenizer = tokenizer
        # A token per character, as far as this module knows: only `[UNK]` is counted
        self._is_plain = not hasattr(tokenizer, 'normalize')
        self._normalize = normalize = getattr(tokenizer, 'normalize', lambda text: text)
        # By kind: each character and what it becomes
        self._altered: dict[str, dict[str, str]] = {}
        for character in corpus.characters:
            becomes = normalize(character)
            if not character.isspace() and not _is_same(character, becomes) \
                    and not _is_same(character, becomes := becomes.strip(' ▁')):
                self._altered.setdefault(_kind(character, becomes), {})[character] = becomes
        self._kind_of = np.zeros(_N_CODE_POINTS, np.uint8)
        for kind, characters in self._altered.items():
            self._kind_of[code_points(''.join(characters))] = _KINDS.index(kind)
        self._counts = np.zeros(len(_KINDS), np.int64)
        self._n_visible = 0
        self._beginning = ''
        # Tokens by id, and those that are not counted yet
        self._n_of_id = np.zeros(tokenizer.n_tokens, np.int64)
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._n_plain = 0

    def of_text(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The same pieces; what their normalisation loses is counted."""
        return pieces_of(self.of_blocks(Block([text], is_last) for text, is_last in pieces))

    def of_blocks(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same of documents in blocks."""
        for block in blocks:
            if not self._beginning or not self._is_plain:
                text = ''.join(block.texts)
                self._beginning = self._beginning or text[:1 << 14]
            if not self._is_plain:
                # Other white space is rare
                self._n_visible += len(text) - sum(map(text.count, ' \n\t\r'))
                if self._altered:
                    self._counts += np.bincount(self._kind_of[code_points(text)], minlength=len(_KINDS))
            yield block

    def add_tokens(self, tokens: np.ndarray):
        """Counts token ids of the text, `[n]`."""
        if self._is_plain:
            unk = self._tokenizer.special.unk
            n_unknown = 0 if unk is None else int(np.count_nonzero(tokens == unk))
            self._n_of_id[unk or 0] += n_unknown
            self._n_plain += len(tokens) - n_unknown
            self._n_visible += len(tokens)
            return
        self._waiting.append(tokens)
        self._n_waiting += len(tokens)
        if self._n_waiting > len(self._n_of_id):
            self._count()

    def _count(self):
        if self._waiting:
            self._n_of_id += np.bincount(np.concatenate(self._waiting), minlength=len(self._n_of_id))
        self._waiting, self._n_waiting = [], 0

    @property
    def _n_unknown(self) -> int:
        unk = self._tokenizer.special.unk
        return 0 if unk is None else int(self._n_of_id[unk])

    @property
    def _n_known(self) -> int:
        """Visible characters of the tokens."""
        unk = self._tokenizer.special.unk
        return self._n_plain + sum(n * len(''.join(self._tokenizer.tokens[i].split()))
                                   for i, n in enumerate(self._n_of_id.tolist()) if n and i != unk)

    def check(self):
        """Raises `UserError` if less than half of the visible characters of the text are in its tokens."""
        self._count()
        if 2 * self._n_known < self._n_visible:
            examples = self._unknown()
            such_as = f', such as {", ".join(examples)}' * bool(examples)
            raise UserError(f'{1 - self._n_known / self._n_visible:.0%} of the text is '
                            f'{"[UNK] to" if self._n_unknown else "dropped by"} this tokenizer{such_as}. tokenizer=bpe '
                            f'and unigram know every text; character and grapheme, the one that they are made of')

    def messages(self) -> Iterator[str]:
        """What was lost, for people; nothing if nothing was."""
        self._count()
        n_tokens, n_unknown = self.figures()['tokens'], self._n_unknown
        n_special = int(self._n_of_id[self._tokenizer.special.all].sum()) - n_unknown
        lost = [f'{_KINDS[i]} of {n:,} characters ({_examples(self._altered[_KINDS[i]])})'
                for i, n in enumerate(self._counts.tolist()) if i and n]
        if lost:
            yield f'The tokenizer does not keep {", ".join(lost)}'
        if n_special:
            yield f'{n_special:,} of {n_tokens:,} tokens are special ones, because the text has their names in it'
        if n_unknown:
            such_as = ', '.join(self._unknown())
            yield f'{n_unknown:,} of {n_tokens:,} tokens ({n_unknown / n_tokens:.2%}) are [UNK]' \
                + f', such as {such_as}' * bool(such_as)
        n_lost = self._n_visible - self._n_known
        is_as_it_was = self._normalize(self._beginning) == self._beginning
        if is_as_it_was and not n_unknown and n_lost > self._n_visible / 1000:
            yield f'{n_lost:,} of {self._n_visible:,} visible characters are in no token'

    def figures(self) -> dict[str, Any]:
        """The same in numbers: tokens, those that are `[UNK]`, and characters that are altered, by what is altered."""
        self._count()
        return {'tokens': self._n_plain + int(self._n_of_id.sum()), 'unknown': self._n_unknown,
                'altered': {_KINDS[i]: n for i, n in enumerate(self._counts.tolist()) if i and n}}

    def _unknown(self) -> list[str]:
        """The first unknown parts of the text, if they come early."""
        return [_shown(part) for part in self._tokenizer.unknown(self._beginning)[:_N_EXAMPLES]]


def _is_same(text: str, other: str) -> bool:
    return text == other or unicodedata.normalize('NFC', text) == unicodedata.normalize('NFC', other)


def _kind(character: str, becomes: str) -> str:
    if unicodedata.category(character) in ('Cf', 'Cc', 'Zl', 'Zp'):
        return 'invisible characters'
    if _is_same(becomes, character.lower()):
        return 'case'
    decomposed = unicodedata.normalize('NFD', character).lower()
    if becomes.lower() == ''.join(c for c in decomposed if not unicodedata.category(c).startswith('M')):
        return 'marks'
    if becomes.lower() == unicodedata.normalize('NFKC', character).lower():
        return 'width or form'
    return 'others'


def _examples(altered: dict[str, str]) -> str:
    first = [f'{_shown(character)} → {_shown(becomes)}' if becomes else f'{_shown(character)} is dropped'
             for character, becomes in list(altered.items())[:_N_EXAMPLES]]
    return ', '.join(first) + ', …' * (len(altered) > _N_EXAMPLES)


def _shown(text: str) -> str:
    """A part of a text, for a line on the screen."""
    if len(text) > 20:
        return f'{text[:20]}… of {len(text):,} characters'
    if all(c.isprintable() and not unicodedata.category(c).startswith(('C', 'M')) for c in text):
        return text
    return ' '.join(f'U+{ord(c):04X}' for c in text)
