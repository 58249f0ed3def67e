"""
# The head for pairs

Of two spans of sentences in a sequence: is the second one the next, or in which order are they? The hidden state of the
first token, `[CLS]`, goes through a linear layer and a tanh, the *pooler*, and another linear layer to two logits
([Devlin et al. 2019](https://arxiv.org/abs/1810.04805), section 3.1). `TransformerMLM` computes them, with its modules
`pooler` and `next_sentence`.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTS = 'pooler', 'next_sentence'


class PairsOutput(NamedTuple):
    """The result for the pairs of a batch: tensors without dimensions."""
    # `loss_sum / n_pairs`
    loss: Tensor
    # Sum over the pairs, in nats
    loss_sum: Tensor
    # Number of pairs
    n_pairs: Tensor
    # Number of those whose more probable label is the right one
    n_correct: Tensor


def pairs_output(logits: Tensor, labels: Tensor) -> PairsOutput:
    """The result for the logits of pairs, `[batch_size, 2]`, and their labels, `[batch_size]`."""
    loss_sum = functional.cross_entropy(logits.float(), labels, reduction='sum')
    n_pairs = labels.new_full((), len(labels))
    return PairsOutput(loss_sum / n_pairs.clamp(min=1), loss_sum, n_pairs, (logits.argmax(dim=-1) == labels).sum())


def train_pairs(model: nn.Module, *, d_model: int, seed: int):
    """
    Has the head for pairs of a model trained; the layers of it that the model lacks are new.

    * `seed` is that of their weights
    """
    for i, (name, n_features) in enumerate(zip(PARTS, (d_model, 2), strict=True)):
        if not hasattr(model, name):
            layer = nn.Linear(d_model, n_features)
            # As `init_weights` does, with numbers of their own
            generator = torch.Generator().manual_seed((seed + i + 1) % 2 ** 32)
            nn.init.uniform_(layer.weight, -d_model ** -0.5, d_model ** -0.5, generator=generator)
            nn.init.zeros_(layer.bias)
            setattr(model, name, layer)
        getattr(model, name).requires_grad_(True)


def trains_pairs(model: nn.Module) -> bool:
    """Has it a head for pairs that was trained here, rather than kept as it was published?"""
    return has_pairs(model) and all(p.requires_grad for name in PARTS for p in getattr(model, name).parameters())


def has_pairs(model: nn.Module) -> bool:
    """Has it a head for pairs?"""
    return all(hasattr(model, name) for name in PARTS)
