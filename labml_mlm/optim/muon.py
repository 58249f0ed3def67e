r"""
# Muon

The gradient of a matrix mostly consists of a few directions, and a step along it learns little of all others. Muon
([Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/)) moves a matrix by the matrix with orthonormal rows or
columns that is nearest to its momentum: for $M = U S V^\top$ that is $U V^\top$, every direction at the same speed. No
singular value is computed for that: the Newton–Schulz iteration

$$X \leftarrow a X + (b A + c A^2) X, \qquad A = X X^\top, \qquad X_0 = M / \lVert M \rVert_F$$

brings all of them near 1 in five iterations. They need not be 1: with the coefficients below small ones grow fast, and
all end up between 0.7 and 1.2.

Embeddings, the projection to the vocabulary, gains and biases are not maps between hidden states, and are left to
AdamW. Muon's updates are scaled by $0.2 \sqrt{\max(n, m)}$ for a matrix of $n \times m$, to be as large as AdamW's
([Liu et al. 2025](https://arxiv.org/abs/2502.16982), section 2.2): one learning rate serves both.
"""
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from labml_mlm.distributed.parallel import full_tensor, shard_like

# Of the iteration, as Jordan et al. found them
_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """
    ## Muon, for all matrices of one shape at once

    Equal to torch's (2.9 and later) with `adjust_lr_fn='match_rms_adamw'`. That one takes a matrix at a time, and
    computes in 16 bits, which GPUs are fast at. On the CPU this one computes in 32; both together take a third of the
    time there.

    As with torch's fused optimizers, nothing changes where the tensor `found_inf` is 1.
    """
    found_inf: Tensor | None = None
    _step_supports_amp_scaling = True

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float):
        super().__init__(matrices, {'lr': lr, 'weight_decay': weight_decay, 'momentum': momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all matrices that have a gradient. Returns the loss that `closure` computes, if there is one."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group['params']:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for (n, m), matrices in by_shape.items():
                updates = orthogonalize(self._momenta(matrices, group['momentum']))
                updates = [shard_like(matrix, update) for matrix, update in zip(matrices, updates, strict=True)]
                decay = group['lr'] * group['weight_decay']
                if self.found_inf is not None:
                    # Both without effect, on the device
                    decay = decay * (1 - self.found_inf)
                    torch._foreach_mul_(updates, 1 - self.found_inf)
                torch._foreach_mul_(matrices, 1 - decay)
                torch._foreach_add_(matrices, updates, alpha=-group['lr'] * 0.2 * max(n, m) ** 0.5)
        return loss

    def _momenta(self, matrices: list[Tensor], momentum: float) -> Tensor:
        """Nesterov momenta of matrices of one shape, `[n_matrices, n, m]`; whole ones, even if ranks have shards."""
        gradients = [matrix.grad for matrix in matrices]
        states = [self.state[matrix] for matrix in matrices]
        for state, gradient in zip(states, gradients, strict=True):
            if 'momentum_buffer' not in state:
                state['momentum_buffer'] = torch.zeros_like(gradient)
        buffers = [state['momentum_buffer'] for state in states]
        if self.found_inf is not None:
            # Momenta stay as they are
            gradients = [torch.where(self.found_inf > 0, buffer, gradient)
                         for buffer, gradient in zip(buffers, gradients, strict=True)]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return torch.stack([full_tensor(one) for one in torch._foreach_lerp(gradients, buffers, momentum)])


def _evaluate(closure: Callable[[], Any] | None) -> Any:
    """The loss that a closure computes anew, with its gradients; `None` without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def orthogonalize(x: Tensor) -> Tensor:
    """
    Approximates the nearest matrices with orthonormal rows, or columns where there are fewer, of all `x`,
    `[n_matrices, n, m]`.
    """
    a, b, c = _COEFFICIENTS
    dtype, is_tall = x.dtype, x.shape[1] > x.shape[2]
    x = x.bfloat16() if x.is_cuda else x
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(dtype)


class MuonAdamW(torch.optim.Optimizer):
    """
    ## Muon for some matrices, AdamW for everything else

    * `matrices` are for Muon, with `lr`, `weight_decay` and `momentum`
    * `adamw` is the optimizer of all other parameters

    Its parameter groups are those of both, the matrices first. Groups that are added later are for AdamW.
    """

    def __init__(self, matrices: Iterable[Tensor], adamw: torch.optim.AdamW, *, lr: float, weight_decay: float,
                 momentum: float):
        self.parts = [Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum), adamw]
        self._is_complete = False
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share_state()
        self._is_complete = True

    def add_param_group(self, param_group: dict[str, Any]):
        """Adds a group of parameters for AdamW. Raises `ValueError` if one of them is here already."""
        super().add_param_group(param_group)
        if self._is_complete:
            adamw = self.parts[1]
            group = self.param_groups.pop()
            adamw.add_param_group(group)
            self.param_groups.append(adamw.param_groups[-1])

    def _share_state(self):
        """Both optimizers work on the groups and the state of this one."""
        begin = 0
        for part in self.parts:
            part.state = self.state
            part.param_groups = self.param_groups[begin:begin + len(part.param_groups)]
            begin += len(part.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of both. Returns the loss that `closure` computes, if there is one."""
        loss = _evaluate(closure)
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]):
        """Restores what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._share_state()
