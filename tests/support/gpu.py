"""What a step asks of a GPU, watched on a real one, or on tensors of the CPU that are taken for those of a GPU."""
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from labml_mlm import MLMConfigs
from labml_mlm.masking.batches import with_longest_unit

# Operations whose result, or its size, Python has to know, or that copy what Python has to the GPU
_WAITING = {'_local_scalar_dense', 'nonzero', 'masked_select', 'equal', 'unique_dim', 'unique_consecutive', '_unique',
            '_unique2', 'bincount', 'is_nonzero', 'lift_fresh'}
# The same, below what a mode sees of operations
_READING = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__, torch.as_tensor,
            torch.from_numpy}


class Waited(AssertionError):
    """An operation would wait for the GPU."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        is_waiting = name in _WAITING or name == 'repeat_interleave' and not (kwargs or {}).get('output_size')
        if name in ('index', 'index_put', 'index_put_', '_index_put_impl_'):
            # By a mask: as many as are true
            is_waiting = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if name in ('sort', 'argsort') and args[0].dtype == torch.bool:
            raise TypeError('some releases of torch cannot sort booleans on a GPU')
        if is_waiting:
            raise Waited(f'{func} waits for the GPU')
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in _READING:
            raise Waited(f'{func.__name__} waits for the GPU')
        return func(*args, **(kwargs or {}))


class _Arrival:
    """The end of a copy that is still under way."""

    def query(self) -> bool:
        return False


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Inside, what waits for the GPU is an error; on the CPU, what would."""
    if device.type == 'cuda':
        torch.cuda.set_sync_debug_mode('error')
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode('default')
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ('training.engine._is_on_gpu', 'training.skipped_steps._is_on_gpu'):
            patch.setattr(f'labml_mlm.{name}', lambda tensor: True)
        for name in ('metrics', 'skipped_steps'):
            patch.setattr(f'labml_mlm.training.{name}.late_copy', lambda values: (values.clone(), _Arrival()))
        patch.setattr(torch.Tensor, 'is_cuda', True)
        with _Reads(), _Operations():
            yield


def step_without_waiting(conf: MLMConfigs, n_steps: int = 10):
    """Takes steps of training; the first one may wait, as it copies tables to the GPU."""
    batches = [batch for _, batch in zip(range(n_steps + 1), conf.train_loader, strict=False)]
    assert len(batches) == n_steps + 1
    # Values that have not arrived are waited for otherwise, on purpose
    conf.step_metrics.max_late = n_steps
    with conf.mode.update(is_train=True):
        conf.step(batches[0], None)
        if conf.device.type == 'cuda':
            with no_waiting(conf.device):
                for batch in batches[1:]:
                    conf.step(batch, None)
            return
        for batch in batches[1:]:
            # What is computed before a batch is copied to the GPU may be read
            read = with_longest_unit(conf.mlm, conf.read_batch(batch), torch.device('cuda'))
            with no_waiting(conf.device):
                conf.training_step(read)
