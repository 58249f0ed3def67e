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

from labml_mlm.common.declarations import ABOVE_ZERO, FRACTION, INEXACT, Item, at_least
from labml_mlm.configs.model import ModelConfigs
from labml_mlm.optim.optimizer import MLMOptimizerConfigs, MuonConfigs, has_own_schedule, weight_matrices
from labml_mlm.optim.schedules import inverse_sqrt, noam, warmup_cosine, warmup_linear, warmup_stable_decay
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
    scheduler: Annotated[torch.optim.lr_scheduler.LambdaLR, Item('Sets the learning rate of each step')] = 'lambda'
    grad_norm_clip: Annotated[float | None, Item('Maximum gradient norm; `none` disables clipping', ABOVE_ZERO,
                                                 may_change=INEXACT)] = 1.0
    progress: Annotated[Progress, Item('How far the run is')]


@option(OptimizationConfigs.optimizer, 'mlm')
def _optimizer(c: OptimizationConfigs) -> MLMOptimizerConfigs:
    return _for_model(c, MLMOptimizerConfigs())


@option(OptimizationConfigs.optimizer, 'muon')
def _muon(c: OptimizationConfigs) -> MuonConfigs:
    return _for_model(c, MuonConfigs())


def _for_model(c: OptimizationConfigs, conf: Any) -> Any:
    """Gives the configs of an optimizer the parameters of the model."""
    conf.parameters = list(c.model.parameters())
    conf.decayed = weight_matrices(c.model)
    conf.matrices = [m.weight for m in c.model.encoder.modules() if isinstance(m, nn.Linear)]
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
    def factor(step: int) -> float:
        total_steps = c.progress.steps + c.progress.steps_left(c.train_loader, **c._run_length)
        return schedule(step, warmup_steps=c.lr_warmup_steps, total_steps=total_steps, min_ratio=c.min_lr_ratio)
    return factor


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
