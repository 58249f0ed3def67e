"""
# Configs of optimization

The optimizer, its learning rate over training, and gradient clipping.
"""
import functools
from collections.abc import Callable
from typing import Annotated, Any

import torch
from labml.configs import option
from torch import nn

from labml_mlm.common.declarations import ABOVE_ZERO, FRACTION, INEXACT, Item, Range, at_least
from labml_mlm.common.errors import UserError
from labml_mlm.common.schema import chosen_value
from labml_mlm.configs.model import ModelConfigs
from labml_mlm.optim.layer_decay import has_scales, lr_scales
from labml_mlm.optim.optimizer import MLMOptimizerConfigs, MuonConfigs, has_own_schedule, weight_matrices
from labml_mlm.optim.schedules import decay_begin, inverse_sqrt, noam, warmup_cosine, warmup_linear, warmup_stable_decay
from labml_mlm.training.progress import Progress


class OptimizationConfigs(ModelConfigs):
    """
    ## Configurations of optimization
    """
    optimizer: Annotated[torch.optim.Optimizer, Item('Optimizer with its learning rate: `mlm` is AdamW, `muon` Muon')] \
        = 'mlm'
    lr_schedule: Annotated[Callable[[int], float], Item(
        "Learning rate over training; for torch's optimizers, as labml_nn's have their own",
        may_change=INEXACT)] = 'warmup_cosine'
    lr_warmup_steps: Annotated[int, Item('Warm-up', at_least(0), unit='optimizer steps', may_change=INEXACT)] = 100
    min_lr_ratio: Annotated[float, Item('Learning rate at the end, as a fraction of the peak', FRACTION,
                                        may_change=INEXACT, aliases=('lr_min_share',))] = 0.0
    lr_decay_fraction: Annotated[float, Item('Fraction of training in which it decays, for lr_schedule=wsd', FRACTION,
                                             may_change=INEXACT, aliases=('lr_decay_share',))] = 0.3
    lr_layer_decay: Annotated[float, Item(
        'Learning rate of a layer, as a fraction of that of the layer above it, for FusedAdamW and Muon; head and last '
        'norm have the whole one, and embeddings come below the first layer', Range(0, 1, is_open=True),
        may_change=INEXACT)] = 1.0
    scheduler: Annotated[torch.optim.lr_scheduler.LambdaLR, Item('Sets the learning rate of each step')] = 'lambda'
    grad_norm_clip: Annotated[float | None, Item('Maximum gradient norm; `none` disables clipping', ABOVE_ZERO,
                                                 may_change=INEXACT)] = 1.0
    progress: Annotated[Progress, Item('How far the run is')]

    @property
    def _total_steps(self) -> int:
        """Optimizer steps of the whole run, as far as it has come with the batch sizes that it had."""
        return self.progress.steps + self.progress.steps_left(self.train_loader, **self._run_length)

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

    def _check_layer_decay(self):
        if self.lr_layer_decay == 1:
            return
        scales, optimizer = lr_scales(self.model, self.lr_layer_decay), self.optimizer
        if not has_scales(optimizer, scales):
            raise UserError(f'lr_layer_decay={self.lr_layer_decay} is for optimizer.optimizer=FusedAdamW and Muon: '
                            f'{type(optimizer).__name__} has the same learning rate for all layers')


@option(OptimizationConfigs.optimizer, 'mlm')
def _optimizer(c: OptimizationConfigs) -> MLMOptimizerConfigs:
    return _for_model(c, MLMOptimizerConfigs())


@option(OptimizationConfigs.optimizer, 'muon')
def _muon(c: OptimizationConfigs) -> MuonConfigs:
    return _for_model(c, MuonConfigs())


def _for_model(c: OptimizationConfigs, conf: Any) -> Any:
    """Gives the configs of an optimizer the parameters of the model."""
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
    return _until_end(c, functools.partial(warmup_stable_decay, decay_fraction=c.lr_decay_fraction))


def _until_end(c: OptimizationConfigs, schedule: Callable[..., float]) -> Callable[[int], float]:
    """A schedule that knows when training ends."""
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


@option(OptimizationConfigs.scheduler, 'lambda')
def _scheduler(c: OptimizationConfigs):
    schedule = (lambda step: 1.) if has_own_schedule(c.optimizer) else c.lr_schedule
    return torch.optim.lr_scheduler.LambdaLR(c.optimizer, schedule)
