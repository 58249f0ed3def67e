import os

import pytest
import torch

# Without it, cuBLAS refuses what must repeat bit for bit; it is read when the first product is computed
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


@pytest.fixture
def cuda() -> str:
    """A device that is there, or the test is skipped."""
    if not torch.cuda.is_available():
        pytest.skip('there is no CUDA device here')
    return 'cuda'


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request) -> str:
    """Both kinds of devices: on the CPU, what is tested is above all the test."""
    return request.param if request.param == 'cpu' else request.getfixturevalue('cuda')
