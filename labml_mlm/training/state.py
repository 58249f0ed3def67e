"""
# What a run is at an instant

`capture` copies all that decides how a run goes on, and `restore` puts it into freshly built configs, so that each
step after that is, on the CPU and bit for bit, the step of a run that never stopped:

* weights and buffers; what the optimizer keeps for each parameter
* how many steps the learning rate's schedule has seen. The rate itself is a function of that, and so are the order
  of windows (of seed, epoch and the number of windows) and the validation masks (of the seed)
* the state of every generator of random numbers: torch's, CUDA's, Python's, numpy's and that of the masks

Tensors go to one table a file, everything else becomes JSON. `pack` and `unpack` do that for nested values.
"""

import base64
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.failures import is_lost
from labml_mlm.distributed.parallel import sliced_like
from labml_mlm.distributed.process_group import ranks
from labml_mlm.optim.optimizer import resume_optimizer
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.training.serialization import _Nothing, pack, unpack


def capture(c: Any) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """
    The state of `MLMConfigs`: copies of the tensors, on the CPU, by file and name; and the rest, for JSON. Of a model
    in slices it is gathered, tensor by tensor: all ranks have to call this then, and the main one gets it.

    Raises `TypeError` if something in it is neither.
    """
    new = dict if ranks().is_main else _Nothing
    tensors = {'model': new(), 'optimizer': new()}
    generator = getattr(c.mlm, 'generator', None)
    state_of_loader = c.train_loader.state_dict() if has_state(c.train_loader) else None
    return tensors, {
        'progress': c.progress.state_dict(),
        'model': pack(c.model.state_dict(), tensors['model']),
        'optimizer': pack(c.optimizer.state_dict(), tensors['optimizer']),
        'schedule': pack(c.scheduler.state_dict(), tensors['optimizer'], 'schedule'),
        'data': pack(state_of_loader, tensors['optimizer'], 'data'),
        'trainer': pack(c.trainer.state_dict(), tensors['optimizer'], 'trainer') if has_state(c.trainer) else None,
        'rng': rng_state() | {'mlm': generator and [generator.device.type, _to_text(generator.get_state())]},
        'throughput': c.throughput.state_dict(),
    }


def restore(c: Any, checkpoint: Checkpoint | None, tensors: dict[str, dict[str, Tensor]] | None = None):
    """
    Puts the state in a checkpoint into configs that were built. Of several ranks the main one has the checkpoint, and
    gives the others what they need of it; they have `None`. `tensors` are its tensors by file, if they
    are read already.

    Raises `UserError` if it does not fit.
    """
    files = ('model', 'optimizer')
    if checkpoint is not None and tensors is None:
        tensors = {name: checkpoint.tensors(name) for name in files}
    path, saved = ranks().of_main(checkpoint and (checkpoint.path, checkpoint.document))
    # The first, as the learning rate depends on it
    c.progress.load_state_dict(saved['progress'])
    weights, parameters = c.model.state_dict(), [p for group in c.optimizer.param_groups for p in group['params']]

    def parameter_of(name: str) -> Tensor | None:
        kind, _, rest = name.partition('.')
        number = rest.partition('.')[0]
        return parameters[int(number)] if kind == 'state' and number.isdecimal() else None

    tensors = {name: _FromMain(tensors and tensors[name], target)
               for name, target in zip(files, (weights.get, parameter_of), strict=True)}
    try:
        c.model.load_state_dict(unpack(saved['model'], tensors['model']))
    except RuntimeError as e:
        if is_lost(e):
            raise
        raise UserError(f'the model of {path} is another one: {" ".join(str(e).split())}') from None
    try:
        resume_optimizer(c.optimizer, c.scheduler, unpack(saved['optimizer'], tensors['optimizer']),
                         unpack(saved['schedule'], tensors['optimizer']))
    except (ValueError, KeyError, IndexError) as e:
        raise UserError(f'the optimizer of {path} is another one: {e}') from None
    for part, state in ((c.train_loader, saved['data']), (c.trainer, saved['trainer'])):
        if state is not None and has_state(part):
            part.load_state_dict(unpack(state, tensors['optimizer']))
    c.throughput.load_state_dict(saved['throughput'])
    generator = getattr(c.mlm, 'generator', None)
    if saved['rng']['mlm'] is not None and generator is not None:
        device, state = saved['rng']['mlm']
        # That of another kind of device is no use
        if generator.device.type == device:
            generator.set_state(_to_state(state))
    # The last, as all that was built may have drawn
    set_rng_state(saved['rng'])


class _FromMain(dict):
    """
    Tensors of a checkpoint, which the main rank has; each comes to the others when it is asked for, and becomes what
    they have of its `target`.
    """

    def __init__(self, tensors: dict[str, Tensor] | None, target: Callable[[str], Tensor | None]):
        super().__init__(tensors or {})
        self._target = target

    def __missing__(self, name: str) -> None:
        return None

    def __getitem__(self, name: str) -> Tensor:
        return sliced_like(self._target(name), ranks().tensor_of_main(super().__getitem__(name)))


def has_state(part: Any) -> bool:
    """Can it be asked for its state, and given it?"""
    return hasattr(part, 'state_dict') and hasattr(part, 'load_state_dict')


def rng_state() -> dict[str, Any]:
    """The state of all global generators of random numbers, for JSON."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {'torch': _to_text(torch.get_rng_state()), 'cuda': [_to_text(state) for state in cuda],
            'python': pack(random.getstate(), {}), 'numpy': [kind, keys.tolist(), *rest]}


def set_rng_state(saved: dict[str, Any]):
    """Has them go on from what `rng_state` gave."""
    torch.set_rng_state(_to_state(saved['torch']))
    for device, state in enumerate(saved['cuda'][:torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_to_state(state), device)
    random.setstate(unpack(saved['python'], {}))
    kind, keys, *rest = saved['numpy']
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


def _to_text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _to_state(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

