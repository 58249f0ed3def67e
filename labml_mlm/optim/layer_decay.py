r"""
# Smaller learning rates for lower layers

What a trained encoder knows about its language is in its embeddings and lower layers; what is new in another domain is
for the upper ones to learn. With `lr_layer_decay`, $\gamma$, layer $i$ of $L$, counted from 0, has the learning rate

$$\eta_i = \gamma^{L - i} \, \eta$$

embeddings have $\gamma^{L + 1} \eta$, and the norm behind the layers and the head have $\eta$
([Clark et al. 2020](https://arxiv.org/abs/2003.10555) fine-tune ELECTRA in this way; the exponents are those of
[Bao et al. 2021](https://arxiv.org/abs/2106.08254)). A matrix that head and embeddings share is one of the embeddings.
"""
import math

import torch

from labml_mlm.model.transformer import TransformerMLM


def lr_scales(model: TransformerMLM, decay: float) -> dict[int, float]:
    """The factor of the learning rate of each parameter, by its `id`."""
    layers = model.encoder.layers
    scales = {id(p): 1. for p in model.parameters()}
    for i, layer in enumerate(layers):
        scales |= {id(p): decay ** (len(layers) - i) for p in layer.parameters()}
    return scales | {id(p): decay ** (len(layers) + 1) for p in model.src_embed.parameters()}


def has_scales(optimizer: torch.optim.Optimizer, scales: dict[int, float]) -> bool:
    """Are the learning rates of all parameters, before any schedule, in proportion to these factors?"""
    peaks = [group.get('initial_lr', group['lr']) / scales[id(p)]
             for group in optimizer.param_groups for p in group['params']]
    return math.isclose(min(peaks), max(peaks))
