r"""
# Attention

labml_nn's `MultiHeadAttention` computes $\operatorname{softmax}(Q K^\top / \sqrt{d_k}) V$ as written, and so stores
`seq_len²` scores a head. `SDPA` leaves it to torch's `scaled_dot_product_attention`, which goes through the
keys block by block, keeping only a running maximum and a running sum
([Dao et al. 2022](https://arxiv.org/abs/2205.14135), section 3.1): same result, memory linear in `seq_len`.
Its parameters have the names of labml_nn's, so a state dict moves between the two.

**Rotary position embeddings** ([Su et al. 2021](https://arxiv.org/abs/2104.09864), section 3.2). Instead of adding a
position to each token's embedding, turn the queries and the keys: with position $m$, the pair of features $i$ and
$i + d_k / 2$ turns by the angle $m \theta_i$, $\theta_i = 10000^{-2 i / d_k}$. A dot product
of two turned vectors depends on the difference of their angles alone,

$$\langle R_m q, R_n k \rangle = \langle R_{m - n} q, k \rangle$$

so attention sees how far apart two tokens are, wherever they stand; nothing is learned, and any length works.

A pair of features that stand side by side is a complex number, and to turn it is to multiply it by $e^{i m \theta}$:
one pass over memory without gaps. So queries and keys are computed with the features of a head in the order
$0, d_k / 2, 1, d_k / 2 + 1, \dots$, by taking the rows of their weights in that order; no dot product of the two
notices.
"""

from typing import Any

import torch
from labml.configs import option
from labml_nn.transformers import TransformerConfigs
from labml_nn.transformers.mha import MultiHeadAttention
from torch import Tensor
from torch.nn import functional

import labml_mlm.common.labml_compat  # noqa: F401  labml_nn's own attentions need it
from labml_mlm.common.errors import UserError


class SDPA(MultiHeadAttention):
    """
    ## Multi-head attention by torch's `scaled_dot_product_attention`

    * `heads` is the number of heads; `d_model` has to be a multiple of it
    * `is_rotary` turns queries and keys by their positions; `d_model / heads` has to be even then

    Called like labml_nn's `MultiHeadAttention`. Raises `UserError` if the sizes do not fit.
    """

    def __init__(self, heads: int, d_model: int, dropout_prob: float = 0., bias: bool = True, *,
                 is_rotary: bool = False):
        super().__init__(heads, d_model, dropout_prob, bias)
        if is_rotary and self.d_k % 2:
            raise UserError(f'rotary positions turn pairs of features: d_model / n_heads = {d_model} / {heads} = '
                            f'{self.d_k} has to be even')
        self.is_rotary = is_rotary
        # Cosines and sines, `[seq_len, 1, heads, d_k / 2, 2]`; grows with the longest sequence seen
        self.register_buffer('turns', torch.empty(0, 1, heads, self.d_k // 2, 2), persistent=False)

    def forward(self, *, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None,
                places: Tensor | None = None) -> Tensor:
        """
        * `query`, `key` and `value` have shape `[seq_len, batch_size, d_model]`
        * `places` are those of the queries in their sequences, `[seq_len_q, batch_size]`, unless they are all in order
        * `mask[i, j, b]` says whether, in sequence `b`, position `i` may see position `j`; its shape is
          `[seq_len_q, seq_len_k, batch_size]`, where the first and the last dimension may be 1

        Returns `[seq_len_q, batch_size, d_model]`.
        """
        q, k, v = self._project(query, key, value, places)
        # torch's attention wants `[batch_size, heads, seq_len, d_k]`,
        # and the mask as `[batch_size, 1, seq_len_q, seq_len_k]`
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
        x = functional.scaled_dot_product_attention(
            q, k, v,
            attn_mask=None if mask is None else mask.permute(2, 0, 1)[:, None],
            dropout_p=self.dropout.p if self.training else 0.)
        # Back to `[seq_len, batch_size, d_model]`
        return self.output(x.permute(2, 0, 1, 3).flatten(2))

    def make_room(self, seq_len: int):
        """Computes the turns of so many positions. A model that is compiled does it before, as it changes a buffer."""
        self.turns = _turns(seq_len, self.heads, self.d_k).to(self.turns.device)

    def _project(self, query: Tensor, key: Tensor, value: Tensor,
                 places: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[seq_len, batch_size, heads, d_k]`; the first two turned by position."""
        q, k, v = (layer.linear for layer in (self.query, self.key, self.value))
        weights, biases = [self._paired(q.weight), self._paired(k.weight)], [self._paired(q.bias), self._paired(k.bias)]
        if query is key is value and q.bias is not None:
            # Self-attention: one large matrix product is faster than three small ones
            weight, bias = torch.cat([*weights, v.weight]), torch.cat([*biases, v.bias])
            # `[seq_len, batch_size, 3, heads, d_k]`
            qkv = functional.linear(query, weight, bias).unflatten(-1, (3, self.heads, self.d_k))
            qk, v = qkv.split((2, 1), dim=2)
            return *self._turned(qk).unbind(2), v.squeeze(2)
        # `[seq_len, batch_size, 1, heads, d_k]` each
        q, k = (functional.linear(x, weight, bias).unflatten(-1, (1, self.heads, self.d_k))
                for x, weight, bias in zip((query, key), weights, biases, strict=True))
        # The keys first, as they are at all places
        k, q = self._turned(k), self._turned(q, places)
        return q.squeeze(2), k.squeeze(2), self.value(value)

    def _paired(self, x: Tensor | None) -> Tensor | None:
        """Rows of a weight or a bias, `[d_model, …]`, in the order in which features that turn together are pairs."""
        if x is None or not self.is_rotary:
            return x
        return x.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    def _turned(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """`[seq_len, batch_size, n, heads, d_k]` turned by position, if it is to be."""
        if not self.is_rotary:
            return x
        if len(self.turns) < len(x):
            self.make_room(len(x))
        # `[seq_len, 1, 1, heads, d_k / 2, 2]`, or with places `[seq_len, batch_size, 1, heads, d_k / 2, 2]`
        turns = (self.turns[:len(x)] if places is None else self.turns[places, 0])[:, :, None]
        return _Turn.apply(x, turns)


class _Turn(torch.autograd.Function):
    """
    Turns pairs of features, `[…, d_k]`, by cosines and sines, `[…, d_k / 2, 2]`. What is turned forward is turned back
    in the backward pass, so that it keeps nothing but the angles.
    """

    @staticmethod
    def forward(x: Tensor, turns: Tensor, is_back: bool = False) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2))
        if x.dtype == torch.float32 and not torch.compiler.is_compiling():
            factors = torch.view_as_complex(turns)
            factors = factors.conj() if is_back else factors
            return torch.view_as_real(torch.view_as_complex(pairs) * factors).flatten(-2)
        # The compiler makes one loop of it; and there are no complex numbers of 16 bits
        (a, b), (cos, sin) = pairs.unbind(-1), turns.to(x.dtype).unbind(-1)
        sin = -sin if is_back else sin
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [turns] = ctx.saved_tensors
        return _Turn.forward(gradient.contiguous(), turns, is_back=True), None, None


def _turns(seq_len: int, heads: int, d_k: int) -> Tensor:
    r"""$\cos m \theta_i$ and $\sin m \theta_i$, `[seq_len, 1, heads, d_k / 2, 2]`, the same for all heads."""
    theta = 10_000 ** (-2 * torch.arange(d_k // 2).double() / d_k)
    angles = torch.arange(seq_len).double()[:, None, None, None] * theta
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float().repeat(1, 1, heads, 1, 1)


@option(TransformerConfigs.encoder_attn, 'sdpa')
def _sdpa(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout)


@option(TransformerConfigs.encoder_attn, 'sdpa_rotary')
def _sdpa_rotary(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout, is_rotary=True)

