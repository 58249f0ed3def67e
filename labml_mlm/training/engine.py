"""
# Forward and backward, as fast as the machine allows

What a training step does with a masked batch, behind one call: in which precision, compiled or not, and in how many
parts, on how many ranks. None of that changes what is computed:

* **Parts.** A batch too large for memory is cut into `accumulate` parts whose gradients are added up. Each part's loss
  is divided by the number of masked tokens of the *whole* batch, so the sum of gradients is that of the whole: a mean
  of means would weigh a token by how many were masked beside it. Ranks are parts of a batch in the same way.
* **Compiled.** torch's compiler fuses what is between two matrix products. It wants shapes that never change, so it has
  those of a full batch with room for as many masked places as there can be; any other batch goes the ordinary way.
* **Precision.** With `bf16` matrix products have operands of 16 bits, and weights, sums, norms and the loss stay fp32
  (autocast; [Micikevicius et al. 2018](https://arxiv.org/abs/1710.03740)).
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.parallel import Alone
from labml_mlm.distributed.process_group import ALONE, Ranks
from labml_mlm.model.attention import SDPA
from labml_mlm.model.transformer import MLMOutput, TransformerMLM

# What torch's compiler builds with on a CPU
_COMPILERS = 'g++', 'c++', 'clang++'
# Operations a second: what these models reach there without being compiled
_CPU_SPEED = 5e10
_GPU_SPEED = 5e13
# Seconds of training that a compilation is worth
_PAYS_AFTER = 300.


class Engine:
    """
    ## Runs a model on masked batches

    * `precision` is that of matrix products
    * `is_compiled` has torch's compiler make the model faster, for batches of the `shape` given, `[seq_len,
      batch_size]`
    * `accumulate` is the number of parts of a training batch; it has to divide what each rank has of it
    * `n_places` says how many places of a sequence of some length are masked at the most, as `MLM.n_places`; without
      it, and where it gives `None`, they are counted, and nothing is compiled
    * `ranks` share each batch, and the model as `parallel` says

    Raises `UserError` if `accumulate` does not divide the batch size, if there is nothing to compile with, and if what
    is to be compiled has slices on several ranks.
    """

    def __init__(self, model: TransformerMLM, *, precision: torch.dtype, is_compiled: bool, accumulate: int,
                 shape: tuple[int, int], n_places: Callable[[int], int | None] | None, ranks: Ranks = ALONE,
                 parallel: Alone | None = None):
        seq_len, batch_size = shape
        if batch_size % (ranks.size * accumulate):
            of_rank = f' on each of {ranks.size} ranks' if ranks.size > 1 else ''
            raise UserError(f'batch_size={batch_size} cannot be cut into accumulate={accumulate} equal parts{of_rank}')
        self.model = model
        self.precision = precision
        self.accumulate = accumulate
        self.ranks = ranks
        self.parallel = parallel or Alone()
        self._shape = seq_len, batch_size // ranks.size // accumulate
        self._n_places = n_places
        # What is called in training, once it has begun, and the same compiled
        self._training: Any = None
        self._compiled: Any = None
        if is_compiled and not _can_compile(next(model.parameters()).device):
            raise UserError(f'compile=true: there is no compiler here, none of {", ".join(_COMPILERS)}. '
                            'compile=false does without')
        if is_compiled and self.parallel.is_sharded:
            raise UserError('compile=true does not go with parallel=fsdp: compile=false does, and so does parallel=ddp')
        self._is_compiled = False
        # Shapes are not known beforehand if it is not known how much is masked
        if is_compiled and n_places is not None and n_places(seq_len) is not None:
            for module in model.modules():
                if isinstance(module, SDPA):
                    module.make_room(max(seq_len, len(module.turns)))
            self._is_compiled = True

    def forward(self, x: Tensor, labels: Tensor, *context: Tensor | None) -> MLMOutput:
        """
        The output for a masked batch, as `MLM` gives it; `context` is padding and documents, as in `Batch`.
        """
        key_padding, document = context
        # A validation may mask more. In training the share may be another one by now; then it is compiled anew
        n_places = self._n_places(len(x)) if self._n_places and self.model.training else None
        model = self.model if self._training is None or not self.model.training else self._training
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            if self._compiled is None or not self.model.training or x.shape != self._shape or key_padding is not None:
                return model(x, labels, key_padding=key_padding, document=document, n_places=n_places)
            return self._compiled(x, labels, n_places=n_places)

    def forward_backward(self, x: Tensor, labels: Tensor, *context: Tensor | None) -> MLMOutput:
        """
        The same for this rank's columns of a batch, with gradients of the loss of the whole batch added to those of the
        parameters. The output is that of the whole batch, at all ranks.
        """
        self._begin()
        # The others' counts arrive during the forward pass
        counts = self.ranks.sum((labels != self.model.padding_token).sum())
        outputs = []
        with self.ranks.own_random_numbers(x.device):
            for begin, end, is_last in self._parts(x.shape[1]):
                part = (t if t is None else t[:, begin:end] for t in (x, labels, *context))
                with self.parallel.part(self._training, is_last=is_last):
                    output = self.forward(*part)
                    [n_masked] = counts()
                    # The ranks' mean of this is the sum that is wanted
                    (output.loss_sum * self.ranks.size / n_masked.clamp(min=1)).backward()
                outputs.append([output.loss_sum.detach(), output.n_correct])
        loss_sum, n_correct = self.ranks.sum(*(sum(column) for column in zip(*outputs, strict=True)))()
        n_masked = n_masked.clamp(min=1)
        return MLMOutput(loss_sum / n_masked, loss_sum, n_masked, n_correct)

    def _begin(self):
        """At the first step all ranks have what they train on."""
        if self._training is None:
            self._training = self.parallel.training(self.model)
            if self._is_compiled:
                if self.ranks.size > 1:
                    # It would say at each rank that it leaves out what DDP tells torch's profiler
                    logging.getLogger('torch._dynamo.variables.ctx_manager').setLevel(logging.ERROR)
                self._compiled = torch.compile(self._training, fullgraph=self.ranks.size == 1, dynamic=False)

    def _parts(self, n: int) -> Iterator[tuple[int, int, bool]]:
        """
        Where parts of `n` columns begin and end, and whether it is the last one. There are as many at all ranks where
        they wait for each other in each; elsewhere one without columns is left out.
        """
        for i in range(self.accumulate):
            begin, end, is_last = n * i // self.accumulate, n * (i + 1) // self.accumulate, i == self.accumulate - 1
            if begin < end or is_last or self.parallel.is_sharded:
                yield begin, end, is_last


def pays_to_compile(model: TransformerMLM, *, n_tokens: int) -> bool:
    """
    Does compiling save more time than it takes, in a run of so many tokens? An estimate by the size of the model and
    the kind of device, and not by the clock, so that a run that goes on is compiled as it was before.
    """
    device = next(model.parameters()).device
    if not _can_compile(device):
        return False
    # Forward and backward take 6 operations a weight and token; embeddings are look-ups
    n_weights = sum(weight.numel() for weight in model.encoder.parameters())
    speed = _CPU_SPEED * torch.get_num_threads() if device.type == 'cpu' else _GPU_SPEED
    return 6 * n_weights * n_tokens / speed > _PAYS_AFTER


def _can_compile(device: torch.device) -> bool:
    return device.type != 'cpu' or any(map(shutil.which, (os.environ.get('CXX', ''), *_COMPILERS)))

