"""
# Features of texts by layer and pooling

One pass of a batch gives the hidden states of all layers; only what is pooled of them is kept.
"""
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labml_mlm.data.batch import batches_by_length
from labml_mlm.model.pooling import pool
from labml_mlm.model.transformer import TransformerMLM


class Place(NamedTuple):
    """Where features are taken: after which layer, 0 being the embeddings, and how they are pooled."""
    layer: int
    pooling: str


def all_places(n_layers: int, poolings: Iterable[str]) -> list[Place]:
    """The embeddings and all layers, in each of the poolings."""
    return [Place(layer, pooling) for layer in range(n_layers + 1) for pooling in poolings]


@torch.no_grad()
def features_at(model: TransformerMLM, sequences: Sequence[Tensor], places: Sequence[Place]) -> dict[Place, Tensor]:
    """
    Features of sequences of token ids, `[seq_len]` each, at each of the places: `[n_sequences, d_model]`, on the CPU.

    The model is in evaluation mode meanwhile, and each of its modules in its own mode afterwards. Ranks that share a
    sharded model must all call this, with the same sequences.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    features: dict[Place, list[Tensor]] = {place: [None] * len(sequences) for place in places}
    try:
        model.eval()
        for indices, x, padding_mask in batches_by_length(sequences, padding_token=model.padding_token):
            padding_mask = None if padding_mask is None else padding_mask.to(device)
            states = model.hidden_states(x.to(device), padding_mask)
            for place, of_texts in features.items():
                pooled = pool(states[place.layer], padding_mask, pooling=place.pooling).float().cpu()
                for i, vector in zip(indices, pooled, strict=True):
                    of_texts[i] = vector
    finally:
        for module, is_training in modes:
            module.training = is_training
    return {place: torch.stack(of_texts) for place, of_texts in features.items()}
