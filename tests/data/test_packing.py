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


def pack(lengths, seq_len):
    """Documents whose tokens are their 1-based positions in the text; padding is 0."""
    ends = np.cumsum(lengths, dtype=np.int64)
    n = int(ends[-1]) if len(ends) else 0
    return PackedDocuments(np.arange(1, n + 1, dtype=np.int32), ends, seq_len=seq_len, padding_token=0)


def documents_of(batch):
    """The tokens of each document (or part of one) in each window."""
    for tokens, document_ids in zip(batch.tokens.T, batch.document_ids.T, strict=True):
        for number in range(1, int(document_ids.max()) + 1):
            yield tokens[document_ids == number].tolist()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 5))
def test_every_token_is_packed_once_and_documents_are_kept_apart(lengths, seq_len, batch_size):
    if not sum(lengths):
        return
    windows = pack(lengths, seq_len)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    seen = []
    for batch in ValidLoader(windows, batch_size=batch_size):
        assert torch.equal(batch.padding_mask, batch.tokens == 0)
        assert torch.equal(batch.padding_mask, batch.document_ids == 0)
        for tokens in documents_of(batch):
            assert tokens
            assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))
            assert len({document_of[token - 1] for token in tokens}) == 1
            seen += tokens
    assert sorted(seen) == list(range(1, sum(lengths) + 1))


@given(st.lists(st.integers(1, 11), max_size=40))
def test_at_most_one_window_is_half_empty(lengths):
    """The tail in a second one would have been put into the first: the worst case of best fit."""
    windows = pack(lengths, 12)
    if lengths:
        batch = windows.batch(np.arange(len(windows)))
        n_tokens = (~batch.padding_mask).sum(0)
        assert (n_tokens * 2 <= 12).sum() <= 1
    assert len(windows) <= -(-sum(lengths) * 2 // 12) + 1


def test_documents_of_random_lengths_leave_less_than_a_percent_of_padding():
    windows = pack(np.random.default_rng(0).integers(1, 400, 5000), 128)
    assert sum(batch.n_tokens for batch in ValidLoader(windows, batch_size=64)) / (len(windows) * 128) > 0.99


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 4), st.data())
def test_an_epoch_has_every_token_once_across_ranks_and_resumes(lengths, seq_len, batch_size, data):
    windows = pack(lengths, seq_len)
    world_size = data.draw(st.integers(1, 3))
    batch_size *= world_size
    if len(windows) < batch_size:
        return
    short = data.draw(st.sampled_from([n for n in range(1, seq_len + 1) if seq_len % n == 0]))
    arguments = {'batch_size': batch_size, 'seed': 3, 'seq_len_at': lambda epochs: short,
                 'is_token_budget_constant': data.draw(st.booleans())}
    epoch, n_windows = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(windows)))
    seen = [[], []]
    for rank in range(world_size):
        loader = TrainLoader(windows, ranks=Ranks(RankInfo(rank, world_size, rank, None)), **arguments)
        for i, begin in enumerate((0, n_windows)):
            seen[i] += [batch.tokens[batch.tokens > 0].tolist() for batch in loader.batches(epoch, begin)]
    epoch_tokens, resumed_tokens = (sorted(token for tokens in batches for token in tokens) for batches in seen)
    assert len(epoch_tokens) == len(set(epoch_tokens)) and set(resumed_tokens) <= set(epoch_tokens)
    if arguments['is_token_budget_constant']:
        assert len(epoch_tokens) == sum(lengths)


@given(st.lists(st.integers(0, 20), min_size=9, max_size=30), st.integers(1, 8), st.integers(2, 3), st.data())
def test_ranks_know_the_number_of_tokens_of_the_global_batch(lengths, seq_len, world_size, data):
    windows = pack(lengths, seq_len)
    if len(windows) < 2 * world_size:
        return
    short = data.draw(st.sampled_from([n for n in range(1, seq_len + 1) if seq_len % n == 0]))
    arguments = {'batch_size': 2 * world_size, 'seed': 3, 'seq_len_at': lambda epochs: short,
                 'is_token_budget_constant': data.draw(st.booleans())}
    batches = list(TrainLoader(windows, **arguments).batches(0))
    for rank in range(world_size):
        ranks = Ranks(RankInfo(rank, world_size, rank, None))
        for batch, shard in zip(batches, TrainLoader(windows, ranks=ranks, **arguments).batches(0), strict=True):
            assert (shard.n_tokens, shard.n_positions) == (batch.n_tokens, batch.n_positions)
            first, n = shard.columns.first, shard.tokens.shape[1]
            for name in ('tokens', 'padding_mask', 'document_ids'):
                assert torch.equal(getattr(shard, name), getattr(batch, name)[:, first:first + n])


@pytest.mark.parametrize('ends', [[], [3], [2, 5]])
def test_document_ends_must_match_the_text(ends):
    with pytest.raises(UserError, match='tokens of your own need document ends of their own'):
        PackedDocuments(torch.arange(4), torch.tensor(ends, dtype=torch.int64), seq_len=2, padding_token=0)
