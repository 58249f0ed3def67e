"""
# The state of a run

`capture_state` copies everything that determines how a run continues, and `restore_state` puts it into freshly built
configs, so that each step after that is, on the CPU and bit for bit, the step of an uninterrupted run:

* weights and buffers; the optimizer's state for each parameter
* how many steps the learning-rate schedule has seen. The rate itself is a function of that, and so are the order of
  windows (of seed, epoch and the number of windows) and the validation masks (of the seed)
* the state of every random number generator: torch's, CUDA's, that of a Mac's GPU, Python's, numpy's and that of the
  masks
"""
import base64
import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.failures import is_rank_failure
from labml_mlm.distributed.parallel import shard_like
from labml_mlm.distributed.process_group import ranks
from labml_mlm.optim.optimizer import load_optimizer_state
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.training.serialization import UNPACK_ERRORS, pack, unpack

Tensors = dict[str, Tensor]


def capture_state(c: Any) -> tuple[dict[str, Tensors], dict]:
    """
    The state of `MLMConfigs`: copies of the tensors, on the CPU, by file and name; and the rest, for JSON. Of a sharded
    model it is gathered, tensor by tensor: all ranks must call this then, and the main rank gets it.

    Raises `TypeError` if the state contains something else.
    """
    model, optimizer = ({}, {}) if ranks().is_main else (None, None)
    generator = getattr(c.mlm, 'generator', None)
    loader_state = c.train_loader.state_dict() if has_state(c.train_loader) else None
    return {'model': model, 'optimizer': optimizer}, {
        'progress': c.progress.state_dict(),
        'model': pack(c.model.state_dict(), model),
        'optimizer': pack(c.optimizer.state_dict(), optimizer),
        'schedule': pack(c.scheduler.state_dict(), optimizer, 'schedule'),
        'data': pack(loader_state, optimizer, 'data'),
        'trainer': pack(c.trainer.state_dict(), optimizer, 'trainer') if has_state(c.trainer) else None,
        'rng': rng_state() | {'mlm': generator and [generator.device.type, _to_text(generator.get_state())]},
        'throughput': c.throughput.state_dict(),
        'step_metrics': c.step_metrics.state_dict(),
        'skipped_steps': c.skipped_steps.state_dict(),
    }


def restore_state(c: Any, checkpoint: Checkpoint | None, tensors: dict[str, Tensors] | None = None):
    """
    Puts the state of a checkpoint into configs that were built. Only the main rank passes a checkpoint, and it
    broadcasts what the others need; they pass `None`. `tensors` are those of the checkpoint by file, if they were read.

    Raises `UserError` if the checkpoint does not fit. Errors of a trainer or loader of one's own stay what they are.
    """
    if checkpoint is not None and tensors is None:
        tensors = {name: checkpoint.load_tensors(name) for name in ('model', 'optimizer')}
    path, saved = ranks().broadcast(checkpoint and (checkpoint.path, checkpoint.metadata))
    with _does_not_fit(path):
        optimizer = _restore_model(c, path, saved, tensors)
        states = [(part, unpack(saved[name], optimizer)) for part, name in ((c.train_loader, 'data'),
                                                                            (c.trainer, 'trainer'))
                  if saved[name] is not None and has_state(part)]
    for part, state in states:
        is_ours = type(part).__module__.startswith('labml_mlm.')
        with _does_not_fit(path) if is_ours else contextlib.nullcontext():
            part.load_state_dict(state)
    with _does_not_fit(path):
        _restore_rest(c, saved)


@contextlib.contextmanager
def _does_not_fit(path: Path) -> Iterator[None]:
    """Inside, what a checkpoint in `path` has saved, which may be anything, is put into configs."""
    try:
        yield
    except (*UNPACK_ERRORS, RuntimeError, IndexError, OverflowError) as e:
        if isinstance(e, UserError | torch.OutOfMemoryError) or is_rank_failure(e):
            raise
        raise UserError(f'the state in {path} does not fit: {type(e).__name__}: {" ".join(str(e).split())}') from e


def _restore_model(c: Any, path: Path, saved: dict, tensors: dict[str, Tensors] | None) -> Tensors:
    """Restores what training needs. Returns the tensors that are saved with the optimizer's."""
    # First, because the learning rate depends on it
    c.progress.load_state_dict(saved['progress'])
    c._forget_count()
    weights, parameters = c.model.state_dict(), [p for group in c.optimizer.param_groups for p in group['params']]

    def parameter_of(name: str) -> Tensor | None:
        """The parameter that a tensor of the optimizer, such as `state.3.exp_avg`, belongs to."""
        kind, _, rest = name.partition('.')
        number = rest.partition('.')[0]
        return parameters[int(number)] if kind == 'state' and number.isdecimal() else None

    model = _broadcast_shards(tensors and tensors['model'], weights.get)
    try:
        c.model.load_state_dict(unpack(saved['model'], model))
        del model
    except RuntimeError as e:
        if is_rank_failure(e):
            raise
        raise UserError(f'the model of {path} differs: {" ".join(str(e).split())}') from None
    try:
        optimizer = _broadcast_shards(tensors and tensors['optimizer'], parameter_of)
        load_optimizer_state(c.optimizer, c.scheduler, unpack(saved['optimizer'], optimizer),
                             unpack(saved['schedule'], optimizer))
    except (ValueError, KeyError, IndexError) as e:
        raise UserError(f'the optimizer of {path} differs: {e}') from None
    return optimizer


def _restore_rest(c: Any, saved: dict):
    """Restores what is measured, and random numbers."""
    c.throughput.load_state_dict(saved['throughput'])
    # Checkpoints of earlier versions do not have them
    c.skipped_steps.load_state_dict(saved.get('skipped_steps'))
    c.step_metrics.load_state_dict(saved.get('step_metrics'), device=next(c.model.parameters()).device)
    generator = getattr(c.mlm, 'generator', None)
    if saved['rng']['mlm'] is not None and generator is not None:
        device, state = saved['rng']['mlm']
        # The state of another kind of device cannot be used
        if generator.device.type == device:
            generator.set_state(_to_state(state))
    # Last, because all that was built may have drawn
    set_rng_state(saved['rng'])


def _broadcast_shards(tensors: Tensors | None, target: Callable[[str], Tensor | None]) -> Tensors:
    """
    The main rank's `tensors` at all ranks, one after the other. If its `target` is sharded, a rank keeps its shard of a
    tensor alone, so that it never holds more than one whole tensor.
    """
    names = ranks().broadcast(tensors and list(tensors))
    return {name: shard_like(target(name), ranks().broadcast_tensor(tensors and tensors[name])) for name in names}


def has_state(part: Any) -> bool:
    """Can its state be saved and restored?"""
    return hasattr(part, 'state_dict') and hasattr(part, 'load_state_dict')


def rng_state() -> dict[str, Any]:
    """The state of all global random number generators, for JSON."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return {'torch': _to_text(torch.get_rng_state()), 'cuda': [_to_text(state) for state in cuda],
            'mps': [_to_text(state) for state in mps],
            'python': pack(random.getstate(), {}), 'numpy': [kind, keys.tolist(), *rest]}


def set_rng_state(saved: dict[str, Any]):
    """Restores what `rng_state` returned."""
    torch.set_rng_state(_to_state(saved['torch']))
    for device, state in enumerate(saved['cuda'][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_to_state(state), device)
    # Earlier releases had none
    for state in saved.get('mps', ()) if torch.backends.mps.is_available() else ():
        torch.mps.set_rng_state(_to_state(state))
    random.setstate(unpack(saved['python'], {}))
    kind, keys, *rest = saved['numpy']
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def _to_text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _to_state(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
