import pytest
import torch
from labml_nn.utils import clone_module_list
from torch import nn

from labml_mlm.common.errors import UserError
from labml_mlm.model.allocation import bounded_by


@pytest.mark.parametrize('make', [
    lambda: torch.empty(10 ** 6, 10 ** 6), lambda: nn.Linear(10 ** 6, 10 ** 6), lambda: nn.Embedding(10 ** 12, 8),
    lambda: torch.arange(10 ** 13), lambda: [nn.Linear(1000, 1000) for _ in range(10 ** 9)],
    lambda: [nn.Linear(1, 1) for _ in range(10 ** 12)], lambda: clone_module_list(nn.Linear(1, 1), 10 ** 12)])
def test_far_more_than_the_weights_is_refused_before_it_is_allocated(make):
    with pytest.raises(UserError, match='and there are weights of 1,000: the configs are damaged'), bounded_by(1000):
        make()


def test_a_model_of_the_size_of_its_weights_is_built():
    with bounded_by(1000):
        assert nn.Linear(1000, 1000).weight.shape == (1000, 1000)
    with bounded_by(None):
        torch.empty(2 ** 27)
    torch.empty(2 ** 27)
