"""
# Forward and backward, as fast as the machine allows

One call computes the gradients of a masked batch, in any precision, compiled or not, in one or more micro-batches, on
one or more ranks. None of that changes the result:

* **Gradient accumulation.** A batch too large for memory is split into `gradient_accumulation_steps` micro-batches
  whose gradients are summed. The loss of each is divided by the number of masked tokens of the *whole* batch, so the
  sum of gradients is that of the whole batch: in a mean of means, the weight of a token would depend on how many others
  are masked in its micro-batch. The shards of several ranks are handled in the same way.
* **Compilation.** torch's compiler fuses what is between two matrix products. It wants static shapes, so it gets those
  of a full batch with room for as many masked positions as there can be; any other batch, one with padding or with
  several documents or with pairs, is computed eagerly.
* **Precision.** With `bf16`, matrix products have 16-bit operands, and weights, sums, norms and the loss stay fp32
  (autocast; [Micikevicius et al. 2018](https://arxiv.org/abs/1710.03740)).
"""
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.parallel import SingleProcess
from labml_mlm.distributed.process_group import SINGLE_PROCESS, Ranks
from labml_mlm.model.attention import SDPA
from labml_mlm.model.pairs import PairsOutput
from labml_mlm.model.transformer import MLMOutput, TransformerMLM
from labml_mlm.training.compiler import COMPILED, missing_compiler


class Engine:
    """
    ## Runs a model on masked batches

    * `precision` is that of matrix products
    * `is_compiled` compiles the model, for batches of the given `shape`, `[seq_len, batch_size]`
    * `gradient_accumulation_steps` is the number of micro-batches per step; it must divide each rank's batch
    * `n_positions` bounds the masked positions of a sequence by its length, as `MLM.max_selected`; without it, and
      where it returns `None`, they are counted, and nothing is compiled
    * `ranks` share each batch, and the model as `parallel` says
    * `compiling` is what the first step is inside of that compiles the model

    Raises `UserError` if `gradient_accumulation_steps` does not divide the batch size, if there is no compiler (for
    this device), and if a sharded model is to be compiled.
    """

    def __init__(self, model: TransformerMLM, *, precision: torch.dtype, is_compiled: bool,
                 gradient_accumulation_steps: int, shape: tuple[int, int],
                 n_positions: Callable[[int], int | None] | None, ranks: Ranks = SINGLE_PROCESS,
                 parallel: SingleProcess | None = None,
                 compiling: Callable[[], AbstractContextManager] = contextlib.nullcontext):
        seq_len, batch_size = shape
        if batch_size % (ranks.size * gradient_accumulation_steps):
            per_rank = f' on each of {ranks.size} ranks' if ranks.size > 1 else ''
            raise UserError(f'batch_size={batch_size} cannot be split into gradient_accumulation_steps='
                            f'{gradient_accumulation_steps} equal micro-batches{per_rank}')
        self.model = model
        self.precision = precision
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.ranks = ranks
        self.parallel = parallel or SingleProcess()
        self._shape = seq_len, batch_size // ranks.size // gradient_accumulation_steps
        self.n_positions = n_positions
        # The model as it is called in training, from the first step on, and the same compiled
        self._wrapped: Any = None
        self._compiled: Any = None
        # Of the batches since `take_loss`
        self._loss: Tensor | None = None
        # Until it is compiled
        self._compiling: Callable[[], AbstractContextManager] | None = compiling
        device = next(model.parameters()).device
        if is_compiled and device.type not in COMPILED:
            raise UserError(f'compile=true is for {" and ".join(COMPILED)}: use compile=false')
        if is_compiled and (missing := missing_compiler(device)):
            raise UserError(f'compile=true: {missing}. Use compile=false')
        if is_compiled and self.parallel.is_sharded:
            raise UserError('compile=true is incompatible with parallel=fsdp: use compile=false or parallel=ddp')
        self._is_compiled = False
        # Shapes are static only if there is a bound
        if is_compiled and n_positions is not None and n_positions(seq_len) is not None:
            for module in model.modules():
                if isinstance(module, SDPA):
                    module.fix_rope_cache(seq_len)
            self._is_compiled = True

    @property
    def is_compiled(self) -> bool:
        """Are the steps compiled whose shape is static?"""
        return self._is_compiled

    def forward(self, x: Tensor, labels: Tensor, padding_mask: Tensor | None = None,
                document_ids: Tensor | None = None, segment_ids: Tensor | None = None,
                pair_labels: Tensor | None = None, *, is_bounded: bool = True,
                n_positions: int | None = None) -> MLMOutput:
        """
        The output for a masked batch, as `MLM` returns it, `[seq_len, batch_size]` each; `padding_mask`,
        `document_ids`, `segment_ids` and `pair_labels` are those of `Batch`.

        All labels count. With `is_bounded`, a sequence has no more of them than `n_positions` says, that of this batch
        or else that of the engine: more are counted on a CPU, and are an error on a GPU, which would have to be waited
        for.
        """
        if not is_bounded:
            n_positions = None
        elif n_positions is None and self.n_positions and self.model.training:
            # Validation may mask more. If the training rate changes beyond the bound, the model is compiled again
            n_positions = self.n_positions(len(x))
        if n_positions is not None and not self._is_within(n_positions, labels):
            n_positions = None
        is_compiled = (self._compiled is not None and self.model.training and x.shape == self._shape
                       and padding_mask is document_ids is segment_ids is pair_labels is None
                       and n_positions is not None)
        model = self.model if self._wrapped is None or not self.model.training else self._wrapped
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            if is_compiled:
                return self._call_compiled(x, labels, n_positions=n_positions)
            # Models of the user's need not know of segments and pairs
            others = {'segment_ids': segment_ids, 'pair_labels': pair_labels}
            return model(x, labels, padding_mask=padding_mask, document_ids=document_ids, n_positions=n_positions,
                         **{name: part for name, part in others.items() if part is not None})

    def _counted(self, labels: Tensor) -> Tensor:
        """Which labels count, of the same shape."""
        return labels != getattr(self.model, 'ignored_label', self.model.padding_token)

    def _is_within(self, n_positions: int, labels: Tensor) -> bool:
        """Has no sequence more labels than the bound? On a GPU they must not."""
        is_within = (self._counted(labels).sum(dim=0) <= n_positions).all()
        if not _is_on_gpu(labels):
            return bool(is_within)
        torch._assert_async(is_within, f'a sequence has labels at more than {n_positions} positions, the most that '
                                       '`mlm` selects: for others, use forward_backward(…, is_bounded=False)')
        return True

    def forward_backward(self, x: Tensor, labels: Tensor, padding_mask: Tensor | None = None,
                         document_ids: Tensor | None = None, segment_ids: Tensor | None = None,
                         pair_labels: Tensor | None = None, *, is_bounded: bool = True,
                         n_positions: int | None = None) -> MLMOutput:
        """
        The same for this rank's columns of a batch; the gradients of the loss of the whole batch, that of pairs
        included, are added to those of the parameters. The output is that of the whole batch, at all ranks.
        """
        self._wrap()
        # The counts of the other ranks arrive during the forward pass
        n_pairs = labels.new_full((), 0 if pair_labels is None else x.shape[1])
        counts = self.ranks.all_reduce_sum(self._counted(labels).sum(), n_pairs)
        outputs = []
        with self.ranks.per_rank_rng(x.device):
            for begin, end, is_last in self._micro_batches(x.shape[1]):
                micro_batch = (t if t is None else t[:, begin:end] for t in
                               (x, labels, padding_mask, document_ids, segment_ids, pair_labels))
                with self.parallel.micro_batch(self._wrapped, is_last=is_last):
                    output = self.forward(*micro_batch, is_bounded=is_bounded, n_positions=n_positions)
                    n_masked, n_pairs = (count.clamp(min=1) for count in counts())
                    # The mean over ranks, which `parallel` takes, is the sum that is wanted
                    loss = output.loss_sum * self.ranks.size / n_masked
                    if pair_labels is not None:
                        loss = loss + output.pairs.loss_sum * self.ranks.size / n_pairs
                    loss.backward()
                outputs.append([output.loss_sum.detach(), output.n_correct])
                if pair_labels is not None:
                    outputs[-1] += [output.pairs.loss_sum.detach(), output.pairs.n_correct]
        loss_sum, n_correct, *of_pairs = self.ranks.all_reduce_sum(
            *(sum(column) for column in zip(*outputs, strict=True)))()
        pairs = PairsOutput(of_pairs[0] / n_pairs, of_pairs[0], n_pairs, of_pairs[1]) if of_pairs else None
        output = MLMOutput(loss_sum / n_masked, loss_sum, n_masked, n_correct, pairs)
        loss = output.loss if pairs is None else output.loss + pairs.loss
        self._loss = loss if self._loss is None else self._loss + loss
        return output

    def take_loss(self) -> Tensor | None:
        """
        The sum of the losses of all batches of `forward_backward` since the last call, the same at all ranks; `None` if
        there was none.
        """
        loss, self._loss = self._loss, None
        return loss

    def _wrap(self):
        """At the first step: wraps the model for data parallelism, and compiles it."""
        if self._wrapped is None:
            self._wrapped = self.parallel.wrap(self.model)
            if self._is_compiled:
                if self.ranks.size > 1:
                    # Each rank would log that it ignores what DDP tells torch's profiler
                    logging.getLogger('torch._dynamo.variables.ctx_manager').setLevel(logging.ERROR)
                self._compiled = torch.compile(self._wrapped, fullgraph=self.ranks.size == 1, dynamic=False)

    def _call_compiled(self, x: Tensor, labels: Tensor, *, n_positions: int) -> MLMOutput:
        """The first call compiles the backward pass, too."""
        with (self._compiling or contextlib.nullcontext)():
            output = self._compiled(x, labels, n_positions=n_positions)
        self._compiling = None
        return output

    def forget_compiled(self):
        """
        The next step wraps and compiles again: what was wrapped holds the process group. torch keeps a few compiled
        models in all, and runs further ones eagerly.
        """
        self._wrapped = None
        if self._compiled is not None:
            self._compiled = None
            torch.compiler.reset()

    def _micro_batches(self, n: int) -> Iterator[tuple[int, int, bool]]:
        """
        Begin and end of the micro-batches of `n` columns, and whether it is the last one. Sharded ranks wait for each
        other in each of them, so all have as many; otherwise an empty one is left out.
        """
        total = self.gradient_accumulation_steps
        for i in range(total):
            begin, end, is_last = n * i // total, n * (i + 1) // total, i == total - 1
            if begin < end or is_last or self.parallel.is_sharded:
                yield begin, end, is_last


def _is_on_gpu(tensor: Tensor) -> bool:
    """Does it pay not to wait for it? On a Mac, torch's releases differ in what they can check without Python."""
    return tensor.is_cuda
