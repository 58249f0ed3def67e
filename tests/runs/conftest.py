import pytest
import torch
from support.runs import make  # noqa: F401  a fixture

from labml_mlm.runs.checkpoint_folder import CheckpointFolder


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / 'run' / 'checkpoints')


@pytest.fixture
def write():
    """Writes a checkpoint whose first weight is `value`."""
    def write(folder, step, loss=None, value=1.):
        folder.write(step, tensors={'model': {'w': torch.full((3, 2), value), 'n': torch.tensor(7)},
                                    'optimizer': {'m': torch.tensor([value], dtype=torch.bfloat16)}},
                     metadata={'note': [step, None, 0.1], 'valid': None if loss is None else {'loss': loss}})
    return write
