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
"""
from typing import Any

import torch
from labml.configs import option
from labml_nn.transformers import TransformerConfigs
from labml_nn.transformers.mha import MultiHeadAttention
from torch import Tensor
from torch.nn import functional

import labml_mlm.compat  # noqa: F401  labml_nn's own attentions need it
from labml_mlm.errors import UserError


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
        # Cosines and sines, `[2, seq_len, 1, 1, d_k / 2]`; grows with the longest sequence seen
        self.register_buffer('turns', torch.empty(2, 0, 1, 1, self.d_k // 2), persistent=False)

    def forward(self, *, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None,
                places: Tensor | None = None) -> Tensor:
        """
        * `query`, `key` and `value` have shape `[seq_len, batch_size, d_model]`
        * `places` are those of the queries in their sequences, `[seq_len_q, batch_size]`, unless they are all in order
        * `mask[i, j, b]` says whether, in sequence `b`, position `i` may see position `j`; its shape is
          `[seq_len_q, seq_len_k, batch_size]`, where the first and the last dimension may be 1

        Returns `[seq_len_q, batch_size, d_model]`.
        """
        seq_len, batch_size, _ = query.shape
        q, k, v = self._project(query, key, value, places)
        # torch's attention wants `[batch_size, heads, seq_len, d_k]`,
        # and the mask as `[batch_size, 1, seq_len_q, seq_len_k]`
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
        x = functional.scaled_dot_product_attention(
            q, k, v,
            attn_mask=None if mask is None else mask.permute(2, 0, 1)[:, None],
            dropout_p=self.dropout.p if self.training else 0.)
        # Back to `[seq_len, batch_size, d_model]`
        return self.output(x.permute(2, 0, 1, 3).reshape(seq_len, batch_size, -1))

    def make_room(self, seq_len: int):
        """Computes the turns of so many positions. A model that is compiled does it before, as it changes a buffer."""
        self.turns = _turns(seq_len, self.d_k).to(self.turns.device)

    def _project(self, query: Tensor, key: Tensor, value: Tensor,
                 places: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[seq_len, batch_size, heads, d_k]`; the first two turned by position."""
        if not (query is key is value) or self.query.linear.bias is None:
            q, k, v = self.query(query), self.key(key), self.value(value)
        else:
            # Self-attention: one large matrix product is faster than three small ones
            linears = self.query.linear, self.key.linear, self.value.linear
            weight = torch.cat([linear.weight for linear in linears])
            bias = torch.cat([linear.bias for linear in linears])
            # `[seq_len, batch_size, 3, heads, d_k]`
            qkv = functional.linear(query, weight, bias).view(*query.shape[:2], 3, self.heads, self.d_k)
            q, k, v = qkv.unbind(2)
        if self.is_rotary:
            # The keys first, as they are at all places
            k, q = self._turn(k), self._turn(q, places)
        return q, k, v

    def _turn(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Turns `[seq_len, batch_size, heads, d_k]` by position."""
        if self.turns.shape[1] < len(x):
            self.make_room(len(x))
        # `[2, seq_len, 1, 1, d_k / 2]`, or with places `[2, seq_len, batch_size, 1, d_k / 2]`
        turns = self.turns[:, :len(x)] if places is None else self.turns[:, places, 0]
        return _Turn.apply(x, *turns.to(x.dtype))


class _Turn(torch.autograd.Function):
    """
    Turns pairs of features. What is turned forward is turned back in the backward pass, so that neither keeps anything
    but the angles, nor needs a copy.
    """

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            # The compiler makes one loop of it
            x1, x2 = x.chunk(2, dim=-1)
            return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)
        turned = torch.empty_like(x, memory_format=torch.contiguous_format)
        (x1, x2), (y1, y2) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
        torch.mul(x1, cos, out=y1).addcmul_(x2, sin, value=-1)
        torch.mul(x1, sin, out=y2).addcmul_(x2, cos)
        return turned

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Turn.forward(gradient, cos, -sin), None, None


def _turns(seq_len: int, d_k: int) -> Tensor:
    r"""$\cos m \theta_i$ and $\sin m \theta_i$, `[2, seq_len, 1, 1, d_k / 2]`."""
    theta = 10_000 ** (-2 * torch.arange(d_k // 2).double() / d_k)
    angles = torch.arange(seq_len).double()[:, None, None, None] * theta
    return torch.stack([angles.cos(), angles.sin()]).float()


@option(TransformerConfigs.encoder_attn, 'sdpa')
def _sdpa(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout)


@option(TransformerConfigs.encoder_attn, 'sdpa_rotary')
def _sdpa_rotary(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout, is_rotary=True)
