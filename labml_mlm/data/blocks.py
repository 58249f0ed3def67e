"""
# Documents, many at once

What is done for each document costs some microseconds in Python, so texts of millions of short ones go through reading
and tokenization in blocks.
"""
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

# A piece of a document, and whether it is the last one
Piece = tuple[str, bool]

# Characters that short documents are gathered to
_GATHERED = 1 << 18


class Block(NamedTuple):
    """
    Texts that follow each other. If `is_last`, each ends a document, and the first one may have begun in a block
    before; otherwise there is one text, a piece of a document that goes on.
    """
    texts: list[str]
    is_last: bool = True


def blocks_of(documents: Any) -> Iterator[Block]:
    """The blocks of documents; of pieces, if they have no `blocks`."""
    return documents.blocks() if hasattr(documents, 'blocks') else gathered(Block([text], is_last)
                                                                            for text, is_last in documents)


def pieces_of(blocks: Iterable[Block]) -> Iterator[Piece]:
    """The same texts, one by one."""
    for texts, is_last in blocks:
        for text in texts:
            yield text, is_last


def gathered(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same texts in the same order, short ones in blocks of many."""
    texts: list[str] = []
    size = 0
    for block in blocks:
        if block.is_last and len(block.texts) == 1:
            texts += block.texts
            size += len(block.texts[0])
            if size < _GATHERED:
                continue
            block = None
        if texts:
            yield Block(texts)
            texts, size = [], 0
        if block is not None:
            yield block
    if texts:
        yield Block(texts)
