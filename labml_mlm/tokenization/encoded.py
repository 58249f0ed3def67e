"""Token ids of many documents."""
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from labml_mlm.data.blocks import Block, pieces_of


class Encoded(NamedTuple):
    """Token ids, `[n]`, that follow each other, and where in them documents end, `[n_ends]`, sorted."""
    tokens: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_texts(cls, tokens: np.ndarray, lengths: Sequence[int], *, is_last: bool | Sequence[bool]) -> 'Encoded':
        """Of texts with these `lengths` in tokens; `is_last` says which of them end a document."""
        ends = np.cumsum(np.array(lengths, np.int64))
        return cls(tokens, ends[np.broadcast_to(is_last, ends.shape)])

    def with_separators(self, separator: int) -> 'Encoded':
        """The same with a token after each document, which is part of it."""
        return Encoded(np.insert(self.tokens, self.ends, separator), self.ends + np.arange(1, len(self.ends) + 1))

    def documents(self) -> Iterator[tuple[np.ndarray, bool]]:
        """Token ids of each document, and whether they are its last."""
        begin = 0
        for end in self.ends.tolist():
            yield self.tokens[begin:end], True
            begin = end
        if begin < len(self.tokens):
            yield self.tokens[begin:], False


def encode_blocks(tokenizer: Any, blocks: Iterable[Block]) -> Iterator[Encoded]:
    """
    Tokens of documents that come in blocks, by `tokenizer.encode_blocks`; by `encode_documents`, if there is nothing
    else, or if a class has changed that alone.
    """
    first = next((name for class_ in type(tokenizer).__mro__ for name in ('encode_blocks', 'encode_documents')
                  if name in vars(class_)), None)
    if first == 'encode_blocks':
        yield from tokenizer.encode_blocks(blocks)
        return
    for tokens, is_last in tokenizer.encode_documents(pieces_of(blocks)):
        yield Encoded.of_texts(tokens, [len(tokens)], is_last=is_last)
