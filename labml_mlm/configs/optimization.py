"""
# Configs of optimization

The optimizer, its learning rate over training, and gradient clipping.
"""
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from labml import tracker
from labml.configs import option
from torch import nn

from labml_mlm.common.errors import UserError
from labml_mlm.configs.model import ModelConfigs
from labml_mlm.items.declarations import ABOVE_ZERO, FRACTION, INEXACT, Item, Range, at_least
from labml_mlm.items.schema import chosen_value
from labml_mlm.optim.layer_decay import has_scales, lr_scales
from labml_mlm.optim.optimizer import (
    MLMOptimizerConfigs,
    MuonConfigs,
    current_lr,
    has_own_schedule,
    weight_matrices,
)
from labml_mlm.optim.schedules import decay_begin, inverse_sqrt, noam, warmup_cosine, warmup_linear, warmup_stable_decay
from labml_mlm.screen.console import warn
from labml_mlm.training.engine import Engine
from labml_mlm.training.progress import Progress
from labml_mlm.training.skipped_steps import SkippedSteps, gradient_norm

# Options of `lr_schedule`
_WITH_WARM_UP = 'warmup_cosine', 'warmup_linear', 'wsd', 'inverse_sqrt', 'noam'


class OptimizationConfigs(ModelConfigs):
    """
    ## Configurations of optimization
    """
    optimizer: Annotated[torch.optim.Optimizer, Item('Optimizer with its learning rate: `mlm` is AdamW, `muon` Muon')] \
        = 'mlm'
    lr_schedule: Annotated[Callable[[int], float], Item(
        "Learning rate over training; for torch's optimizers, as labml_nn's have their own",
        may_change=INEXACT, belongs_to="scheduler=lambda with torch's optimizers and Muon")] = 'warmup_cosine'
    lr_warmup_steps: Annotated[int, Item(
        'Warm-up', at_least(0), unit='optimizer steps', may_change=INEXACT,
        belongs_to="lr_schedule=warmup_cosine, warmup_linear, wsd, inverse_sqrt and noam; labml_nn's optimizers have "
                   'optimizer.warmup')] = 100
    min_lr_ratio: Annotated[float, Item('Learning rate at the end, as a fraction of the peak', FRACTION,
                                        may_change=INEXACT, aliases=('lr_min_share',),
                                        belongs_to='lr_schedule=warmup_cosine, warmup_linear and wsd')] = 0.0
    lr_decay_fraction: Annotated[float, Item('Fraction of training in which it decays, for lr_schedule=wsd', FRACTION,
                                             may_change=INEXACT, aliases=('lr_decay_share',),
                                             belongs_to='lr_schedule=wsd')] = 0.3
    lr_layer_decay: Annotated[float, Item(
        'Learning rate of a layer, as a fraction of that of the layer above it, for FusedAdamW and Muon; head and last '
        'norm have the whole one, and embeddings come below the first layer', Range(0, 1, is_open=True),
        may_change=INEXACT)] = 1.0
    scheduler: Annotated[torch.optim.lr_scheduler.LambdaLR, Item('Sets the learning rate of each step')] = 'lambda'
    grad_norm_clip: Annotated[float | None, Item('Maximum gradient norm; `none` disables clipping', ABOVE_ZERO,
                                                 may_change=INEXACT)] = 1.0
    precision: Annotated[torch.dtype, Item('Precision of matrix products; `auto` is bf16 on GPUs that have it',
                                           may_change=INEXACT)] = 'auto'
    gradient_accumulation_steps: Annotated[int, Item(
        'Micro-batches per step, for a batch that does not fit into memory', at_least(1), may_change=INEXACT,
        aliases=('accumulate',))] = 1
    max_skipped_steps: Annotated[int, Item(
        'Steps in a row that are skipped, as their loss or gradient is not finite, before the run ends; 0 ends it at '
        'the first',
        at_least(0), unit='optimizer steps', may_change=True)] = 20
    skipped_steps: Annotated[SkippedSteps, Item('Skips steps whose loss or gradient is not finite')]
    progress: Annotated[Progress, Item('How far the run is')]

    # Default learning rates by the option of `optimizer`, where they are not those of its configs
    _rates: ClassVar[dict[str, float]] = {}

    @property
    def _total_steps(self) -> int:
        """Optimizer steps of the whole run, as far as it has come with the batch sizes that it had."""
        return self.progress.steps + self.progress.steps_left(self.train_loader, **self._run_length)

    @property
    def _has_warm_up(self) -> bool:
        """Does the learning rate rise for `lr_warmup_steps`? Not if `lr_schedule` or `scheduler` are the user's."""
        chosen = [chosen_value(self, name) for name in ('lr_schedule', 'scheduler')]
        return chosen in [[name, 'lambda'] for name in _WITH_WARM_UP] and not has_own_schedule(self.optimizer)

    @property
    def _decay_begin(self) -> int | None:
        """The step at which the decay of lr_schedule=wsd begins; `None` with any other schedule."""
        if chosen_value(self, 'lr_schedule') != 'wsd' or has_own_schedule(self.optimizer):
            return None
        return decay_begin(warmup_steps=self.lr_warmup_steps, total_steps=self._total_steps,
                           decay_fraction=self.lr_decay_fraction)

    @property
    def _is_before_decay(self) -> bool:
        """Is the next step the first one of that decay?"""
        return self.progress.steps == self._decay_begin

    @property
    def _has_decay_begun(self) -> bool:
        """Is that decay over, or the next step one of it?"""
        return self._decay_begin is not None and self.progress.steps >= self._decay_begin

    def update(self):
        """
        Clips the gradients and takes an optimizer step at the learning rate that is due. If they or the loss, as far as
        the engine knows it, are not finite, the step is skipped, and counts as any other for schedules.
        """
        norm = gradient_norm(self.model.parameters(), clip=self.grad_norm_clip)
        # A subclass with another objective may do without
        engine = getattr(self, 'engine', None)
        loss = engine.take_loss() if isinstance(engine, Engine) else None
        self.skipped_steps.take(self.optimizer, norm, step=self.progress.steps, loss=loss)
        tracker.add('lr', current_lr(self.optimizer))
        self.scheduler.step()
        self.optimizer.zero_grad()

    def _check_layer_decay(self):
        if self.lr_layer_decay == 1:
            return
        scales, optimizer = lr_scales(self.model, self.lr_layer_decay), self.optimizer
        if not has_scales(optimizer, scales):
            raise UserError(f'lr_layer_decay={self.lr_layer_decay} is for optimizer.optimizer=FusedAdamW and Muon: '
                            f'{type(optimizer).__name__} has the same learning rate for all layers')


@option(OptimizationConfigs.optimizer, 'mlm')
def _optimizer(c: OptimizationConfigs) -> MLMOptimizerConfigs:
    return _for_model(c, MLMOptimizerConfigs(), learning_rate=c._rates.get('mlm'))


@option(OptimizationConfigs.optimizer, 'muon')
def _muon(c: OptimizationConfigs) -> MuonConfigs:
    return _for_model(c, MuonConfigs(), learning_rate=c._rates.get('muon'))


def _for_model(c: OptimizationConfigs, conf: Any, *, learning_rate: float | None) -> Any:
    """Gives the configs of an optimizer the parameters of the model, and perhaps another default."""
    if learning_rate is not None:
        conf.set_default(MLMOptimizerConfigs.learning_rate, func=lambda: learning_rate)
    conf.parameters = [p for p in c.model.parameters() if p.requires_grad]
    conf.decayed = [matrix for matrix in weight_matrices(c.model) if matrix.requires_grad]
    conf.matrices = [m.weight for m in c.model.encoder.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
    if not conf.parameters:
        raise UserError('all parameters of the model are frozen: there is nothing to train')
    if c.lr_layer_decay != 1:
        conf.lr_scales = lr_scales(c.model, c.lr_layer_decay)
    conf.set_default(MLMOptimizerConfigs.d_model, func=lambda: c.transformer.d_model)
    return conf


@option(OptimizationConfigs.lr_schedule, 'warmup_cosine')
def _warmup_cosine(c: OptimizationConfigs):
    return _until_end(c, warmup_cosine)


@option(OptimizationConfigs.lr_schedule, 'warmup_linear')
def _warmup_linear(c: OptimizationConfigs):
    return _until_end(c, warmup_linear)


@option(OptimizationConfigs.lr_schedule, 'wsd')
def _wsd(c: OptimizationConfigs):
    if c.lr_decay_fraction == 0:
        warn('lr_decay_fraction=0: lr_schedule=wsd has no decay, and the learning rate stays at its peak')
    return _until_end(c, functools.partial(warmup_stable_decay, decay_fraction=c.lr_decay_fraction))


def _until_end(c: OptimizationConfigs, schedule: Callable[..., float]) -> Callable[[int], float]:
    """A schedule that knows when training ends."""
    if c.min_lr_ratio == 1:
        warn(f'min_lr_ratio={c.min_lr_ratio:g}: the learning rate ends at its peak, so it is constant after the '
             'warm-up')
    return lambda step: schedule(step, warmup_steps=c.lr_warmup_steps, total_steps=c._total_steps,
                                 min_ratio=c.min_lr_ratio)


@option(OptimizationConfigs.lr_schedule, 'inverse_sqrt')
def _inverse_sqrt(c: OptimizationConfigs):
    return functools.partial(inverse_sqrt, warmup_steps=c.lr_warmup_steps)


@option(OptimizationConfigs.lr_schedule, 'noam')
def _noam(c: OptimizationConfigs):
    return functools.partial(noam, warmup_steps=c.lr_warmup_steps, d_model=c.transformer.d_model)


@option(OptimizationConfigs.lr_schedule, 'constant')
def _constant():
    return lambda step: 1.


@option(OptimizationConfigs.precision, 'auto')
def _auto_precision(c: OptimizationConfigs):
    if c.device.type != 'cuda':
        return torch.float32
    with torch.cuda.device(c.device):
        # GPUs without it can emulate it, slower than fp32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


@option(OptimizationConfigs.precision, 'fp32')
def _fp32():
    return torch.float32


@option(OptimizationConfigs.precision, 'bf16')
def _bf16():
    return torch.bfloat16


@option(OptimizationConfigs.scheduler, 'lambda')
def _scheduler(c: OptimizationConfigs):
    schedule = (lambda step: 1.) if has_own_schedule(c.optimizer) else c.lr_schedule
    return torch.optim.lr_scheduler.LambdaLR(c.optimizer, schedule)
