r"""
# Attention over packed documents by a kernel that knows of documents

With a mask as large as all scores, torch's attention on a GPU takes another kernel than FlashAttention, which knows no
masks, and computes the scores of each pair of documents to throw them away. `flex_attention` ([Dong et al.
2024](https://arxiv.org/abs/2412.05496)) is compiled from the condition itself: position $i$ may attend to position $j$
if both are of one document. It goes through blocks of 128 queries and 128 keys, and leaves out those in which no query
may attend to any key.

Which blocks those are follows from the lowest and the highest document of each block: where two ranges do not meet,
no document is in both. Nothing as large as the scores is computed for that, and nothing is read from the GPU.

Gradients take a GPU, so the mask is what trains on a CPU.
"""
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labml_mlm.common.errors import UserError

# Queries, and keys, of a block
_BLOCK = 128
# The smallest size of a head that the kernel takes
_MIN_D_K = 16


class _Positions(NamedTuple):
    """Queries or keys, `[batch_size, n]` each: what tells documents apart, and where they are in their sequences."""
    ids: Tensor
    index: Tensor


class DocumentMask:
    """
    ## Which positions attend to each other, as a condition

    * `document_ids` and `padding_mask` are those of `TransformerMLM.forward`, `[seq_len, batch_size]`

    Takes the place of the mask in `SDPA`. Padding attends to padding alone, and is not attended to.
    """

    def __init__(self, document_ids: Tensor, padding_mask: Tensor | None = None):
        # Padding of a document is another document
        ids = 2 * document_ids.long() if padding_mask is None else 2 * document_ids.long() + padding_mask
        ids = ids.T.contiguous()
        self.keys = self.queries = _Positions(ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
        # By window
        self._block_masks: dict[int | None, object] = {}

    def at(self, positions: Tensor) -> 'DocumentMask':
        """The same with the queries at some positions alone, `[n_positions, batch_size]`."""
        mask = DocumentMask.__new__(DocumentMask)
        mask.keys, mask._block_masks = self.keys, {}
        mask.queries = _Positions(*(part.gather(1, positions.T) for part in self.keys))
        return mask

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None) -> Tensor:
        """
        Attention of queries to keys of the same document, at most `window` positions away; `[batch_size, heads, n,
        d_k]` each.
        """
        if window not in self._block_masks:
            self._block_masks[window] = self.block_mask(window)
        return _attention(q.device.type)(q, k, v, block_mask=self._block_masks[window])

    def block_mask(self, window: int | None) -> object:
        """torch's `BlockMask`, with the blocks that are computed and the condition within them."""
        from torch.nn.attention.flex_attention import BlockMask

        (query_ids, query_index), (key_ids, key_index) = self.queries, self.keys

        def may_attend(b: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            is_same = query_ids[b, i] == key_ids[b, j]
            return is_same if window is None else is_same & ((query_index[b, i] - key_index[b, j]).abs() <= window)

        # `[batch_size, n_query_blocks, 1]`, `[batch_size, 1, n_key_blocks]`
        (q_first, q_last), (k_first, k_last) = _ranges(query_ids, 2), _ranges(key_ids, 1)
        some = (q_first <= k_last) & (k_first <= q_last)
        every = (q_first == q_last) & (k_first == k_last) & (q_first == k_first)
        if window is not None:
            (q_first, q_last), (k_first, k_last) = _ranges(query_index, 2), _ranges(key_index, 1)
            some &= (q_first - k_last <= window) & (k_first - q_last <= window)
            every &= (q_last - k_first <= window) & (k_last - q_first <= window)
        lengths = query_ids.shape[1], key_ids.shape[1]
        # Within the last ones, which need not be full, the condition says what is there
        every[:, lengths[0] // _BLOCK:].fill_(False)
        every[:, :, lengths[1] // _BLOCK:].fill_(False)
        return BlockMask.from_kv_blocks(*_ordered(some & ~every), *_ordered(every), BLOCK_SIZE=_BLOCK,
                                        mask_mod=may_attend, seq_lengths=lengths)


def use_document_mask(model: nn.Module, document_mask: type[DocumentMask] | None):
    """
    Has a model confine attention to documents by `document_mask`; `None` is by a mask. Raises `UserError` if its
    attention cannot.
    """
    if document_mask is None:
        return
    from labml_mlm.model.attention import SDPA

    for layer in model.encoder.layers:
        attention = getattr(layer, 'self_attn', None)
        problem = None
        if type(attention) is not SDPA:
            problem = f"it is for this package's attention (sdpa, sdpa_rotary), not for {type(attention).__name__}"
        elif attention.dropout.p:
            problem = f'it has no dropout of attention weights, and that is {attention.dropout.p:g}'
        elif attention.d_k < _MIN_D_K:
            problem = f'heads must have at least {_MIN_D_K} features, and these have {attention.d_k}'
        if problem is not None:
            raise UserError(f'packed_attention=flex: {problem}. Use packed_attention=masked')
    model.document_mask = document_mask


@functools.cache
def _attention(device_type: str) -> Callable[..., Tensor]:
    """`flex_attention`, compiled where it trains."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device_type == 'cuda' else flex_attention


def _ranges(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The lowest and the highest of `x`, `[batch_size, n]`, in each block, `[batch_size, n_blocks]` and a dimension."""
    rest = -x.shape[1] % _BLOCK
    blocks = torch.cat([x, x[:, -1:].expand(-1, rest)], dim=1).unflatten(1, (-1, _BLOCK))
    return blocks.amin(dim=2).unsqueeze(dim), blocks.amax(dim=2).unsqueeze(dim)


def _ordered(is_computed: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and which, those first; from `[batch_size, n, m]`."""
    is_computed = is_computed[:, None].int()
    return is_computed.sum(dim=-1, dtype=torch.int32), is_computed.argsort(dim=-1, descending=True, stable=True).int()
