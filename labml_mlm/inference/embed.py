"""
# Features of any number of texts

Texts come in blocks of some thousand. Those of a block are sorted by their numbers of tokens, and each batch has
texts of about the same length, so that little is computed for padding; their features come out in the order of the
texts. So memory is that of a block, however many there are, and the nearest neighbours of a text are found without
keeping the features of more than a block.
"""
import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.inference.texts import Text
from labml_mlm.probing.sequences import Sequences

# Of a block: its texts, and their characters
_TEXTS = 1 << 12
_CHARACTERS = 1 << 22
# Beyond so many times the length that it was trained on, a model is worse
_LONG = 2


class Block(NamedTuple):
    """Some texts in a row, and the features of each, `[n_texts, d_model]` in single precision."""
    texts: list[Text]
    vectors: np.ndarray


class Neighbour(NamedTuple):
    """A text, and the cosine of the angle between its features and those of the query."""
    line: int
    text: str
    cosine: float


class Embedder:
    """
    ## Computes features of texts as a stream

    * `pooling`, `layer` and `normalize` are those of `Pretrained.encode`
    * `max_tokens` is the most tokens of a text that are taken, special ones included; by default, and at most, what
      the position embeddings of the model allow
    * `zeros_for_empty`: does a text without tokens get zeros? Otherwise it is refused, as it has no features

    Raises `UserError` if the model has no such features.
    """

    def __init__(self, pretrained: Pretrained, *, pooling: str = 'mean', layer: int = -1, normalize: bool = False,
                 max_tokens: int | None = None, zeros_for_empty: bool = False):
        pretrained.check_features(pooling=pooling, layer=layer)
        self.pretrained = pretrained
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self.zeros_for_empty = zeros_for_empty
        template = pretrained.configs._template
        longest = pretrained.model.max_seq_len if max_tokens is None else max_tokens
        if longest > pretrained.model.max_seq_len:
            raise UserError(f'max_tokens={max_tokens}: the model takes at most {pretrained.model.max_seq_len:,}')
        if longest <= template.length:
            raise UserError(f'max_tokens={max_tokens} leaves no room for text: the special tokens around each text '
                            f'take {template.length}')
        self._sequences = Sequences(pretrained.tokenizer, template=template, longest=longest)
        self.d_model = pretrained.configs.transformer.d_model
        self.n_texts = self.n_empty = 0
        self._first_empty = self._most_tokens = 0

    def __call__(self, texts: Iterable[Text]) -> Iterator[Block]:
        """
        The features of texts, in order.

        Raises `UserError`, which names the line, for a text without tokens, unless it is to have zeros.
        """
        for block in _blocks(texts):
            sequences = [self._sequences(text, line=line) for line, text in block]
            is_text = torch.tensor([sequence is not None for sequence in sequences])
            if not self.zeros_for_empty and not is_text.all():
                raise UserError(f'line {block[int(is_text.int().argmin())].line:,} is empty, and has no features: '
                                'leave it out, or use --zeros-for-empty')
            vectors = torch.zeros(len(block), self.d_model)
            vectors[is_text] = self.pretrained.features(
                [sequence for sequence in sequences if sequence is not None], pooling=self.pooling, layer=self.layer,
                normalize=self.normalize).float()
            self._count(block, sequences)
            yield Block(block, vectors.numpy())

    def _count(self, block: list[Text], sequences: list):
        self.n_texts += len(block)
        empty = [text.line for text, sequence in zip(block, sequences, strict=True) if sequence is None]
        self.n_empty += len(empty)
        self._first_empty = self._first_empty or next(iter(empty), 0)
        self._most_tokens = max(self._most_tokens, *(len(sequence) for sequence in sequences if sequence is not None),
                                0)

    def nearest(self, texts: Iterable[Text], query: str, *, top: int) -> list[Neighbour]:
        """
        The `top` texts that are nearest to `query`, the nearest first; of equally near ones, the first in the file.
        Texts without tokens are left out.

        Raises `UserError` for a query that `Pretrained.ids` refuses.
        """
        # `[1, d_model]`
        target = self.pretrained.features([self.pretrained.ids(query)], pooling=self.pooling, layer=self.layer).float()
        best: list[tuple[float, int, str]] = []
        for texts_, vectors in self(texts):
            cosines = functional.cosine_similarity(torch.from_numpy(vectors), target).tolist()
            best = heapq.nlargest(top, [*best, *((cosine, -text.line, text.text)
                                                 for text, cosine, vector in zip(texts_, cosines, vectors, strict=True)
                                                 if vector.any())])
        return [Neighbour(-line, text, cosine) for cosine, line, text in best]

    @property
    def notes(self) -> list[str]:
        """What was cut, is unknown or empty, in a sentence each."""
        notes = self._sequences.notes
        trained_on = self.pretrained.configs.seq_len
        if self._most_tokens > _LONG * trained_on:
            notes.append(f'A text has {self._most_tokens:,} tokens, and the model was trained on {trained_on:,} at a '
                         'time: its features are worse in long texts')
        if self.n_empty:
            of = '1 text is empty' if self.n_empty == 1 else f'{self.n_empty:,} texts are empty'
            notes.append(f'{of}, and without features: first in line {self._first_empty:,}')
        return notes


def _blocks(texts: Iterable[Text]) -> Iterator[list[Text]]:
    block, n_characters = [], 0
    for text in texts:
        block.append(text)
        n_characters += len(text.text)
        if len(block) == _TEXTS or n_characters >= _CHARACTERS:
            yield block
            block, n_characters = [], 0
    if block:
        yield block
