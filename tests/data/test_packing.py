import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo


def packs(lengths, seq_len):
    """Tokens are their places in the text, from 1 on; padding is 0."""
    ends = np.cumsum(lengths, dtype=np.int64)
    n = int(ends[-1]) if len(ends) else 0
    return PackedDocuments(np.arange(1, n + 1, dtype=np.int32), ends, seq_len=seq_len, padding_token=0)


def parts(batch):
    """The tokens of each part of each window, `(column, number in the window, tokens)`."""
    for column in range(batch.tokens.shape[1]):
        tokens, document = batch.tokens[:, column], batch.document_ids[:, column]
        for number in range(1, int(document.max()) + 1):
            yield column, number, tokens[document == number].tolist()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 5))
def test_every_token_once_and_no_part_of_two_documents(lengths, seq_len, batch_size):
    if not sum(lengths):
        return
    windows = packs(lengths, seq_len)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    seen = []
    for batch in ValidLoader(windows, batch_size=batch_size):
        assert torch.equal(batch.padding_mask, batch.tokens == 0) and torch.equal(batch.padding_mask, batch.document_ids == 0)
        for _, number, tokens in parts(batch):
            assert tokens, number
            assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
            assert len({document_of[token - 1] for token in tokens}) == 1
            seen += tokens
    assert sorted(seen) == list(range(1, sum(lengths) + 1))


@given(st.lists(st.integers(1, 11), max_size=40))
def test_tails_are_packed_well(lengths):
    """Of two windows at least one is more than half full, as a tail would have gone there; so best fit at its worst."""
    windows = packs(lengths, 12)
    if lengths:
        batch = windows.batch(np.arange(len(windows)))
        full = (~batch.padding_mask).sum(0)
        assert (full * 2 <= 12).sum() <= 1
    assert len(windows) <= -(-sum(lengths) * 2 // 12) + 1


def test_texts_of_any_lengths_leave_next_to_nothing_empty():
    windows = packs(np.random.default_rng(0).integers(1, 400, 5000), 128)
    assert sum(batch.n_tokens for batch in ValidLoader(windows, batch_size=64)) / (len(windows) * 128) > 0.99


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 4), st.data())
def test_an_epoch_has_every_token_across_resume_and_ranks(lengths, seq_len, batch_size, data):
    windows = packs(lengths, seq_len)
    size = data.draw(st.integers(1, 3))
    batch_size *= size
    if len(windows) < batch_size:
        return
    short = data.draw(st.sampled_from([n for n in range(1, seq_len + 1) if seq_len % n == 0]))
    arguments = {'batch_size': batch_size, 'seed': 3, 'seq_len_at': lambda epochs: short,
                 'is_token_budget_constant': data.draw(st.booleans())}
    epoch, place = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(windows)))
    seen = [[], []]
    for rank in range(size):
        loader = TrainLoader(windows, ranks=Ranks(RankInfo(rank, size, rank, None)), **arguments)
        for i, begin in enumerate((0, place)):
            seen[i] += [batch.tokens[batch.tokens > 0].tolist() for batch in loader.batches(epoch, begin)]
    whole, rest = (sorted(token for tokens in batches for token in tokens) for batches in seen)
    assert len(whole) == len(set(whole)) and set(rest) <= set(whole)
    if arguments['is_token_budget_constant']:
        assert len(whole) == sum(lengths)


@given(st.lists(st.integers(0, 20), min_size=9, max_size=30), st.integers(1, 8), st.integers(2, 3), st.data())
def test_ranks_know_the_tokens_of_the_whole_batch(lengths, seq_len, size, data):
    windows = packs(lengths, seq_len)
    if len(windows) < 2 * size:
        return
    short = data.draw(st.sampled_from([n for n in range(1, seq_len + 1) if seq_len % n == 0]))
    arguments = {'batch_size': 2 * size, 'seed': 3, 'seq_len_at': lambda epochs: short,
                 'is_token_budget_constant': data.draw(st.booleans())}
    alone = list(TrainLoader(windows, **arguments).batches(0))
    for rank in range(size):
        shared = TrainLoader(windows, ranks=Ranks(RankInfo(rank, size, rank, None)), **arguments).batches(0)
        for batch, part in zip(alone, shared, strict=True):
            assert (part.n_tokens, part.n_positions) == (batch.n_tokens, batch.n_positions)
            first, n = part.columns.first, part.tokens.shape[1]
            for name in ('tokens', 'padding_mask', 'document'):
                assert torch.equal(getattr(part, name), getattr(batch, name)[:, first:first + n])


def test_ends_that_are_not_those_of_the_text():
    for ends in ([], [3], [2, 5]):
        with pytest.raises(UserError, match='tokens of your own need ends of their own'):
            PackedDocuments(torch.arange(4), torch.tensor(ends, dtype=torch.int64), seq_len=2, padding_token=0)
