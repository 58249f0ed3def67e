import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.packing import PackedDocuments, Windows
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo


def train_loader(n, seq_len, batch_size, seed=0):
    return TrainLoader(Windows(torch.arange(n, dtype=torch.int32), seq_len=seq_len), batch_size=batch_size, seed=seed)


@given(seq_len=st.integers(1, 12), batch_size=st.integers(1, 6), extra=st.integers(0, 200), seed=st.integers(0, 999))
def test_an_epoch_has_every_window_once(seq_len, batch_size, extra, seed):
    n = seq_len * batch_size + extra
    loader = train_loader(n, seq_len, batch_size, seed)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(batch.dtype == torch.long and batch.shape[0] == seq_len for batch in batches)
    assert [batch.shape[1] for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    windows = torch.cat(batches, dim=1)
    # Windows are contiguous on the ring, no token comes twice, and less than one window is left out
    assert ((windows - windows[:1]) % n == torch.arange(seq_len)[:, None]).all()
    assert windows.unique().numel() == windows.numel() == n // seq_len * seq_len


def test_epochs_differ_and_the_seed_determines_them():
    loader, twin, other = train_loader(1000, 8, 4), train_loader(1000, 8, 4), train_loader(1000, 8, 4, seed=1)
    epochs = [torch.cat(list(loader), 1) for _ in range(4)]
    assert len({tuple(epoch[0].tolist()) for epoch in epochs}) == 4
    # Not only in order: the offset differs, too
    assert len({tuple(epoch[0].sort()[0].tolist()) for epoch in epochs}) > 1
    for epoch in epochs:
        assert torch.equal(epoch, torch.cat(list(twin), 1))
    # Another seed is not the same sequence of epochs, shifted
    assert not any(torch.equal(epoch, torch.cat(list(other), 1)) for epoch in epochs[1:])


@given(seq_len=st.integers(1, 9), batch_size=st.integers(1, 6), extra=st.integers(0, 99), data=st.data())
def test_an_epoch_can_be_resumed_at_any_window(seq_len, batch_size, extra, data):
    n = seq_len * batch_size + extra
    loader = train_loader(n, seq_len, batch_size)
    epoch = data.draw(st.integers(0, 5))
    all_windows = torch.cat(list(loader.batches(epoch)), 1)
    n_windows = data.draw(st.integers(0, n // seq_len))
    # With another batch size, too
    other = train_loader(n, seq_len, data.draw(st.integers(1, n // seq_len)))
    for resumed in (loader, other):
        rest = list(resumed.batches(epoch, n_windows))
        assert len(rest) == resumed.batches_after(n_windows)
        assert torch.equal(torch.cat([all_windows[:, :n_windows], *rest], 1), all_windows)


@given(seq_len=st.integers(1, 9), batch_size=st.integers(1, 4), extra=st.integers(0, 99), world_size=st.integers(2, 4),
       data=st.data())
def test_each_rank_gets_its_columns_of_each_batch(seq_len, batch_size, extra, world_size, data):
    """For any world size, after a resume, and with shorter sequences."""
    batch_size *= world_size
    windows = Windows(torch.arange(seq_len * batch_size + extra), seq_len=seq_len)
    short = data.draw(st.sampled_from([n for n in range(1, seq_len + 1) if seq_len % n == 0]))
    arguments = {'batch_size': batch_size, 'seed': 2, 'seq_len_at': lambda epochs: short,
                 'is_token_budget_constant': data.draw(st.booleans())}
    epoch, n_windows = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(windows)))
    batches = list(TrainLoader(windows, **arguments).batches(epoch, n_windows))
    loaders = [TrainLoader(windows, ranks=Ranks(RankInfo(rank, world_size, rank, None)), **arguments)
               for rank in range(world_size)]
    by_rank = [list(loader.batches(epoch, n_windows)) for loader in loaders]
    assert {len(shards) for shards in by_rank} == {len(batches)}
    for batch, *shards in zip(batches, *by_rank, strict=True):
        assert torch.equal(torch.cat([shard.tokens for shard in shards], 1), batch)
        for shard in shards:
            first, total = shard.columns
            assert total == batch.shape[1]
            assert torch.equal(batch[:, first:first + shard.tokens.shape[1]], shard.tokens)
            assert shard.n_tokens == shard.n_positions == batch.numel()
        # Nearly the same number of columns each
        n_columns = [shard.tokens.shape[1] for shard in shards]
        assert max(n_columns) - min(n_columns) <= (seq_len // short if arguments['is_token_budget_constant'] else 1)


def test_a_batch_of_any_loader_is_sharded_once():
    tokens = torch.arange(12).view(3, 4)
    batch = Batch(tokens, tokens > 9)
    assert batch.shard(Ranks()) is batch
    shards = [batch.shard(Ranks(RankInfo(rank, 3, rank, None))) for rank in range(3)]
    assert [shard.columns for shard in shards] == [(0, 4), (1, 4), (2, 4)]
    assert torch.equal(torch.cat([shard.tokens for shard in shards], 1), tokens)
    assert torch.equal(torch.cat([shard.padding_mask for shard in shards], 1), batch.padding_mask)
    assert [shard.n_tokens for shard in shards] == [10] * 3 and [shard.n_positions for shard in shards] == [12] * 3
    # A shard is not sharded again
    assert shards[1].shard(Ranks(RankInfo(1, 3, 1, None))) is shards[1]


def test_batch_size_must_be_a_multiple_of_the_world_size():
    windows = Windows(torch.arange(100), seq_len=2)
    with pytest.raises(UserError, match='batch_size=7 is that of all 3 ranks together.* a multiple of 3'):
        TrainLoader(windows, batch_size=7, seed=0, ranks=Ranks(RankInfo(0, 3, 0, None)))


@given(n_parts=st.integers(1, 4), short=st.integers(1, 4), batch_size=st.integers(1, 4), extra=st.integers(0, 99),
       data=st.data())
def test_shorter_sequences_are_parts_of_the_same_windows(n_parts, short, batch_size, extra, data):
    seq_len = short * n_parts
    windows = Windows(torch.arange(seq_len * batch_size + extra), seq_len=seq_len)
    change = data.draw(st.floats(0, 2))

    def seq_len_at(epochs):
        return short if epochs < change else seq_len

    full, split, truncated = (
        TrainLoader(windows, batch_size=batch_size, seed=2, **options) for options in
        ({}, {'seq_len_at': seq_len_at}, {'seq_len_at': seq_len_at, 'is_token_budget_constant': False}))
    n_windows = data.draw(st.integers(0, len(windows)))
    assert len(full) == len(split) == len(truncated)
    for epoch in range(2):
        done = n_windows
        batches = [list(loader.batches(epoch, n_windows)) for loader in (full, split, truncated)]
        for a, b, c in zip(*batches, strict=True):
            length = seq_len_at(epoch + done / len(windows))
            n = seq_len // length
            assert b.shape == (length, a.shape[1] * n) and c.shape == (length, a.shape[1])
            # Column by column
            assert [b.T[i * n:(i + 1) * n].flatten().tolist() for i in range(a.shape[1])] == a.T.tolist()
            assert torch.equal(c, a[:length])
            done += batch_size


def test_packed_documents_are_split_with_padding_mask_and_document_ids():
    windows = PackedDocuments(torch.arange(1, 8), [3, 5, 7], seq_len=4, padding_token=0)
    loader = TrainLoader(windows, batch_size=2, seed=0, seq_len_at=lambda epochs: 2)
    [[tokens, padding_mask, document_ids, *_]] = list(loader)
    [[full_tokens, _, full_ids, *_]] = list(TrainLoader(windows, batch_size=2, seed=0))
    assert tokens.shape == padding_mask.shape == document_ids.shape == (2, 4)
    assert torch.equal(padding_mask, tokens == 0)
    for split, full in ((tokens, full_tokens), (document_ids, full_ids)):
        assert torch.equal(split.T, full.T.reshape(4, 2))


def test_every_token_comes_at_every_position():
    loader = train_loader(20, 4, 2)
    seen = torch.zeros(20, 4, dtype=torch.bool)
    for _ in range(200):
        for batch in loader:
            for position in range(4):
                seen[batch[position], position] = True
    assert seen.all()


@given(seq_len=st.integers(1, 12), batch_size=st.integers(1, 6), extra=st.integers(0, 99))
def test_validation_loader_gives_all_windows_in_order(seq_len, batch_size, extra):
    n = seq_len + extra
    loader = ValidLoader(Windows(torch.arange(n), seq_len=seq_len), batch_size=batch_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert torch.cat(batches, dim=1).T.flatten().tolist() == list(range(n // seq_len * seq_len))
    assert all(torch.equal(a, b) for a, b in zip(batches, loader, strict=True))


def test_too_short_texts_are_refused():
    with pytest.raises(UserError, match='it has 3 windows of seq_len=8 to train on, and one batch is batch_size=4'):
        train_loader(31, 8, 4)
    with pytest.raises(UserError, match='the validation set is empty'):
        ValidLoader(Windows(torch.arange(7), seq_len=8), batch_size=4)
