import pytest
import torch


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
def device(request) -> str:
    """Both kinds of devices: on the CPU, what is tested is above all the test."""
    if request.param == 'cuda' and not torch.cuda.is_available():
        pytest.skip('there is no CUDA device here')
    return request.param
