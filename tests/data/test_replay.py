import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch
from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import PackedDocuments, Windows
from labml_mlm.data.replay import MixedWindows
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo

# Tokens of the old text are from here on
OLD = 100_000


def stream(n, seq_len=4, first=0):
    return Windows(torch.arange(first, first + n), seq_len=seq_len)


def packed(lengths, seq_len=8, first=1):
    ends = np.cumsum(lengths)
    return PackedDocuments(np.arange(first, first + ends[-1]), ends, seq_len=seq_len, padding_token=0)


def loader(windows, *, rank=0, size=1, **options):
    return TrainLoader(windows, batch_size=12, seed=3, ranks=Ranks(RankInfo(rank, size, rank, None)), **options)


@given(n=st.integers(8, 400), n_old=st.integers(4, 400), fraction=st.floats(0.01, 0.9))
def test_a_fraction_of_the_windows_is_old_text(n, n_old, fraction):
    mixed = MixedWindows(stream(n), stream(n_old, first=OLD), replay_fraction=fraction)
    assert len(mixed) == n // 4 + mixed.n_replay
    if mixed.n_replay > 1:
        assert abs(mixed.n_replay / len(mixed) - fraction) <= 1 / len(mixed)
    x = mixed.batch(np.arange(len(mixed)), 0)
    assert ((x[0] >= OLD).tolist()) == [False] * (n // 4) + [True] * mixed.n_replay


@given(order=st.permutations(range(20)), offset=st.integers(0, 10 ** 6))
def test_a_batch_has_the_windows_in_the_order_asked_for(order, offset):
    main, old = stream(42), stream(55, first=OLD)
    mixed = MixedWindows(main, old, replay_fraction=0.5)
    assert (len(main), mixed.n_replay, mixed.n_offsets) == (10, 10, 42 * 13)
    offset %= mixed.n_offsets
    x = mixed.batch(np.array(order), offset)
    for column, number in enumerate(order):
        if number < 10:
            expected = main.batch(np.array([number]), offset % 42)
        else:
            expected = old.batch(np.array([(offset // 42 + number - 10) % 13]))
        assert torch.equal(x[:, column:column + 1], expected)


def test_each_epoch_reads_another_part_of_the_old_text():
    batches = loader(MixedWindows(stream(400), stream(4000, first=OLD), replay_fraction=0.2))
    parts = [{token for batch in batches.batches(epoch) for token in batch[0].tolist() if token >= OLD}
             for epoch in range(8)]
    # Without repetition in an epoch
    assert [len(part) for part in parts] == [25] * 8
    assert len(set().union(*parts)) > 100


def test_old_text_that_is_too_short_repeats_and_none_at_all_is_refused():
    mixed = MixedWindows(stream(400), stream(15, first=OLD), replay_fraction=0.2)
    tokens = mixed.batch(np.arange(100, 125), 0)[0] - OLD
    assert sorted(tokens.tolist()) == [0] * 9 + [4] * 8 + [8] * 8
    with pytest.raises(UserError, match='the text of replay_path is too short'):
        MixedWindows(stream(400), stream(3), replay_fraction=0.2)
    # Nor does old text take the place of all the new
    with pytest.raises(UserError, match='the text is too short'):
        TrainLoader(MixedWindows(stream(3), stream(15), replay_fraction=0.2), batch_size=1, seed=0)


def sources():
    yield MixedWindows(stream(403, 8), stream(150, 8, first=OLD), replay_fraction=0.3)
    lengths = [1 + i * 7 % 19 for i in range(40)]
    yield MixedWindows(packed(lengths), packed(lengths[::-1] + [4] * 9, first=OLD), replay_fraction=0.3)


def columns_of(batch):
    return batch if isinstance(batch, Batch) else Batch(batch)


@pytest.mark.parametrize('kind', [0, 1])
@pytest.mark.parametrize('options', [{}, {'seq_len_at': lambda epochs: 4}])
def test_ranks_share_the_batches_of_a_single_process(kind, options):
    mixed = list(sources())[kind]
    for epoch in range(3):
        whole = [columns_of(batch) for batch in loader(mixed, **options).batches(epoch)]
        shards = [list(loader(mixed, rank=rank, size=2, **options).batches(epoch)) for rank in range(2)]
        for batch, first, second in zip(whole, *shards, strict=True):
            assert batch.tokens.shape[1] == first.columns.total
            assert first.n_tokens == second.n_tokens == batch.n_tokens
            for name in ('tokens', 'padding_mask', 'document_ids'):
                part = getattr(batch, name)
                if part is not None:
                    assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)], 1), part)
        assert any((batch.tokens >= OLD).any() for batch in whole)
        assert any((batch.tokens < OLD).any() for batch in whole)


@pytest.mark.parametrize('kind', [0, 1])
def test_an_epoch_can_be_resumed_at_any_window(kind):
    mixed = list(sources())[kind]
    every = [columns_of(batch).tokens for batch in loader(mixed).batches(2)]
    for done in range(len(every)):
        rest = [columns_of(batch).tokens for batch in loader(mixed).batches(2, done * 12)]
        assert torch.equal(torch.cat(rest, 1), torch.cat(every[done:], 1))


def test_packed_documents_of_both_texts_stay_apart():
    mixed = list(sources())[1]
    x, padding_mask, document_ids = mixed.batch(np.arange(len(mixed)), 7)[:3]
    assert torch.equal(padding_mask, x == 0) and torch.equal(padding_mask, document_ids == 0)
    assert mixed.lengths(np.arange(len(mixed)), 7).tolist() == (x != 0).sum(0).tolist()
    # Every token of the new text, and no window of both
    is_old = (x >= OLD).any(0)
    assert is_old.tolist() == [False] * len(mixed.main) + [True] * mixed.n_replay
    assert (x[:, ~is_old] != 0).sum() == sum(1 + i * 7 % 19 for i in range(40))
