"""The number of steps that some tokens take."""
import numpy as np
import pytest
import torch

from labml_mlm.budget.count import steps_for_tokens
from labml_mlm.data.batch import Batch, Template
from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import PackedDocuments, Windows
from labml_mlm.data.replay import MixedWindows
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.training.progress import Progress

TOKENS = torch.arange(207)
ENDS = np.array([3, 20, 22, 61, 62, 64, 90, 91, 130, 207])
WINDOWS = {
    'stream': lambda: Windows(TOKENS, seq_len=8),
    'special tokens': lambda: Windows(TOKENS, seq_len=8, template=Template((1,), (2,))),
    'documents': lambda: PackedDocuments(TOKENS, ENDS, seq_len=8, padding_token=0),
    'replay': lambda: MixedWindows(*(PackedDocuments(TOKENS, ends, seq_len=8, padding_token=0)
                                     for ends in (ENDS, np.array([3, 6, 11, 207]))), replay_fraction=0.3),
}


def trained_on(loader, n_steps):
    """Tokens of a run after each of so many steps, `[n_steps]`, as the steps count them."""
    counts, epoch = [], 0
    while len(counts) < n_steps:
        for batch in loader.batches(epoch):
            counts.append((batch if isinstance(batch, Batch) else Batch(batch)).n_tokens)
        epoch += 1
    return np.cumsum(counts[:n_steps])


@pytest.mark.parametrize('windows', WINDOWS)
def test_the_run_ends_with_the_first_step_that_has_the_tokens(windows):
    loader = TrainLoader(WINDOWS[windows](), batch_size=4, seed=3)
    totals = trained_on(loader, 50)
    for max_tokens in (1, 20, *totals[:30] - 1, *totals[:30], *totals[:30] + 1):
        n_steps = steps_for_tokens(loader, int(max_tokens), progress=Progress())
        assert totals[n_steps - 1] >= max_tokens and (n_steps == 1 or totals[n_steps - 2] < max_tokens)


@pytest.mark.parametrize('windows', WINDOWS)
def test_counting_from_within_the_run_gives_the_same(windows):
    loader = TrainLoader(WINDOWS[windows](), batch_size=4, seed=3)
    totals, progress = trained_on(loader, 50), Progress()
    wanted = steps_for_tokens(loader, 1000, progress=progress)
    for total in totals[:wanted]:
        progress.end_step(loader)
        progress.tokens = int(total)
        if progress.batches == len(loader):
            progress.end_epoch()
        assert steps_for_tokens(loader, 1000, progress=progress) == wanted


def test_many_epochs_are_counted_at_once():
    loader = TrainLoader(WINDOWS['stream'](), batch_size=4, seed=3)
    # 25 windows of 8, in 7 batches
    assert steps_for_tokens(loader, 200 * 10 ** 12, progress=Progress()) == 7 * 10 ** 12
    assert steps_for_tokens(loader, 200 * 10 ** 12 + 1, progress=Progress()) == 7 * 10 ** 12 + 1


@pytest.mark.parametrize('max_tokens', [30, 100, 333, 700, 1500])
@pytest.mark.parametrize('windows', ['stream', 'documents'])
def test_a_schedule_of_lengths_that_leaves_out_the_rest_of_windows(windows, max_tokens):
    lengths = seq_len_schedule('2:0.3,4:0.6,8', seq_len=8)
    loader = TrainLoader(WINDOWS[windows](), batch_size=4, seed=3)
    n_steps = steps_for_tokens(loader, max_tokens, progress=Progress(), length_at=lengths)
    fitted = TrainLoader(WINDOWS[windows](), batch_size=4, seed=3, is_token_budget_constant=False,
                         seq_len_at=lambda epochs: lengths(min(1., epochs / (n_steps / len(loader)))))
    totals = trained_on(fitted, n_steps)
    assert totals[-1] >= max_tokens and (n_steps == 1 or totals[-2] < max_tokens)
    # Shorter sequences take more steps
    assert n_steps > steps_for_tokens(loader, max_tokens, progress=Progress()) or max_tokens == 30
