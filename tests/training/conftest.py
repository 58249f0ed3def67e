import random

import numpy as np
import pytest
import torch
from labml.internal.monitor import monitor_singleton
from support.stop import StopAt

from labml_mlm import MLMConfigs
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import restore_state


@pytest.fixture
def train(build, tracked):
    """
    Trains two epochs of 31 batches, each in a round of 15 and one of 16, to the end or until `stop`, the arguments of
    `StopAt`. Returns what was tracked, without speed, and the configs.
    """
    def train(folder, values, class_=MLMConfigs, *, stop=None, resume=False):
        values = {'epochs': 2, 'inner_iterations': 2, 'n_prompts': 0, 'checkpoint_interval': None, **values}
        if 'max_steps' in values:
            del values['epochs']
        conf = build(class_, **values)
        conf.checkpointer.folder = folder
        tracked.clear()
        # labml's monitor is still in the loop that was stopped
        monitor_singleton().clear()
        if resume:
            restore_state(conf, CheckpointFolder(folder).last()[0])
        if stop is None:
            conf.run()
        else:
            StopAt(conf, *stop)
            with pytest.raises(Stopped):
                conf.run()
        return {name: list(values) for name, values in tracked.items() if name != 'tokens_per_second'}, conf
    return train


@pytest.fixture
def assert_resumes_identically(train, tmp_path):
    """
    Asserts that a run with `stops` tracks, bit for bit, what an uninterrupted one does. Returns the configs of its end.
    """
    def check(values, stops, class_=MLMConfigs):
        uninterrupted, _ = train(tmp_path / 'uninterrupted', values, class_)
        resumed = {}
        for i, stop in enumerate([*stops, None]):
            # Other code may draw in between
            torch.rand(3), random.random(), np.random.rand(2)
            tracks, conf = train(tmp_path / 'resumed', values, class_, stop=stop, resume=i > 0)
            for name, tracked_values in tracks.items():
                resumed.setdefault(name, []).extend(tracked_values)
        assert resumed == uninterrupted
        assert len(uninterrupted['loss.']) > 50
        return conf
    return check
