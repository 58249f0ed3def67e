"""Texts as sequences of token ids, and what had to be left out of them."""
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labml_mlm.data.batch import Template

# Parts that a message names
_MAX_NAMED = 5


class Sequences:
    """
    ## Turns texts into token ids, one at a time

    * `template` puts special tokens around each text
    * `longest` is the most tokens of a sequence, special ones included; of a longer text, its first tokens are taken

    What is not in the vocabulary becomes `[UNK]`, as in training. Both are counted, for `notes`.
    """

    def __init__(self, tokenizer: Any, *, template: Template, longest: float):
        self.tokenizer = tokenizer
        self.template = template
        self.longest = longest
        # Numbers of texts that were cut, and of those with unknown parts; and the lines of the first ones
        self.n_cut = self.n_unknown = 0
        self._first_cut = 0
        self._first_unknown = ''

    def __call__(self, text: str, *, line: int) -> Tensor | None:
        """The token ids of the text that begins in a line of its file, `[seq_len]`; `None` if it has no token."""
        ids = torch.from_numpy(self.tokenizer.encode(text).astype(np.int64))
        if not len(ids):
            return None
        if len(ids) + self.template.length > self.longest:
            ids = ids[:int(self.longest) - self.template.length]
            self.n_cut += 1
            self._first_cut = self._first_cut or line
        if (unk := self.tokenizer.special.unk) is not None and (ids == unk).any():
            self.n_unknown += 1
            if not self._first_unknown:
                parts = list(map(repr, self.tokenizer.unknown(text)))
                more = f' and {len(parts) - _MAX_NAMED:,} more' if len(parts) > _MAX_NAMED else ''
                self._first_unknown = f'in line {line:,}, {", ".join(parts[:_MAX_NAMED])}{more}'
        return self.template.around(ids)

    @property
    def notes(self) -> list[str]:
        """What was left out, in a sentence each."""
        notes = []
        if self.n_cut:
            notes.append(f'{_texts(self.n_cut, "is", "are")} longer than {int(self.longest):,} tokens, and cut: first '
                         f'in line {self._first_cut:,}')
        if self.n_unknown:
            notes.append(f'{_texts(self.n_unknown, "has", "have")} parts that are not in the vocabulary, and are '
                         f'[UNK] for the model: first {self._first_unknown}')
        return notes


def _texts(n: int, one: str, several: str) -> str:
    return f'1 text {one}' if n == 1 else f'{n:,} texts {several}'
