"""
# Steps that are skipped

One NaN in the gradient would make all weights NaN for good, so such a step is not taken: weights and the state of the
optimizer stay as they are, and schedules, tokens and batches go on as after any other step. That may happen now and
then. Many in a row are a run that has diverged, and it ends. A loss that is not finite may have a gradient that is;
what such a gradient leads to is not known, so the step is not taken either.

When Python is done with a step on a GPU, only the GPU can know whether loss and gradient are finite. The optimizer
leaves out the step there, if it can: torch's gradient scaler tells its fused optimizers by `found_inf`, and so does
this. Python hears of it `max_late` steps later, at all ranks at the same step.
"""
import collections
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from labml import logger, tracker
from labml.logger import Text
from torch import Tensor

from labml_mlm.common.errors import DivergedError
from labml_mlm.distributed.parallel import full_tensor, is_dtensor
from labml_mlm.optim.muon import MuonAdamW
from labml_mlm.training.metrics import late_copy


class _InFlight(NamedTuple):
    """What is known of a step when the copy has arrived."""
    # Training tokens, labml's global step
    at: int
    # Optimizer steps before it
    step: int
    is_finite: Tensor
    # `None` on a CPU
    arrival: torch.cuda.Event | None


class SkippedSteps:
    """
    ## Skips steps whose loss or gradient is not finite, and counts them

    On a GPU it is known `max_late` steps later which these are.
    """

    # labml would give the configs to an argument of `__init__`
    max_late = 2

    def __init__(self):
        # Of all steps, and of the last ones
        self.total = self.in_a_row = 0
        self._in_flight: collections.deque[_InFlight] = collections.deque()

    def take(self, optimizer: torch.optim.Optimizer, norm: Tensor, *, step: int, loss: Tensor | None = None):
        """
        Takes a step of the optimizer if the gradient, of this `norm`, and the `loss`, if it is known, are finite; it is
        step number `step`. Both must be the same at all ranks.
        """
        is_finite = torch.isfinite(full_tensor(norm.detach()))
        if loss is not None:
            is_finite = is_finite & torch.isfinite(loss)
        if _is_on_gpu(is_finite) and (parts := _that_skip(optimizer)):
            for part in parts:
                part.grad_scale, part.found_inf = None, (~is_finite).float()
            optimizer.step()
        elif is_finite:
            # For others a GPU is waited for
            optimizer.step()
        self._in_flight.append(_InFlight(tracker.get_global_step(), step, *late_copy(is_finite)))

    def check(self, max_in_a_row: int):
        """
        Counts the steps of which it is known. Raises `DivergedError` if more than `max_in_a_row` of them were skipped
        in a row.
        """
        while self._in_flight and (len(self._in_flight) > self.max_late or self._in_flight[0].arrival is None):
            step = self._count()
            if self.in_a_row > max_in_a_row:
                row = f'{self.in_a_row:,} steps in a row' if self.in_a_row > 1 else 'a step'
                raise DivergedError(f'Stopped after step {step + 1:,}: the loss or gradient of {row} was not finite, '
                                    f'and max_skipped_steps={max_in_a_row}')
            if self.in_a_row and self.total == 1:
                logger.log(f'Step {step + 1:,} is skipped: its loss or gradient is not finite. `skipped_steps` counts '
                           f'them; more than {max_in_a_row} in a row end the run (max_skipped_steps)', Text.warning)

    def finish(self):
        """Returns when all steps are counted."""
        while self._in_flight:
            self._count()

    def _count(self) -> int:
        """Counts the first step that is not, and returns its number."""
        late = self._in_flight.popleft()
        if late.arrival is not None:
            late.arrival.synchronize()
        self.in_a_row = 0 if late.is_finite else self.in_a_row + 1
        if self.in_a_row:
            self.total += 1
            now = tracker.get_global_step()
            tracker.save(late.at, {'skipped_steps': self.total})
            tracker.set_global_step(now)
        return late.step

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {'total': self.total, 'in_a_row': self.in_a_row}

    def load_state_dict(self, state: dict[str, int] | None):
        """Restores what `state_dict` returned; `None` is of a run that has not counted."""
        self._in_flight.clear()
        self.total, self.in_a_row = (state['total'], state['in_a_row']) if state else (0, 0)


def gradient_norm(parameters: Iterable[Tensor], *, clip: float | None) -> Tensor:
    """The norm of the gradients of all parameters, which are scaled down to `clip` if it is larger."""
    if clip is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm=clip)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def are_finite(tensors: dict[str, Tensor]) -> bool:
    """Are all numbers of these finite?"""
    # A sum is not finite if a part is not; only large ones are looked at one by one
    return all(math.isfinite(tensor.sum(dtype=torch.double)) or bool(tensor.isfinite().all())
               for tensor in tensors.values() if tensor.is_floating_point())


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _that_skip(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The parts of an optimizer, if all of them can leave out a step on the device."""
    parts = optimizer.parts if isinstance(optimizer, MuonAdamW) else [optimizer]
    is_sharded = any(is_dtensor(p) for group in optimizer.param_groups for p in group['params'])
    can = all(getattr(part, '_step_supports_amp_scaling', False) and part.defaults.get('fused', True) for part in parts)
    return parts if can and not is_sharded else []
