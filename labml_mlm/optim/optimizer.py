"""
# Optimizers

All of labml_nn's, under the names that they have there; torch's fused AdamW; and Muon.
"""
import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from labml.configs import option
from labml_nn.optimizers import GenericAdaptiveOptimizer
from labml_nn.optimizers.configs import OptimizerConfigs
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import ABOVE_ZERO, FRACTION, INEXACT, DeclaredConfigs, Item, Range, at_least
from labml_mlm.optim.muon import MuonAdamW

_SOPHIA = ("labml_nn's configs cannot build it: `rho` has no value, and it needs a Hessian estimate that no step of "
           'theirs makes')

_OF_LABML = "optimizer.optimizer=Adam, AdamW, RAdam, AdaBelief, Noam and AdamWarmupCosineDecay, labml_nn's"
_ADAMS = 'all optimizers but optimizer.optimizer=SGD'


class MLMOptimizerConfigs(DeclaredConfigs, OptimizerConfigs):
    """
    ## Configurable optimizer

    labml_nn's `OptimizerConfigs`, where `AdamW` is `AdamWarmup`; torch's AdamW is `FusedAdamW`.
    """
    optimizer: Annotated[torch.optim.Optimizer, Item('Optimizer', refused_options={'Sophia': _SOPHIA})] = 'FusedAdamW'
    learning_rate: Annotated[float, Item('Peak learning rate; for `Noam`, the factor of its formula', ABOVE_ZERO,
                                         may_change=INEXACT)] = 2e-3
    weight_decay: Annotated[float, Item("Weight decay: of the matrices of linear layers; with labml_nn's "
                                           'optimizers, of all parameters', at_least(0), may_change=INEXACT)]
    betas: Annotated[tuple[float, float], Item('Decay rates of the moments of Adam', Range(0, 0.999999),
                                                   belongs_to=_ADAMS)]
    eps: Annotated[float, Item('Epsilon of Adam', ABOVE_ZERO, belongs_to=_ADAMS)]
    muon_momentum: Annotated[float, Item('Momentum of `Muon`', Range(0, 0.999999),
                                            belongs_to='optimizer=muon')] = 0.9
    momentum: Annotated[float, Item('Momentum of `SGD`', FRACTION, belongs_to='optimizer.optimizer=SGD')]
    amsgrad: Annotated[bool, Item('Use AMSGrad', belongs_to=_ADAMS)]
    weight_decouple: Annotated[bool, Item("Decoupled weight decay, for labml_nn's optimizers",
                                               belongs_to=_OF_LABML)]
    weight_decay_absolute: Annotated[bool, Item("Weight decay does not scale with the learning rate, for labml_nn's "
                                                'optimizers', belongs_to=_OF_LABML)]
    optimized_adam_update: Annotated[bool, Item("Faster update with another epsilon, for labml_nn's `Adam`",
                                                belongs_to='optimizer.optimizer=Adam')]
    warmup: Annotated[int, Item("Warm-up of labml_nn's optimizers", at_least(1), unit='steps',
                                belongs_to='optimizer.optimizer=AdamW, Noam and AdamWarmupCosineDecay; otherwise it is '
                                           'lr_warmup_steps')]
    total_steps: Annotated[int, Item('Length of `AdamWarmupCosineDecay`', at_least(1), unit='steps',
                                     belongs_to='optimizer.optimizer=AdamWarmupCosineDecay; the length of a run is '
                                                'max_steps')]
    degenerate_to_sgd: Annotated[bool, Item('Fall back to SGD, for `AdaBelief` and `RAdam`',
                                            belongs_to='optimizer.optimizer=AdaBelief and RAdam')]
    rectify: Annotated[bool, Item('Rectified update of `AdaBelief`', belongs_to='optimizer.optimizer=AdaBelief')]
    d_model: Annotated[int, Item('Model size in the formula of `Noam`', at_least(1), follows='transformer.d_model',
                                 belongs_to='optimizer.optimizer=Noam')]
    parameters: Annotated[Any, Item(refused='the optimizer trains the parameters of the model')]
    # Those of the parameters that have weight decay; all matrices, if there is no model to tell
    decayed: Annotated[list | None, Item(refused='they are the matrices of linear layers')] = None
    # Those of the parameters that are matrices of the encoder, for `Muon`
    matrices: Annotated[list, Item(refused='they are those of the encoder')] = []
    # Factor of the learning rate of each parameter, by its `id`; all 1, if there are none
    lr_scales: Annotated[dict[int, float], Item(refused='they follow from `lr_layer_decay`')] = {}
    rho: Annotated[float, Item(refused='it is an argument of `Sophia`, which cannot be built from its configs')]
    weight_decay_obj: Annotated[Any, Item(refused='give `optimizer.weight_decay`')]


class MuonConfigs(MLMOptimizerConfigs):
    """
    ## The same with Muon by default, and a learning rate for it
    """
    optimizer = 'Muon'
    learning_rate = 1e-2


@option(MLMOptimizerConfigs.optimizer, 'FusedAdamW')
def _fused_adamw(c: MLMOptimizerConfigs):
    """
    AdamW ([Loshchilov and Hutter 2019](https://arxiv.org/abs/1711.05101), algorithm 2) in one kernel.

    `weight_decay` is for the matrices of linear layers only; pulling the gain of a norm, or the embedding of a rare
    token, to 0 is no sensible prior.
    """
    return _adamw(c, c.parameters)


@option(MLMOptimizerConfigs.optimizer, 'Muon')
def _muon(c: MLMOptimizerConfigs):
    if not c.matrices:
        raise UserError('optimizer=muon is for matrices of the encoder, and there are none to train: use optimizer=mlm')
    is_matrix = {id(matrix) for matrix in c.matrices}
    adamw = _adamw(c, [p for p in c.parameters if id(p) not in is_matrix])
    groups = [{'params': matrices, 'lr': lr} for (lr,), matrices in _grouped(c, c.matrices)]
    return MuonAdamW(groups, adamw, lr=c.learning_rate, weight_decay=c.weight_decay, momentum=c.muon_momentum)


def _adamw(c: MLMOptimizerConfigs, parameters: list[Tensor]) -> torch.optim.AdamW:
    decayed = {id(p) for p in (c.parameters if c.decayed is None else c.decayed) if p.ndim >= 2}
    # Checkpoints number the parameters in this order: matrices first, whether they decay or not
    ordered = sorted(parameters, key=lambda p: p.ndim < 2)
    groups = [{'params': group, 'lr': lr, 'weight_decay': c.weight_decay if is_decayed else 0.}
              for (lr, is_decayed), group in _grouped(c, ordered, lambda p: id(p) in decayed)]
    return torch.optim.AdamW(groups, lr=c.learning_rate, betas=c.betas, eps=c.eps, amsgrad=c.amsgrad, fused=True,
                             weight_decay=c.weight_decay)


def _grouped(c: MLMOptimizerConfigs, parameters: list[Tensor], *keys: Callable[[Tensor], Any]) \
        -> Iterator[tuple[tuple, list[Tensor]]]:
    """Parameters in a row that have the same learning rate and keys, with these; their order stays as it is."""
    def key(p: Tensor) -> tuple:
        return c.learning_rate * c.lr_scales.get(id(p), 1.), *(one(p) for one in keys)

    for found, group in itertools.groupby(parameters, key=key):
        yield found, list(group)


def weight_matrices(model: nn.Module) -> list[Tensor]:
    """
    Parameters with weight decay: those of at least two dimensions that are named `weight`, as in linear layers, and are
    no embeddings, also not those that the head shares. Biases, gains and embeddings of positions have other names, or
    one dimension.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [parameter for module in model.modules() for name, parameter in module.named_parameters(recurse=False)
            if parameter.ndim >= 2 and name.endswith('weight') and id(parameter) not in embeddings]


def has_own_schedule(optimizer: torch.optim.Optimizer) -> bool:
    """Does it compute its learning rate itself, as labml_nn's do?"""
    return isinstance(optimizer, GenericAdaptiveOptimizer)


def current_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the last `optimizer.step()`: the highest, if parameter groups differ."""
    if not has_own_schedule(optimizer):
        return max(group['lr'] for group in optimizer.param_groups)
    group = optimizer.param_groups[0]
    state = next((optimizer.state[p] for p in group['params'] if optimizer.state.get(p)), None)
    return optimizer.get_lr(state, group) if state else group['lr']


def load_optimizer_state(optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler,
                         saved: dict[str, Any], saved_schedule: dict[str, Any]):
    """
    Restores the state of each parameter, and the number of steps that the scheduler has seen.

    A learning rate that is a function of the step is computed from the configs as they are now, and so are all other
    hyper-parameters; a scheduler of another kind has the rate as its state, and gets it back.

    Raises `ValueError` if the parameters differ.
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
