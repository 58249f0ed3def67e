r"""
# Data parallelism

Each rank has its own columns of a batch, and gradients are summed over all ranks. PyTorch has two ways to do that:

* **DDP** (`DistributedDataParallel`, [Li et al. 2020](https://arxiv.org/abs/2006.15704)). Each rank has the whole model
  and takes the whole optimizer step. Gradients are all-reduced in buckets while the backward pass continues.
* **FSDP** (`fully_shard`, [Zhao et al. 2023](https://arxiv.org/abs/2304.11277)). Each rank has a shard of every
  parameter, of its gradient and of its optimizer state. A layer is gathered when it is computed, and freed afterwards.
  It is for models that do not fit on one device, and communicates half as much again.

Both divide the sum of gradients by the world size, which `Engine` makes up for in the loss.
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


class SingleProcess:
    """
    ## A model in a single process, and the interface of the other two
    """
    # Does each rank hold only a part of the model?
    is_sharded = False

    def parallelize(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model on its device, sharded if it is to be."""
        return model.to(device)

    def placed(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The earlier name of `parallelize`."""
        return self.parallelize(model, device)

    def wrap(self, model: nn.Module) -> Callable[..., Any]:
        """The callable that takes the place of the model in training."""
        return model

    def micro_batch(self, model: Callable[..., Any], *, is_last: bool) -> contextlib.AbstractContextManager:
        """Inside, forward and backward of a micro-batch. Gradients are summed over ranks after the last one."""
        return contextlib.nullcontext()


class DDP(SingleProcess):
    """
    ## Each rank has a replica of the model
    """

    def wrap(self, model: nn.Module) -> Callable[..., Any]:
        """Broadcasts the weights of the main rank, so all ranks must call it."""
        ddp = nn.parallel.DistributedDataParallel
        # Buffers are equal at all ranks and never change; torch renamed the argument
        names = inspect.signature(ddp).parameters
        name = 'forward_sync_buffers' if 'forward_sync_buffers' in names else 'broadcast_buffers'
        return ddp(model, gradient_as_bucket_view=True, **{name: False})

    def micro_batch(self, model: Callable[..., Any], *, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients accumulate locally, and are all-reduced with the last micro-batch."""
        return contextlib.nullcontext() if is_last else model.no_sync()


class FSDP(SingleProcess):
    """
    ## Each rank has a shard of every parameter
    """
    is_sharded = True

    def __init__(self, ranks: Ranks):
        self._world_size = ranks.size

    def parallelize(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Shards the model layer by layer, and moves each to the device."""
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # Meant for modules whose output is changed in place; none of these is
        warnings.filterwarnings('ignore', message='FSDP2-wrapped module .* returned a view tensor')
        mesh = torch.distributed.init_device_mesh(device.type, (self._world_size,))
        for layer in model.encoder.layers:
            # Its modules rather than the layer: `MLMEncoder` calls those of the last layer one by one
            parts = [part for part in layer.children() if next(part.parameters(), None) is not None]
            fully_shard(parts if isinstance(layer, TransformerLayer) else layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for name in ('predict', 'hidden_states'):
            register_fsdp_forward_method(model, name)
        # Buffers of modules without parameters
        return model.to(device)

    def micro_batch(self, model: Callable[..., Any], *, is_last: bool) -> contextlib.AbstractContextManager:
        """Gradients stay unsharded until the last micro-batch."""
        model.set_requires_gradient_sync(is_last)
        return contextlib.nullcontext()


def is_dtensor(tensor: Tensor) -> bool:
    """Is it sharded over the ranks?"""
    # Importing torch's class takes half a second
    return hasattr(tensor, 'full_tensor')


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; all ranks must call this."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def shard_like(other: Tensor | None, tensor: Tensor) -> Tensor:
    """This rank's shard of a whole `tensor`, if `other`, of the same shape, is sharded; otherwise `tensor` itself."""
    if other is None or not is_dtensor(other) or other.shape != tensor.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # All ranks have the same tensor: nothing needs to be sent
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
