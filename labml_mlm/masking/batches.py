"""
# A batch and its masks

What `mlm` selects decides how many predictions a sequence has. To count them on a GPU would be to wait for it, so a
bound is computed from what the CPU knows: of single tokens the masking rate is enough; whole units take the longest one
of the batch, whose tokens are on the CPU before they are copied.
"""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labml_mlm.data.batch import Batch
from labml_mlm.masking.mlm import MLM

# `MLM`, or anything that is called like it
Masking = Callable[..., tuple[Tensor, Tensor]]


def mask_batch(mlm: Masking, batch: Batch) -> tuple[Tensor, Tensor]:
    """Masked tokens and labels, `[seq_len, batch_size]` each. An `mlm` that knows of no ranks need not take columns."""
    if batch.labels is not None:
        return batch.tokens, batch.labels
    # labml_nn's masks in place
    tokens = batch.tokens.clone()
    return mlm(tokens) if batch.columns is None else mlm(tokens, batch.columns)


def with_longest_unit(mlm: Masking, batch: Batch, device: torch.device) -> Batch:
    """The same batch with what `labels_bound` needs, if it goes from the CPU to a GPU."""
    if type(mlm) is not MLM or batch.labels is not None or (batch.tokens.device.type, device.type) != ('cpu', 'cuda'):
        return batch
    return batch._replace(longest_unit=mlm.longest_unit(batch.tokens))


def labels_bound(mlm: Masking, batch: Batch) -> dict[str, Any]:
    """What is known of the number of labels of each sequence, as arguments of `Engine.forward_backward`."""
    if batch.labels is not None:
        # Those that the loader gives may be more than `mlm` selects
        return {'is_bounded': False}
    if batch.longest_unit is None:
        return {}
    return {'n_positions': mlm.max_selected(len(batch.tokens), longest_unit=batch.longest_unit)}


def valid_labels_bound(mlm: Masking, batch: Batch) -> dict[str, Any]:
    """The same in validation, as arguments of `Engine.forward`. Those of a batch on a CPU are counted."""
    if type(mlm) is not MLM or batch.labels is not None or not batch.tokens.is_cuda:
        return {}
    return {'n_positions': mlm.max_selected(len(batch.tokens))}
