"""Whole runs on a GPU: they resume bit for bit, and lose no metric."""
import os

import pytest
import torch
from labml import tracker
from labml.internal.tracker import Writer, tracker_singleton

VALUES = {'AdamW': {}, 'Muon': {'optimizer': 'muon'}, 'dropout': {'transformer.dropout': 0.2},
          'words': {'masking': 'word'}, 'documents': {'packing': 'documents'}, 'bf16': {'precision': 'bf16'}}


@pytest.fixture
def deterministic():
    """Operations that repeat bit for bit; `conftest.py` has what cuBLAS needs for that."""
    assert os.environ['CUBLAS_WORKSPACE_CONFIG']
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize('values', VALUES.values(), ids=VALUES)
def test_a_run_resumes_bit_for_bit(train, tmp_path, deterministic, device, values):
    values = {'device': device, 'precision': 'fp32', **values}
    expected, conf = train(tmp_path / 'uninterrupted', values)
    first, _ = train(tmp_path / 'resumed', values, stop=(20,))
    # Other code may draw in between
    torch.rand(3, device=device)
    second, resumed = train(tmp_path / 'resumed', values, resume=True)
    joined = {name: first.get(name, []) + second.get(name, []) for name in expected}
    assert joined == expected
    assert len(joined.get('loss.train', joined.get('loss.'))) >= 62
    for p, q in zip(conf.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


class Steps(Writer):
    """The steps at which each value was tracked."""

    def __init__(self):
        self.steps: dict[str, list[int]] = {}

    def write(self, *, global_step, indicators):
        for name, indicator in indicators.items():
            if not indicator.is_empty():
                self.steps.setdefault(name, []).append(global_step)

    def save_indicators(self, dot_indicators, indicators):
        """Not recorded."""

    def finish(self):
        """Nothing to close."""


@pytest.fixture
def written():
    tracker_singleton().reset_writers()
    writer = Steps()
    tracker_singleton().add_writer(writer)
    yield writer.steps
    tracker_singleton().reset_writers()
    tracker.set_global_step(None)


def test_no_metric_is_lost_and_each_has_its_step(build, written, device):
    conf = build(device=device, n_prompts=0, epochs=2, inner_iterations=2)
    conf.run()
    n_tokens = [batch.numel() for epoch in range(2) for batch in conf.train_loader.batches(epoch)]
    steps = torch.tensor(n_tokens).cumsum(dim=0).tolist()
    assert len(steps) == 62
    for name in ('loss.train', 'accuracy.train', 'lr.train', 'tokens_per_second.train'):
        assert written.get(name, written.get(name.removesuffix('.train'))) == steps, name
    assert len(written['loss.valid']) == 4
