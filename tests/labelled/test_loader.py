from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.loader import TrainLoader
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo
from labml_mlm.labelled.examples import Examples
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.loader import LabelledLoader
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.tokenization.character import CharacterTokenizer

CHARACTERS = CharacterTokenizer.from_characters('ab')
PARTS = 'tokens', 'padding_mask', 'labels'


def examples(n, longest=40):
    """Texts of different lengths, each with its own number as a label."""
    lengths = np.random.default_rng(n).integers(1, longest, n)
    rows = Rows([Row('a' * length, i, None, i + 1) for i, length in enumerate(lengths)], 0, Path('a.csv'))
    return Examples.of_rows(rows, CHARACTERS, max_len=64, template=CHARACTERS.template, labels=LabelSet('number'))


def numbers(batches):
    return [batch.labels[0].int().tolist() for batch in batches]


@given(n=st.integers(1, 90), batch_size=st.integers(1, 12), seed=st.integers(0, 99))
def test_an_epoch_has_every_row_once_and_the_smaller_batch_last(n, batch_size, seed):
    loader = LabelledLoader(examples(n), batch_size=batch_size, seed=seed)
    for _ in range(2):
        found = numbers(loader)
        assert sorted(sum(found, [])) == list(range(n)) and len(found) == len(loader)
        assert all(len(batch) == batch_size for batch in found[:-1])


def test_epochs_differ_and_the_seed_determines_them():
    loader, twin, other = (LabelledLoader(examples(400), batch_size=8, seed=seed) for seed in (3, 3, 4))
    epochs, again = [numbers(loader) for _ in range(3)], [numbers(twin) for _ in range(3)]
    assert epochs == again and numbers(other) not in epochs
    # Not only batches are in another order: they have other rows
    assert not {frozenset(batch) for batch in epochs[0]} & {frozenset(batch) for batch in epochs[1]}


@given(n=st.integers(1, 90), batch_size=st.integers(1, 12), data=st.data())
def test_an_epoch_can_be_resumed_after_any_batch(n, batch_size, data):
    found = examples(n)
    loader = LabelledLoader(found, batch_size=batch_size, seed=1)
    epoch = data.draw(st.integers(0, 3))
    whole = list(loader.batches(epoch))
    done = data.draw(st.integers(0, len(whole)))
    rest = list(LabelledLoader(found, batch_size=batch_size, seed=1).batches(epoch, min(done * batch_size, n)))
    assert len(rest) == loader.batches_after(min(done * batch_size, n)) == len(whole) - done
    for one, other in zip(whole[done:], rest, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in PARTS)


@given(n=st.integers(2, 60), per_rank=st.integers(1, 5), world_size=st.integers(1, 2))
def test_ranks_share_the_batches_of_one(n, per_rank, world_size):
    found = examples(n)
    alone = list(LabelledLoader(found, batch_size=2 * per_rank, seed=0))
    by_rank = [list(LabelledLoader(found, batch_size=2 * per_rank, seed=0,
                                   ranks=Ranks(RankInfo(rank, world_size, rank, None)))) for rank in range(world_size)]
    for i, whole in enumerate(alone):
        shares = [batches[i] for batches in by_rank]
        for name in PARTS:
            assert torch.equal(torch.cat([getattr(share, name) for share in shares], 1), getattr(whole, name))
        for share in shares:
            assert (share.n_tokens, share.n_special_tokens, share.n_positions) == \
                (whole.n_tokens, whole.n_special_tokens, whole.n_positions)


def test_batches_have_similar_lengths_in_random_order():
    found = examples(3000)
    loader = LabelledLoader(found, batch_size=16, seed=0)

    def share_of_padding(batches):
        n_padding = sum(int(batch.padding_mask.sum()) for batch in batches)
        return n_padding / sum(batch.tokens.numel() for batch in batches)

    batches = list(loader)
    plain = [found.batch(numbers) for numbers in np.arange(3000).reshape(-1, 15)]
    assert share_of_padding(plain) > .4 and share_of_padding(batches) < .05
    # Short ones do not come first
    lengths = [len(batch.tokens) for batch in batches[:-1]]
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < .25


def test_too_few_rows():
    loader = LabelledLoader(examples(3), batch_size=32, seed=0)
    assert len(loader) == 1 and len(numbers(loader)[0]) == 3
    with pytest.raises(UserError, match='1 examples to train on, fewer than the 2 ranks'):
        LabelledLoader(examples(1), batch_size=4, seed=0, ranks=Ranks(RankInfo(0, 2, 0, None)))
    with pytest.raises(UserError, match='batch_size=3 is that of all 2 ranks'):
        LabelledLoader(examples(9), batch_size=3, seed=0, ranks=Ranks(RankInfo(0, 2, 0, None)))
    # Of windows of text, one batch is needed
    with pytest.raises(UserError, match='the text is too short: it has 3 windows'):
        TrainLoader(examples(3), batch_size=4, seed=0)
