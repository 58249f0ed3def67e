"""
# Optimizers

All of labml_nn's, by the names that they have there, torch's fused AdamW, and Muon.
"""

from collections.abc import Iterable
from typing import Any

import torch
from labml.configs import option
from labml_nn.optimizers import GenericAdaptiveOptimizer
from labml_nn.optimizers.configs import OptimizerConfigs
from torch import Tensor

from labml_mlm.common.errors import ABOVE_ZERO, SHARE, Range, at_least
from labml_mlm.common.labml_compat import OwnDefaults
from labml_mlm.optim.muon import MuonAdamW


class MLMOptimizerConfigs(OwnDefaults, OptimizerConfigs):
    """
    ## Configurable optimizer

    labml_nn's `OptimizerConfigs`, where `AdamW` is `AdamWarmup`; torch's AdamW is `FusedAdamW`.
    """
    # Optimizer, by name
    optimizer: torch.optim.Optimizer = 'FusedAdamW'
    # Those of the parameters that are matrices within the encoder, for `Muon`
    matrices: list = []
    # Of the matrices, for `Muon`
    muon_momentum: float = 0.9
    # Peak learning rate; of `Noam`, the factor of its formula
    learning_rate: float = 2e-3

    _ranges = {'learning_rate': ABOVE_ZERO, 'eps': ABOVE_ZERO, 'weight_decay': at_least(0), 'momentum': SHARE,
               'muon_momentum': Range(0, 0.999999), 'betas': Range(0, 0.999999), 'warmup': at_least(1),
               'total_steps': at_least(1), 'd_model': at_least(1)}
    _refused = {
        'optimizer=Sophia': "labml_nn's configs cannot build it: `rho` has no value, and it needs a Hessian estimate "
                            'that no step of theirs makes',
        'rho': 'it is an argument of `Sophia`, which cannot be built from its configs',
        'parameters': 'the optimizer trains the parameters of the model',
        'matrices': 'they are those of the encoder',
        'weight_decay_obj': 'give `optimizer.weight_decay`',
    }


class MuonConfigs(MLMOptimizerConfigs):
    """
    ## The same with Muon by default, and a rate for it
    """
    optimizer: torch.optim.Optimizer = 'Muon'
    learning_rate: float = 1e-2


@option(MLMOptimizerConfigs.optimizer, 'FusedAdamW')
def _fused_adamw(c: MLMOptimizerConfigs):
    """
    AdamW ([Loshchilov and Hutter 2019](https://arxiv.org/abs/1711.05101), algorithm 2) in one kernel.

    `weight_decay` is for matrices only; its pull to 0 is no sensible prior for the gain of a norm.
    """
    return _adamw(c.parameters, lr=c.learning_rate, weight_decay=c.weight_decay, betas=c.betas, eps=c.eps,
                  amsgrad=c.amsgrad)


@option(MLMOptimizerConfigs.optimizer, 'Muon')
def _muon(c: MLMOptimizerConfigs):
    is_matrix = {id(matrix) for matrix in c.matrices}
    adamw = _adamw((p for p in c.parameters if id(p) not in is_matrix), lr=c.learning_rate,
                   weight_decay=c.weight_decay, betas=c.betas, eps=c.eps, amsgrad=c.amsgrad)
    return MuonAdamW(c.matrices, adamw, lr=c.learning_rate, weight_decay=c.weight_decay, momentum=c.muon_momentum)


def _adamw(parameters: Iterable[Tensor], *, weight_decay: float, **arguments: Any) -> torch.optim.AdamW:
    parameters = list(parameters)
    return torch.optim.AdamW([
        {'params': [p for p in parameters if p.ndim >= 2], 'weight_decay': weight_decay},
        {'params': [p for p in parameters if p.ndim < 2], 'weight_decay': 0.},
    ], fused=True, **arguments)


def has_own_schedule(optimizer: torch.optim.Optimizer) -> bool:
    """labml_nn's optimizers compute their rate themselves; torch's take what they are given."""
    return isinstance(optimizer, GenericAdaptiveOptimizer)


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate in force in the last `optimizer.step()`, of the first parameter group."""
    group = optimizer.param_groups[0]
    if not has_own_schedule(optimizer):
        return group['lr']
    state = next((optimizer.state[p] for p in group['params'] if optimizer.state.get(p)), None)
    return optimizer.get_lr(state, group) if state else group['lr']


def resume_optimizer(optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler,
                     saved: dict[str, Any], saved_schedule: dict[str, Any]):
    """
    Puts back what an optimizer keeps for each parameter, and how many steps its schedule has seen.

    A rate that is a function of the step is computed from the configs as they are now, and so are all other
    hyper-parameters; a schedule of another kind has the rate as its state, and gets it back.

    Raises `ValueError` if the parameters are not the same.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        optimizer.load_state_dict(saved)
        scheduler.load_state_dict(saved_schedule)
        return
    optimizer.load_state_dict({'state': saved['state'], 'param_groups': optimizer.state_dict()['param_groups']})
    scheduler.last_epoch = saved_schedule['last_epoch']
    rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    scheduler._last_lr = [base * schedule(scheduler.last_epoch) for base, schedule in rates]
    for group, rate in zip(optimizer.param_groups, scheduler._last_lr, strict=True):
        group['lr'] = rate

