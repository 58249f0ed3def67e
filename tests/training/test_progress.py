import json

import pytest
import torch

from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import Windows
from labml_mlm.training.progress import Progress, work_left


def test_progress_through_the_rounds_of_an_epoch():
    progress, loader = Progress(), TrainLoader(Windows(torch.arange(29), seq_len=1), batch_size=8, seed=0)
    for _ in range(3):
        progress.end_step(loader)
    progress.end_round(2)
    assert (progress.epoch, progress.round, progress.batches, progress.windows, progress.steps) == (0, 1, 3, 24, 3)
    assert progress.steps_left(loader, epochs=3) == 1 + 4 + 4
    assert progress.fraction_done(loader, epochs=3) == pytest.approx(24 / 29 / 3)
    progress.end_step(loader)
    assert (progress.windows, progress.fraction_done(loader, epochs=3)) == (29, 1 / 3)
    # A loader without windows
    assert progress.steps_left([None] * 5, epochs=3) == 1 + 5 + 5
    assert progress.fraction_done([None] * 5, epochs=3) == pytest.approx(4 / 5 / 3)
    progress.end_round(2)
    assert (progress.epoch, progress.round, progress.batches, progress.windows, progress.steps) == (1, 0, 0, 0, 4)
    assert progress.fraction_done(loader, epochs=3) == 1 / 3
    other = Progress()
    other.load_state_dict(json.loads(json.dumps(progress.state_dict())))
    assert other.state_dict() == progress.state_dict()


def test_validations_since_the_best():
    progress = Progress()
    seen = []
    for loss in (2., 1., 1., float('nan'), None, 0.5, 0.7):
        progress.end_validation(loss)
        seen.append(progress.validations_since_best)
    assert seen == [0, 0, 1, 2, 3, 0, 1]
    assert progress.best == 0.5
    first = Progress()
    # There is no best one yet
    first.end_validation(float('nan'))
    first.end_validation(3.)
    assert (first.best, first.validations_since_best) == (3., 0)


@pytest.mark.parametrize('values, left, validations', [
    ({'epochs': 3}, 93 - 40, 4), ({'epochs': 3, 'inner_iterations': 1}, 93 - 40, 2),
    # Within an epoch, whose two validations come all the same
    ({'max_steps': 50}, 10, 2), ({'max_steps': 70}, 30, 4), ({'max_steps': 40}, 0, 2)])
def test_work_left_of_a_resumed_run(build, values, left, validations):
    conf = build(**{'inner_iterations': 2, **values}, n_prompts=0, checkpoint_interval=10)
    # 9 of 31 steps of the second epoch
    conf.progress.load_state_dict({'epoch': 1, 'round': 0, 'batches': 9, 'windows': 72, 'steps': 40, 'seconds': 8.})
    work = work_left(conf)
    assert (work.steps, work.seconds, work.left, work.length) == (40, 8., {0: left}, 0)
    assert work.validations == validations and work.saves == left / 10 and work.passes > 1


def test_work_left_by_lengths(build):
    conf = build(epochs=4, n_prompts=0, seq_len_schedule='4:0.25,8:0.5,16', is_token_budget_constant=False)
    n_steps = 4 * len(conf.train_loader)
    work = work_left(conf)
    assert work.is_shorter_faster and work.length == 4 and set(work.left) == {4, 8, 16}
    assert sum(work.left.values()) == pytest.approx(n_steps)
    conf.progress.load_state_dict({'epoch': 3, 'steps': n_steps - len(conf.train_loader)})
    work = work_left(conf)
    assert work.length == 16 and work.left == {16: pytest.approx(len(conf.train_loader))}
