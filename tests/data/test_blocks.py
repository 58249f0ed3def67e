import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.data import blocks
from labml_mlm.data.blocks import Block, blocks_of, gathered, pieces_of
from labml_mlm.data.chunks import split_blocks, split_chunks
from labml_mlm.data.corpus import scan

# Documents in pieces
pieces = st.lists(st.lists(st.text(max_size=9), min_size=1, max_size=3), max_size=9).map(
    lambda documents: [(piece, i == len(document) - 1) for document in documents for i, piece in enumerate(document)])


class Pieces:
    """Documents that are not in blocks."""

    def __init__(self, found):
        self.found = found

    def __iter__(self):
        return iter(self.found)


@pytest.mark.parametrize('size', [1, 12, 1 << 18])
@given(pieces)
def test_blocks_have_the_same_pieces(size, found):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, '_GATHERED', size)
        in_blocks = list(blocks_of(Pieces(found)))
    assert list(pieces_of(in_blocks)) == found
    assert all(len(block.texts) == 1 or block.is_last for block in in_blocks)
    # Short documents that follow each other are together
    if size > 200:
        assert not any(a.is_last and b.is_last for a, b in zip(in_blocks, in_blocks[1:], strict=False))


def test_blocks_that_are_gathered_stay_so():
    given = [Block(['a']), Block(['b', 'c']), Block(['d'], False), Block(['e']), Block(['f'])]
    assert list(gathered(given)) == [Block(['a']), Block(['b', 'c']), Block(['d'], False), Block(['e', 'f'])]


@given(pieces)
def test_first_pass_finds_the_same_in_blocks(found):
    with pytest.MonkeyPatch.context() as patch:
        corpus, is_valid = scan(Pieces(found), valid_fraction=0.1)
        patch.setattr(blocks, '_GATHERED', 1)
        one_by_one, expected = scan(Pieces(found), valid_fraction=0.1)
    assert corpus == one_by_one and is_valid.tolist() == expected.tolist()


@pytest.mark.parametrize('size', [3, 1 << 14])
@given(pieces)
def test_blocks_are_cut_where_pieces_are(size, found):
    assert list(pieces_of(split_blocks(blocks_of(Pieces(found)), size))) == list(split_chunks(found, size))
