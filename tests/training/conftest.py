import random

import numpy as np
import pytest
import torch

from labml_mlm import MLMConfigs


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
