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
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from labml import tracker
from torch import Tensor

from labml_mlm.checkpoint import Checkpoint
from labml_mlm.distributed import ranks
from labml_mlm.errors import UserError
from labml_mlm.lost import is_lost
from labml_mlm.optimizer import resume_optimizer
from labml_mlm.parallel import sliced_like, whole


class Progress:
    """How far a run is. An epoch has `inner_iterations` rounds, each with a validation at its end."""

    def __init__(self):
        # Epochs that are over
        self.epoch = 0
        # Rounds that are over in this epoch
        self.round = 0
        # Training batches of this epoch so far
        self.batches = 0
        # Windows in them, of a `TrainLoader`
        self.windows = 0
        # Optimizer steps
        self.steps = 0
        # Training tokens: labml's global step
        self.tokens = 0
        # In training, validation and samples
        self.seconds = 0.
        self._now = 0.

    def state_dict(self) -> dict[str, int | float]:
        """All of it."""
        return {name: value for name, value in vars(self).items() if not name.startswith('_')}

    def load_state_dict(self, state: dict[str, int | float]):
        """What `state_dict` gave."""
        vars(self).update(state)

    def start(self):
        """Training begins, or goes on."""
        self._now = time.monotonic()

    def end_step(self, loader: Any):
        """A training step, with a batch of the loader, is over."""
        self.batches += 1
        if hasattr(loader, 'batches_after'):
            # The last batch may have fewer
            self.windows = min(self.windows + loader.batch_size, loader.n_windows)
        self.steps += 1
        self.tokens = tracker.get_global_step()
        self._tick()

    def end_round(self, inner_iterations: int):
        """A round is over; the last one is the end of the epoch."""
        self.round += 1
        if self.round >= inner_iterations:
            self.end_epoch()
        self._tick()

    def end_epoch(self):
        """An epoch is over."""
        self.epoch += 1
        self.round = self.batches = self.windows = 0

    def steps_left(self, loader: Any, *, epochs: int) -> int:
        """Optimizer steps until `epochs` of a training loader are over."""
        of_epoch = len(loader) - self.batches
        if hasattr(loader, 'batches_after'):
            # The batch size may be another one now
            of_epoch = loader.batches_after(self.windows)
        return of_epoch + (epochs - self.epoch - 1) * len(loader)

    def share(self, loader: Any, *, epochs: int) -> float:
        """How much of the training, of so many `epochs` of a loader, is over; from 0 to 1."""
        of_epoch = self.batches / max(1, len(loader))
        if hasattr(loader, 'batches_after'):
            of_epoch = self.windows / loader.n_windows
        return (self.epoch + of_epoch) / epochs

    def _tick(self):
        before, self._now = self._now, time.monotonic()
        self.seconds += self._now - before


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


class _Nothing(dict):
    """Tensors of a rank that does not save them."""


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


def pack(value: Any, tensors: dict[str, Tensor], name: str = '') -> Any:
    """
    `value` for JSON, with copies of its tensors, on the CPU and contiguous, in `tensors`.

    Raises `TypeError` if there is anything in it but tensors, dicts, lists, tuples, numbers, texts, truth values and
    `None`.
    """
    if isinstance(value, Tensor):
        while name in tensors:  # 'a.b', and 'b' in 'a'
            name += "'"
        value = whole(value.detach())
        if not isinstance(tensors, _Nothing):
            tensors[name] = torch.empty(value.shape, dtype=value.dtype).copy_(value)
        return {'$tensor': name}
    prefix = f'{name}.' if name else ''
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith('$') for key in value):
            return {key: pack(inner, tensors, f'{prefix}{key}') for key, inner in value.items()}
        return {'$items': [[pack(key, tensors), pack(inner, tensors, f'{prefix}{key}')]
                           for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        items = [pack(inner, tensors, f'{prefix}{i}') for i, inner in enumerate(value)]
        return items if isinstance(value, list) else {'$tuple': items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f'a checkpoint cannot hold {name or "a value"}, which is a {type(value).__name__}')


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` was given; the tensors are copies."""
    if isinstance(value, list):
        return [unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if '$tensor' in value:
        # Not the memory of the file: it is not aligned as torch's own
        return tensors[value['$tensor']].clone()
    if '$items' in value:
        return {unpack(key, tensors): unpack(inner, tensors) for key, inner in value['$items']}
    if '$tuple' in value:
        return tuple(unpack(value['$tuple'], tensors))
    return {key: unpack(inner, tensors) for key, inner in value.items()}


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
