import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.data.windows import Windows
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo


def train_loader(n, seq_len, batch_size, seed=0):
    return TrainLoader(Windows(torch.arange(n, dtype=torch.int32), seq_len=seq_len), batch_size=batch_size, seed=seed)


@given(seq_len=st.integers(1, 12), batch_size=st.integers(1, 6), extra=st.integers(0, 200), seed=st.integers(0, 999))
def test_an_epoch_covers_the_text_once(seq_len, batch_size, extra, seed):
    n = seq_len * batch_size + extra
    loader = train_loader(n, seq_len, batch_size, seed)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(batch.dtype == torch.long and batch.shape[0] == seq_len for batch in batches)
    assert [batch.shape[1] for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    windows = torch.cat(batches, dim=1)
    # Windows are tokens in a row, on the ring; none comes twice, and less than one window is left out
    assert ((windows - windows[:1]) % n == torch.arange(seq_len)[:, None]).all()
    assert windows.unique().numel() == windows.numel() == n // seq_len * seq_len


def test_epochs_differ_and_a_seed_repeats_them():
    loader, twin, other = train_loader(1000, 8, 4), train_loader(1000, 8, 4), train_loader(1000, 8, 4, seed=1)
    epochs = [torch.cat(list(loader), 1) for _ in range(4)]
    assert len({tuple(epoch[0].tolist()) for epoch in epochs}) == 4
    # Not the order alone: the cuts, too
    assert len({tuple(epoch[0].sort()[0].tolist()) for epoch in epochs}) > 1
    for epoch in epochs:
        assert torch.equal(epoch, torch.cat(list(twin), 1))
    # Another seed is not the same one epoch later
    assert not any(torch.equal(epoch, torch.cat(list(other), 1)) for epoch in epochs[1:])


@given(seq_len=st.integers(1, 9), batch_size=st.integers(1, 6), extra=st.integers(0, 99), data=st.data())
def test_any_place_in_an_epoch_can_be_gone_to(seq_len, batch_size, extra, data):
    n = seq_len * batch_size + extra
    loader = train_loader(n, seq_len, batch_size)
    epoch = data.draw(st.integers(0, 5))
    whole = torch.cat(list(loader.batches(epoch)), 1)
    place = data.draw(st.integers(0, n // seq_len))
    # With another batch size, too
    other = train_loader(n, seq_len, data.draw(st.integers(1, n // seq_len)))
    for resumed in (loader, other):
        rest = list(resumed.batches(epoch, place))
        assert len(rest) == resumed.batches_after(place)
        assert torch.equal(torch.cat([whole[:, :place], *rest], 1), whole)


@given(seq_len=st.integers(1, 9), batch_size=st.integers(1, 4), extra=st.integers(0, 99), size=st.integers(2, 4),
       data=st.data())
def test_ranks_have_the_columns_of_each_batch(seq_len, batch_size, extra, size, data):
    """Whatever their number, also after a resume, and also of sequences that are cut."""
    batch_size *= size
    windows = Windows(torch.arange(seq_len * batch_size + extra), seq_len=seq_len)
    short = data.draw(st.sampled_from([n for n in range(1, seq_len + 1) if seq_len % n == 0]))
    arguments = {'batch_size': batch_size, 'seed': 2, 'seq_len_at': lambda epochs: short,
                 'is_token_budget_constant': data.draw(st.booleans())}
    epoch, place = data.draw(st.integers(0, 3)), data.draw(st.integers(0, len(windows)))
    alone = list(TrainLoader(windows, **arguments).batches(epoch, place))
    shared = [list(TrainLoader(windows, ranks=Ranks(RankInfo(rank, size, rank, None)), **arguments).batches(epoch, place))
              for rank in range(size)]
    assert {len(batches) for batches in shared} == {len(alone)}
    for batch, *parts in zip(alone, *shared, strict=True):
        assert torch.equal(torch.cat([part.tokens for part in parts], 1), batch)
        for part in parts:
            first, total = part.columns
            assert total == batch.shape[1]
            assert torch.equal(batch[:, first:first + part.tokens.shape[1]], part.tokens)
            assert part.n_tokens == part.n_positions == batch.numel()
        # Nearly the same number each
        of_ranks = [part.tokens.shape[1] for part in parts]
        assert max(of_ranks) - min(of_ranks) <= (seq_len // short if arguments['is_token_budget_constant'] else 1)


def test_a_batch_of_any_loader_is_shared():
    tokens = torch.arange(12).view(3, 4)
    whole = Batch(tokens, tokens > 9)
    assert whole.shard(Ranks()) is whole
    parts = [whole.shard(Ranks(RankInfo(rank, 3, rank, None))) for rank in range(3)]
    assert [part.columns for part in parts] == [(0, 4), (1, 4), (2, 4)]
    assert torch.equal(torch.cat([part.tokens for part in parts], 1), tokens)
    assert torch.equal(torch.cat([part.padding_mask for part in parts], 1), whole.padding_mask)
    assert [part.n_tokens for part in parts] == [10] * 3 and [part.n_positions for part in parts] == [12] * 3
    # It is not shared a second time
    assert parts[1].shard(Ranks(RankInfo(1, 3, 1, None))) is parts[1]


def test_a_batch_that_cannot_be_shared():
    windows = Windows(torch.arange(100), seq_len=2)
    with pytest.raises(UserError, match='batch_size=7 is that of all 3 ranks together.* a multiple of 3'):
        TrainLoader(windows, batch_size=7, seed=0, ranks=Ranks(RankInfo(0, 3, 0, None)))


@given(pieces=st.integers(1, 4), short=st.integers(1, 4), batch_size=st.integers(1, 4), extra=st.integers(0, 99),
       data=st.data())
def test_shorter_sequences_are_the_same_windows_cut(pieces, short, batch_size, extra, data):
    seq_len = short * pieces
    windows = Windows(torch.arange(seq_len * batch_size + extra), seq_len=seq_len)
    change = data.draw(st.floats(0, 2))

    def seq_len_at(epochs):
        return short if epochs < change else seq_len

    whole, cut, first = (TrainLoader(windows, batch_size=batch_size, seed=2, **options) for options in
                         ({}, {'seq_len_at': seq_len_at}, {'seq_len_at': seq_len_at, 'is_token_budget_constant': False}))
    place = data.draw(st.integers(0, len(windows)))
    assert len(whole) == len(cut) == len(first)
    for epoch in range(2):
        done = place
        batches = [list(loader.batches(epoch, place)) for loader in (whole, cut, first)]
        for a, b, c in zip(*batches, strict=True):
            length = seq_len_at(epoch + done / len(windows))
            n = seq_len // length
            assert b.shape == (length, a.shape[1] * n) and c.shape == (length, a.shape[1])
            # Column by column
            assert [b.T[i * n:(i + 1) * n].flatten().tolist() for i in range(a.shape[1])] == a.T.tolist()
            assert torch.equal(c, a[:length])
            done += batch_size


def test_packed_documents_are_cut_with_all_that_is_told_of_them():
    packs = PackedDocuments(torch.arange(1, 8), [3, 5, 7], seq_len=4, padding_token=0)
    loader = TrainLoader(packs, batch_size=2, seed=0, seq_len_at=lambda epochs: 2)
    [[tokens, padding_mask, document, *_]] = list(loader)
    [[whole, _, whole_document, *_]] = list(TrainLoader(packs, batch_size=2, seed=0))
    assert tokens.shape == padding_mask.shape == document.shape == (2, 4)
    assert torch.equal(padding_mask, tokens == 0)
    for cut, of_whole in ((tokens, whole), (document, whole_document)):
        assert torch.equal(cut.T, of_whole.T.reshape(4, 2))


def test_every_token_comes_at_every_position():
    loader = train_loader(20, 4, 2)
    seen = torch.zeros(20, 4, dtype=torch.bool)
    for _ in range(200):
        for batch in loader:
            for position in range(4):
                seen[batch[position], position] = True
    assert seen.all()


@given(seq_len=st.integers(1, 12), batch_size=st.integers(1, 6), extra=st.integers(0, 99))
def test_validation_is_all_windows_in_order(seq_len, batch_size, extra):
    n = seq_len + extra
    loader = ValidLoader(Windows(torch.arange(n), seq_len=seq_len), batch_size=batch_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert torch.cat(batches, dim=1).T.flatten().tolist() == list(range(n // seq_len * seq_len))
    assert all(torch.equal(a, b) for a, b in zip(batches, loader, strict=True))


def test_too_short():
    with pytest.raises(UserError, match='it has 3 windows of seq_len=8 to train on, and one batch is batch_size=4'):
        train_loader(31, 8, 4)
    with pytest.raises(UserError, match='nothing to validate on'):
        ValidLoader(Windows(torch.arange(7), seq_len=8), batch_size=4)
