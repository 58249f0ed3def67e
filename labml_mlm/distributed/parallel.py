r"""
# One model on several ranks

Each rank has its own columns of a batch, and gradients are added up over all of them. There are two ways to do that,
both PyTorch's own:

* **Replicas** (`DistributedDataParallel`, [Li et al. 2020](https://arxiv.org/abs/2006.15704)). Each rank has the whole
  model, and takes the whole optimizer step. Gradients are added up in buckets while the backward pass still goes on.
* **Shards** (`fully_shard`, [Zhao et al. 2023](https://arxiv.org/abs/2304.11277)). Each rank has a slice of every
  parameter, and of its gradient and of what the optimizer keeps for it. A layer is gathered when its turn comes, and
  given back after that. It is for models that do not fit on one device, and takes half as much again of communication.

Both of them divide the sum of gradients by the number of ranks, which `Engine` makes up for in the loss.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from labml_nn.transformers.models import TransformerLayer
from torch import Tensor, nn

from labml_mlm.distributed.process_group import Ranks


class Alone:
    """
    ## A model on one rank, and what the others below have in common
    """
    # Does a rank have less than the whole model?
    is_sharded = False

    def placed(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model, where it is to be trained."""
        return model.to(device)

    def training(self, model: nn.Module) -> Callable[..., Any]:
        """What is called in the place of the model in training."""
        return model

    def part(self, model: Callable[..., Any], *, is_last: bool) -> contextlib.AbstractContextManager:
        """Within it forward and backward of a part of the batch; after the last one gradients are those of all."""
        return contextlib.nullcontext()


class Replicas(Alone):
    """
    ## Each rank has the whole model
    """

    def training(self, model: nn.Module) -> Callable[..., Any]:
        """Makes weights those of the main rank: all ranks have to call it."""
        ddp = nn.parallel.DistributedDataParallel
        # Buffers are the same in all of them, and do not change; torch has had two names for that
        names = inspect.signature(ddp).parameters
        name = 'forward_sync_buffers' if 'forward_sync_buffers' in names else 'broadcast_buffers'
        return ddp(model, gradient_as_bucket_view=True, **{name: False})

    def part(self, model: Callable[..., Any], *, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients of the last part go to the others, together with those of the parts before."""
        return contextlib.nullcontext() if is_last else model.no_sync()


class Shards(Alone):
    """
    ## Each rank has a slice of every parameter
    """
    is_sharded = True

    def __init__(self, ranks: Ranks):
        self._n_ranks = ranks.size

    def placed(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with its layers as units, moved to the device one by one."""
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # It is for modules whose output is changed in place, and none of these is
        warnings.filterwarnings('ignore', message='FSDP2-wrapped module .* returned a view tensor')
        mesh = torch.distributed.init_device_mesh(device.type, (self._n_ranks,))
        for layer in model.encoder.layers:
            # By their modules, as `MLMEncoder` calls those of the last layer, and not the layer
            parts = [part for part in layer.children() if next(part.parameters(), None) is not None]
            fully_shard(parts if isinstance(layer, TransformerLayer) else layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, 'predict')
        # Buffers of modules that have no parameters
        return model.to(device)

    def part(self, model: Callable[..., Any], *, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients stay where they are until the last part."""
        model.set_requires_gradient_sync(is_last)
        return contextlib.nullcontext()


def is_sliced(tensor: Tensor) -> bool:
    """Do ranks have slices of it?"""
    # To import torch's class takes half a second
    return hasattr(tensor, 'full_tensor')


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that ranks have slices of; all of them have to ask for it."""
    return tensor.full_tensor() if is_sliced(tensor) else tensor


def sliced_like(other: Tensor | None, tensor: Tensor) -> Tensor:
    """This rank's slice of a whole tensor, if it is one of `other`, a tensor of the same shape, that ranks have."""
    if other is None or not is_sliced(other) or other.shape != tensor.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # All ranks have the same: nothing needs to be sent
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)

