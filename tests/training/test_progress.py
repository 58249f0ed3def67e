import json

import pytest
import torch

from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import Windows
from labml_mlm.training.progress import Progress


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
