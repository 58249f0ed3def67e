"""Pairs of spans as windows, and in batches."""
import numpy as np
import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import PairTemplate
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.distributed.process_group import RankInfo, Ranks
from labml_mlm.sentences.pairs import SentencePairs

BERT = PairTemplate((2,), (3,), (3,))
ROBERTA = PairTemplate((0,), (2, 2), (2,), 0)
N_SPECIAL = 5


def make(sizes=(9, 14, 3, 40, 1, 25), *, kind='nsp', seq_len=24, template=BERT, mean=5):
    """Windows of a text whose tokens count up."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(np.concatenate([np.append(1 + rng.poisson(mean, n), 0) for n in sizes]))
    return SentencePairs(np.arange(ends[-1]) + N_SPECIAL, ends, kind=kind, seq_len=seq_len, padding_token=1,
                         template=template)


@pytest.mark.parametrize('template', [BERT, ROBERTA, PairTemplate((2, 3), (3, 4, 3), (), 1)])
def test_window_has_both_spans_with_special_tokens_and_segments(template):
    windows = make(template=template)
    numbers = np.arange(len(windows))[::-1]
    batch, plan = windows.batch(numbers, 7), windows.plan(7)
    before, between, after, segment = template
    for column, number in enumerate(numbers):
        begin, length, second, second_length, label = (int(part[number]) for part in plan)
        first, second = (list(range(b + N_SPECIAL, b + n + N_SPECIAL)) for b, n in
                         ((begin, length), (second, second_length)))
        expected = [*before, *first, *between, *second, *after]
        n_padding = 24 - len(expected)
        assert batch.tokens[:, column].tolist() == expected + [1] * n_padding
        assert batch.padding_mask[:, column].tolist() == [False] * len(expected) + [True] * n_padding
        n_first = len(before) + len(first) + len(between)
        assert batch.segment_ids[:, column].tolist() == \
            [0] * n_first + [segment] * (len(expected) - n_first) + [0] * n_padding
        assert batch.pair_labels[0, column] == label
        assert windows.lengths(np.array([number]), 7) == [len(first) + len(second)]
    assert batch.pair_labels.shape == (1, len(windows))
    assert batch.n_special_tokens == windows.n_special_tokens(numbers, 7) == len(windows) * template.length
    assert batch.n_tokens == windows.lengths(numbers, 7).sum()


def test_number_of_windows_is_the_same_each_epoch():
    windows = make([60] * 8)
    counts = set()
    for seed in range(20):
        plan = windows.plan(seed)
        assert len(plan.labels) == len(windows)
        # None comes twice but for a few at the end
        counts.add(len(set(zip(*(part.tolist() for part in plan), strict=True))))
    assert max(counts) == len(windows) and min(counts) > 0.9 * len(windows)


def batches_of(loader, epoch, n_windows=0):
    return list(loader.batches(epoch, n_windows))


def test_training_goes_on_anywhere_in_an_epoch_and_each_epoch_is_another():
    loader = TrainLoader(make(), batch_size=4, seed=3)
    whole, rest = batches_of(loader, 1), batches_of(TrainLoader(make(), batch_size=4, seed=3), 1, 8)
    assert len(rest) == len(whole) - 2 > 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(one._asdict()[name], other._asdict()[name])
                   for name in ('tokens', 'padding_mask', 'segment_ids', 'pair_labels'))
    assert not all(torch.equal(one.tokens, other.tokens) for one, other in
                   zip(whole, batches_of(loader, 0), strict=True))


def test_ranks_share_the_batches_of_a_single_process():
    whole = batches_of(TrainLoader(make(), batch_size=4, seed=3), 0)
    ranks = [Ranks(RankInfo(rank, 2, rank, None)) for rank in range(2)]
    parts = [batches_of(TrainLoader(make(), batch_size=4, seed=3, ranks=one), 0) for one in ranks]
    for batch, *shards in zip(whole, *parts, strict=True):
        for name in ('tokens', 'padding_mask', 'segment_ids', 'pair_labels'):
            together = torch.cat([shard._asdict()[name] for shard in shards], dim=1)
            assert torch.equal(together, batch._asdict()[name])
        assert {shard.n_tokens for shard in shards} == {batch.n_tokens}


def test_validation_has_the_same_pairs_each_time():
    loader = ValidLoader(make(), batch_size=4)
    for one, other in zip(loader, loader, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.pair_labels, other.pair_labels)


def test_documents_of_one_sentence_are_counted():
    windows = make([1, 5, 1, 9])
    assert (windows.n_left_out, windows.n_documents) == (2, 4)


@pytest.mark.parametrize('sizes, how, message', [
    ([1, 1, 1], {}, 'no document of the text has two sentences'),
    ([9], {}, 'only one document of two or more. text_unit=paragraph makes more of them, and sentence_pairs=sop'),
    ([9, 1], {}, 'only one document of two or more'),
    ([9, 9], {'seq_len': 4}, 'seq_len=4 leaves no room for two spans of sentences: .* take 3')])
def test_text_without_pairs_is_refused(sizes, how, message):
    with pytest.raises(UserError, match=message):
        make(sizes, **how)


def test_order_needs_one_document_only():
    windows = make([30], kind='sop')
    assert len(windows) > 5 and set(windows.plan().labels.tolist()) == {0, 1}
