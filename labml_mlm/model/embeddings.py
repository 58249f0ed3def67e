"""
# Embeddings of packed documents

Several short documents may share a window, and each is to be read as it would be alone. Attention masks take care of
the rest; absolute positions have to begin anew at each document ([Krell et al. 2021](https://arxiv.org/abs/2107.02027),
section 3.2.1). Rotary and relative positions are differences, the same either way.
"""
import inspect
import math

import torch
from labml_nn.transformers.models import EmbeddingsWithLearnedPositionalEncoding, EmbeddingsWithPositionalEncoding
from torch import Tensor, nn

from labml_mlm.common.errors import UserError

# labml_nn's embeddings with absolute positions
ABSOLUTE = EmbeddingsWithPositionalEncoding, EmbeddingsWithLearnedPositionalEncoding


def embed_documents(src_embed: nn.Module, x: Tensor, document_ids: Tensor, **segments: Tensor) -> Tensor:
    """
    Embeds token ids `x`, `[seq_len, batch_size]`, with positions within documents; returns `[…, d_model]`.

    Embeddings of your own that have positions take them as the argument `positions`, of the shape of `x`. With
    `segments`, they take `segment_ids`, too. Raises `UserError` if they do not take positions.
    """
    positions = document_positions(document_ids)
    if type(src_embed) in ABSOLUTE:
        encodings = src_embed.positional_encodings[positions, 0]
        return src_embed.linear(x) * math.sqrt(src_embed.d_model) + encodings
    if 'positions' in inspect.signature(src_embed.forward).parameters:
        return src_embed(x, positions=positions, **segments)
    if not isinstance(src_embed, nn.Embedding):
        raise UserError(f'packed documents: positions begin anew in each document, so the `forward` of `src_embed`, '
                        f'{type(src_embed).__name__}, must take them, as `positions`, `[seq_len, batch_size]`; '
                        'embeddings without positions may ignore them. Otherwise use packing=stream')
    return src_embed(x)


def document_positions(document_ids: Tensor) -> Tensor:
    """The position of each token in its document; both `[seq_len, batch_size]`, tokens of a document in a row."""
    index = torch.arange(len(document_ids), device=document_ids.device)[:, None].expand_as(document_ids)
    is_first = torch.ones_like(document_ids, dtype=torch.bool)
    is_first[1:] = document_ids[1:] != document_ids[:-1]
    return index - index.where(is_first, 0).cummax(dim=0).values
