import pytest

from labml_mlm.budget import configs
from labml_mlm.budget.speed import Speed


@pytest.fixture
def fixed_speed(monkeypatch):
    """Every run has this speed, and nothing is measured: 10 ms a step, and 98 ms a validation of an epoch of 31."""
    monkeypatch.setattr(configs, 'measure', lambda c: Speed(0.01, 0.098, epoch_length=31))
