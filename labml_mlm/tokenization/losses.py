"""
# What a tokenizer does not keep of a text

Most published tokenizers normalise: they lower-case, strip marks, or drop characters that are not seen. What a model is
trained on is not what was written then: Hindi and Vietnamese without marks are other words, and Persian without its
joiners is misspelt. And what is not in the vocabulary becomes `[UNK]`. So while the tokens of a text are made, both are
counted.
"""
import unicodedata
from collections.abc import Iterator

import numpy as np

from labml_mlm.common.errors import UserError
from labml_mlm.data.corpus import Corpus, code_points
from labml_mlm.data.documents import Piece
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
        self._corpus = corpus
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
        self._n_tokens = self._n_unknown = self._n_special = self._n_known = self._n_visible = 0
        special = {*tokenizer.special.all} - {tokenizer.special.unk}
        self._is_special = np.isin(np.arange(tokenizer.n_tokens), [*special])
        # Visible characters of each token
        self._lengths = np.array([len(''.join(token.split())) for token in tokenizer.tokens])
        if tokenizer.special.unk is not None:
            self._lengths[tokenizer.special.unk] = 0
        self._beginning = ''

    def of_text(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The same pieces; what their normalisation loses is counted."""
        for piece in pieces:
            self._beginning = self._beginning or piece[0][:1 << 14]
            # Other white space is rare
            self._n_visible += len(piece[0]) - sum(map(piece[0].count, ' \n\t\r'))
            if self._altered:
                self._counts += np.bincount(self._kind_of[code_points(piece[0])], minlength=len(_KINDS))
            yield piece

    def add_tokens(self, tokens: np.ndarray):
        """Counts unknown and special ones among the token ids of the text, `[n]`."""
        self._n_tokens += len(tokens)
        self._n_special += int(np.count_nonzero(self._is_special[tokens]))
        if self._tokenizer.special.unk is not None:
            self._n_unknown += int(np.count_nonzero(tokens == self._tokenizer.special.unk))
            self._n_known += int(self._lengths[tokens].sum())

    def check(self):
        """Raises `UserError` if less than half of the visible characters of the text are in its tokens."""
        if 2 * self._n_known < self._n_visible:
            examples = self._unknown()
            such_as = f', such as {", ".join(examples)}' * bool(examples)
            raise UserError(f'{1 - self._n_known / self._n_visible:.0%} of the text is '
                            f'{"[UNK] to" if self._n_unknown else "dropped by"} this tokenizer{such_as}. tokenizer=bpe '
                            f'and unigram know every text; character and grapheme, the one that they are made of')

    def messages(self) -> Iterator[str]:
        """What was lost, for people; nothing if nothing was."""
        lost = [f'{_KINDS[i]} of {n:,} characters ({_examples(self._altered[_KINDS[i]])})'
                for i, n in enumerate(self._counts.tolist()) if i and n]
        if lost:
            yield f'The tokenizer does not keep {", ".join(lost)}'
        if self._n_special:
            yield (f'{self._n_special:,} of {self._n_tokens:,} tokens are special ones, because the text has their '
                   f'names in it')
        if self._n_unknown:
            such_as = ', '.join(self._unknown())
            yield (f'{self._n_unknown:,} of {self._n_tokens:,} tokens ({self._n_unknown / self._n_tokens:.2%}) are '
                   f'[UNK]' + f', such as {such_as}' * bool(such_as))

        n_lost = self._n_visible - self._n_known
        is_as_it_was = self._normalize(self._beginning) == self._beginning
        if is_as_it_was and not self._n_unknown and n_lost > self._n_visible / 1000:
            yield f'{n_lost:,} of {self._n_visible:,} visible characters are in no token'

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
