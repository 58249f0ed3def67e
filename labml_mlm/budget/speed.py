"""
# How many steps some minutes take

Before training, some steps and some batches of the validation are run and timed, and then everything is put back:
model, optimizer and random numbers from copies, and what steps track goes nowhere. So the run that follows takes the
steps that it would take anyway.

* The first calls of each kind are not timed: they compile the model, allocate memory and choose kernels.
* A step is timed with its batches, at each sequence length that `seq_len_schedule` has, by its share of training.
* A validation is one of the text, one of the old text if there is any, and a probe if there is one, by the time of some
  of their batches.
* A checkpoint is the copy that training waits for; a thread writes it.

The main rank's times count, and all ranks get the same.
"""
import collections
import contextlib
import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from labml import tracker
from labml_helpers.train_valid import BatchIndex
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.common.labml_compat import untracked
from labml_mlm.data.loader import TrainLoader, ValidLoader, loader_length
from labml_mlm.distributed.process_group import ranks
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.training.metrics import StepMetrics, Throughput
from labml_mlm.training.serialization import pack
from labml_mlm.training.skipped_steps import SkippedSteps
from labml_mlm.training.state import rng_state, set_rng_state

# Calls that are not timed, and seconds of those that are, of steps and of validations
_WARM_UP = 3
_STEP_SECONDS, _VALID_SECONDS = 3., 1.
_MOST_CALLS = 200
# Points at which the lengths of a schedule are looked up
_N_POINTS = 1000


@dataclasses.dataclass(frozen=True)
class Speed:
    """
    Seconds that the parts of a run take.

    * `step`, `validation` and `save` are those of one each
    * `epoch_length` is the number of steps of an epoch; without it all training is one
    * `n_rounds` is the number of validations of an epoch
    * `save_interval` is the number of steps between two checkpoints, in addition to those at validations
    """
    step: float
    validation: float = 0.
    save: float = 0.
    _: dataclasses.KW_ONLY
    epoch_length: int | None = None
    n_rounds: int = 1
    save_interval: int | None = None

    def seconds(self, n_steps: int) -> float:
        """What a run of so many steps takes."""
        n_epochs = -(-n_steps // self.epoch_length) if self.epoch_length else 1
        n_validations = n_epochs * self.n_rounds
        n_saves = n_validations + (n_steps // self.save_interval if self.save_interval else 0)
        return n_steps * self.step + n_validations * self.validation + n_saves * self.save

    def steps_in(self, seconds: float) -> int:
        """The most steps that take no more, but at least 1."""
        low, high = 1, max(1, int(seconds / self.step))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.seconds(middle) <= seconds else (low, middle - 1)
        return low


def measure(c: Any) -> Speed:
    """
    Measures the speed of a run of the configs `c`, which have built all but the schedule; nothing of it changes.

    Raises `UserError` if a loader of your own cannot be copied.
    """
    # What is not built yet is built by the configs themselves, and not by their copy
    _ = c.model, c.optimizer, c.engine, c.mlm, c.valid_mlm, c.step_metrics, c.throughput, c.train_loader, c.valid_loader
    _ = c.skipped_steps, c.valid_metrics, c.old_metrics, c.old_loader, c.prober, c.grad_norm_clip
    n_rounds, interval = c.inner_iterations, c.checkpoint_interval
    with _everything_put_back(c) as probe:
        step = _step_seconds(probe, of=_STEP_SECONDS)
        save = _seconds(lambda: [pack(part.state_dict(), {} if ranks().is_main else None)
                                 for part in (c.model, c.optimizer)], of=0., sync=c.device)
        validation = _validation_seconds(probe)
    return Speed(step, validation, save, epoch_length=loader_length(c.train_loader), n_rounds=n_rounds,
                 save_interval=interval)


def measure_step(c: Any, *, seconds: float) -> float:
    """Seconds of a training step of such configs, measured for about so many `seconds`; nothing of it changes."""
    _ = c.model, c.optimizer, c.engine, c.mlm, c.valid_mlm, c.step_metrics, c.throughput, c.train_loader
    with _everything_put_back(c) as probe:
        return _step_seconds(probe, of=seconds)


def shown(seconds: float) -> str:
    """Seconds for people: `41 ms`, `3.2 s`."""
    if seconds < 1:
        return f'{1000 * seconds:.2g} ms' if seconds < 0.1 else f'{1000 * seconds:.0f} ms'
    return f'{seconds:.1f} s'


class _NoSchedule:
    """Takes the place of a scheduler."""

    def step(self):
        """Changes no rate."""


@contextlib.contextmanager
def _everything_put_back(c: Any) -> Iterator[Any]:
    """Configs that share model and optimizer with `c`; afterwards those are what they were."""
    generators = [mlm.generator for mlm in (c.mlm, c.valid_mlm)
                  if isinstance(getattr(mlm, 'generator', None), torch.Generator)]
    generator_states, masking_prob = [g.get_state() for g in generators], getattr(c.mlm, 'masking_prob', None)
    rng, is_training = rng_state(), c.model.training
    weights = {name: _copied(value) for name, value in c.model.state_dict().items()}
    # Those that checkpoints do not hold, too
    buffers = [(buffer, buffer.clone()) for buffer in c.model.buffers()]
    optimizer = copy.deepcopy(c.optimizer.state_dict())
    modules = [(module, dict(vars(module))) for module in (c.valid_metrics, c.old_metrics, *c.state_modules)]
    try:
        for module, _ in modules:
            module.set_state(module.create_state())
            module.on_epoch_start()
        for group in c.optimizer.param_groups:
            # At the peak, without a warm-up, weights might become NaN
            group['lr'] = group['lr'] * 0.
        with untracked():
            yield _probe(c)
    finally:
        c.optimizer.zero_grad()
        c.optimizer.load_state_dict(optimizer)
        c.model.load_state_dict(weights)
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
        c.model.train(is_training)
        for module, attributes in modules:
            vars(module).clear()
            vars(module).update(attributes)
        for generator, state in zip(generators, generator_states, strict=True):
            generator.set_state(state)
        if masking_prob is not None:
            c.mlm.masking_prob = masking_prob
        set_rng_state(rng)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _probe(c: Any) -> Any:
    """A copy of configs: what its steps set is not seen by `c`."""
    probe = copy.copy(c)
    own = {'scheduler': _NoSchedule(), 'step_metrics': StepMetrics(), 'skipped_steps': SkippedSteps(),
           'throughput': Throughput()}
    vars(probe)['_Configs__cached'] = vars(c)['_Configs__cached'] | own
    # Schedules of the masking rate and the like stay at their beginning
    name = c._budgets[-1]
    vars(probe)['_fitted'] = {name: getattr(c, name), 'max_steps': 10 ** 9}
    for masking in ('_valid_masking', '_old_masking'):
        vars(probe).pop(masking, None)
    return probe


def _step_seconds(probe: Any, *, of: float) -> float:
    """Seconds of a training step, the mean over the sequence lengths of the run, in about `of` seconds."""
    loader = probe.train_loader
    shares = {None: 1.}
    if probe.seq_len_schedule and isinstance(loader, TrainLoader):
        lengths = seq_len_schedule(probe.seq_len_schedule, seq_len=probe.seq_len)
        counts = collections.Counter(lengths(i / _N_POINTS) for i in range(_N_POINTS))
        shares = {length: count / _N_POINTS for length, count in counts.items()}
    total, index = 0., BatchIndex(loader_length(loader) or 0, 1)
    for length, share in shares.items():
        batches = _training_batches(loader, length)
        with probe.mode.update(is_train=True), tracker.namespace('train'), torch.enable_grad():
            total += share * _seconds(lambda: probe.step(next(batches), index), of=of / len(shares),  # noqa: B023
                                      sync=probe.device)
        probe.step_metrics.finish()
    return total


def _training_batches(loader: Any, length: int | None) -> Iterator[Any]:
    """Batches without end; those of a built-in loader at some sequence length, if there is a schedule."""
    if isinstance(loader, TrainLoader):
        loader = copy.copy(loader)
        if length is not None:
            loader.seq_len_at = lambda _: length
        return itertools.chain.from_iterable(map(loader.batches, itertools.count()))
    return _endless(_own_copy(loader, 'training'))


def _endless(loader: Iterable) -> Iterator[Any]:
    while True:
        n = 0
        for batch in loader:
            n += 1
            yield batch
        if not n:
            raise UserError('max_minutes: the training loader has not enough batches to measure the speed with: give '
                            'max_steps')


def _own_copy(loader: Any, which: str) -> Any:
    """A copy of a loader of the user's, which may draw and count as it likes."""
    try:
        return copy.deepcopy(loader)
    except Exception as e:  # whatever it holds
        raise UserError(f'max_minutes: the speed is measured on batches of a copy of the {which} loader, and yours, a '
                        f'{type(loader).__name__}, cannot be copied ({e}): give max_steps') from None


def _validation_seconds(probe: Any) -> float:
    """Seconds of a validation, with that of old text and the probe."""
    total = 0.
    with probe.mode.update(is_train=False), tracker.namespace('valid'), torch.no_grad():
        for loader, step, restart in ((probe.valid_loader, probe.step, probe._start_validation),
                                      (probe.old_loader, lambda batch, _: probe.old_step(batch, _),
                                       lambda: probe._old_masking.restart())):
            if loader is None:
                continue
            length = loader_length(loader)
            own = loader if isinstance(loader, ValidLoader) else _own_copy(loader, 'validation')
            if length is None:
                length = sum(1 for _ in own)
                own = _own_copy(loader, 'validation')
            if not length:
                continue
            restart()
            batches = itertools.chain.from_iterable(itertools.repeat(own))
            index = BatchIndex(length, 1)
            total += length * _seconds(lambda: step(next(batches), index), of=_VALID_SECONDS,  # noqa: B023
                                       sync=probe.device)
    if probe.prober is not None:
        total += _seconds(lambda: probe.prober(probe.model, n_validations=probe.probe_every), of=0.,
                          sync=probe.device) / probe.probe_every
    return total


def _seconds(call: Callable[[], Any], *, of: float, sync: torch.device) -> float:
    """
    Mean seconds of a call, at the main rank.

    * `of` is for about how many seconds it is called; with 0 a second call is the one that is timed
    * `sync` is the device that is waited for
    """
    def run(n: int) -> float:
        began = _now(sync)
        for _ in range(n):
            call()
        return _now(sync) - began

    run(_WARM_UP if of else 1)
    one = run(1)
    n = ranks().broadcast(min(_MOST_CALLS, int(of / max(one, 1e-9))))
    return ranks().broadcast(run(n) / n if n > 1 else one)


def _now(device: torch.device) -> float:
    """The clock, when a device is done with its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()
