r"""
# Attention

labml_nn's `MultiHeadAttention` computes $\operatorname{softmax}(Q K^\top / \sqrt{d_k}) V$ as written, and so stores
`seq_len²` scores per head. `SDPA` uses torch's `scaled_dot_product_attention`, which visits the keys block by block and
keeps only a running maximum and a running sum ([Dao et al. 2022](https://arxiv.org/abs/2205.14135), section 3.1): the
same result, in memory linear in `seq_len`. Its parameters have the names of labml_nn's, so a state dict fits both.

**Rotary position embeddings** ([Su et al. 2021](https://arxiv.org/abs/2104.09864), section 3.2). Instead of adding a
position to each token's embedding, rotate the queries and the keys: at position $m$, the pair of features $i$ and
$i + d_k / 2$ is rotated by the angle $m \theta_i$, $\theta_i = 10000^{-2 i / d_k}$. A dot product of two rotated
vectors depends on the difference of their positions alone,

$$\langle R_m q, R_n k \rangle = \langle R_{m - n} q, k \rangle$$

so attention sees how far apart two tokens are, wherever they stand; nothing is learned, and any length works.

A pair of adjacent features is a complex number, and to rotate it is to multiply it by $e^{i m \theta}$: one pass over
contiguous memory. So queries and keys are computed with the features of a head in the order
$0, d_k / 2, 1, d_k / 2 + 1, \dots$, by permuting the rows of their weights; dot products are invariant to that.
"""
import inspect
from typing import Any, Protocol

import torch
from labml.configs import option
from labml_nn.transformers import TransformerConfigs
from labml_nn.transformers.mha import MultiHeadAttention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

import labml_mlm.common.labml_compat  # noqa: F401  labml_nn's own attentions need it
from labml_mlm.common.errors import UserError
from labml_mlm.model.dropout import Dropout, dropout
from labml_mlm.model.packed import DocumentMask


class Attention(Protocol):
    """
    ## What a layer expects of its attention

    Any module that is called like this can be `transformer.encoder_attn`; `check_attention` tries it when the model is
    built. Each layer gets a copy. `init_weights` draws the weights of all `nn.Linear` and `nn.Embedding` in it; other
    parameters stay as they are. Its dropout is its own: `transformer.dropout` is for an option that passes it on.
    """
    # Does it know positions? If so, `src_embed=by_attention` adds none. May be left out, as false
    is_rotary: bool

    def __call__(self, *, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """
        * `query`, `key` and `value` have shape `[seq_len, batch_size, d_model]`
        * `mask[i, j, b]` says whether, in sequence `b`, position `i` may attend to position `j`, by padding and by
          document; its shape is `[seq_len, seq_len, batch_size]`, where the first dimension may be 1

        Returns `[seq_len, batch_size, d_model]`. With one more argument, `positions`, the queries are those of some
        positions of each sequence alone, `[n_positions, batch_size]`: the last layer is computed at those.
        """


class SDPA(MultiHeadAttention):
    """
    ## Multi-head attention by torch's `scaled_dot_product_attention`

    * `heads` is the number of heads, a divisor of `d_model`
    * `is_rotary` rotates queries and keys by their positions; `d_model / heads` must be even then
    * `rope_base` is the base of the angles
    * `window` is how far a position attends to either side; everywhere by default
    * `is_dropout_fast` takes our dropout of the weights in place of torch's, which draws other masks

    Called like labml_nn's `MultiHeadAttention`. Raises `UserError` if the sizes do not fit. Lengths come from
    `shape`: `torch.export` takes the result of `len` for a constant.
    """

    def __init__(self, heads: int, d_model: int, dropout_prob: float = 0., bias: bool = True, *,
                 is_rotary: bool = False, rope_base: float = 10_000., window: int | None = None,
                 is_dropout_fast: bool = False):
        super().__init__(heads, d_model, dropout_prob, bias)
        if is_dropout_fast:
            self.dropout = Dropout(dropout_prob)
        if is_rotary and self.d_k % 2:
            raise UserError(f'rotary positions rotate pairs of features: d_model / n_heads = {d_model} / {heads} = '
                            f'{self.d_k} must be even')
        self.is_rotary = is_rotary
        self.rope_base = rope_base
        self.window = window
        # Cosines and sines, `[seq_len, 1, heads, d_k / 2, 2]`. Grows with the longest sequence seen, unless it is
        # fixed: a compiled model would be compiled again
        self.is_rope_cache_fixed = False
        self.register_buffer('rope_cache', torch.empty(0, 1, heads, self.d_k // 2, 2), persistent=False)

    def forward(self, *, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | DocumentMask | None = None,
                positions: Tensor | None = None) -> Tensor:
        """
        * `query`, `key` and `value` have shape `[seq_len, batch_size, d_model]`
        * `positions` are those of the queries in their sequences, `[seq_len_q, batch_size]`; all, in order, by default
        * `mask[i, j, b]` says whether, in sequence `b`, position `i` may attend to position `j`; its shape is
          `[seq_len_q, seq_len_k, batch_size]`, where the first and the last dimension may be 1. A `DocumentMask` says
          the same without a tensor of that size

        Returns `[seq_len_q, batch_size, d_model]`.
        """
        q, k, v = self._project(query, key, value, positions)
        # torch's attention wants `[batch_size, heads, seq_len, d_k]`
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))
        if isinstance(mask, DocumentMask):
            x = mask.attend(q, k, v, window=self.window)
        else:
            x = self._attend(q, k, v, mask, positions)
        # Back to `[seq_len, batch_size, d_model]`
        return self.output(x.permute(2, 0, 1, 3).flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """`[batch_size, heads, seq_len, d_k]` each; the others are those of `forward`."""
        if self.window is not None:
            mask = self._in_window(k.shape[2], mask, positions, k.device)
        # `[batch_size, 1, seq_len_q, seq_len_k]`
        mask = None if mask is None else mask.permute(2, 0, 1)[:, None]
        p = self.dropout.p if self.training else 0.
        if p and isinstance(self.dropout, Dropout) and q.device.type == 'cpu' and not torch.compiler.is_compiling():
            return _with_dropout(q, k, v, mask, p)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)

    def _in_window(self, seq_len: int, mask: Tensor | None, positions: Tensor | None, device: torch.device) -> Tensor:
        """The part of the mask near each query, `[seq_len_q, seq_len_k, batch_size]`; the last dimension may be 1."""
        index = torch.arange(seq_len, device=device)
        # `[seq_len_q, batch_size]` or `[seq_len_q, 1]`
        positions = index[:, None] if positions is None else positions
        is_near = (positions[:, None] - index[:, None]).abs() <= self.window
        return is_near if mask is None else is_near & mask

    def fix_rope_cache(self, seq_len: int):
        """Computes the rotations of so many positions now, and stores no more, for a compiled model."""
        self.rope_cache = self._rotations(max(seq_len, len(self.rope_cache)))
        self.is_rope_cache_fixed = True

    def _rotations(self, seq_len: int) -> Tensor:
        """Those of at least so many positions."""
        cache = self.rope_cache
        if cache.shape[0] < seq_len:
            # Tensors that are made in inference mode could not be used in training
            with torch.inference_mode(False):
                cache = rope_rotations(seq_len, self.heads, self.d_k, self.rope_base).to(cache.device)
            if not self.is_rope_cache_fixed:
                self.rope_cache = cache
        return cache

    def _project(self, query: Tensor, key: Tensor, value: Tensor,
                 positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[seq_len, batch_size, heads, d_k]`; the first two rotated by position."""
        q, k, v = (layer.linear for layer in (self.query, self.key, self.value))
        weights, biases = ([self._pair_rows(x) for x in pair] for pair in ((q.weight, k.weight), (q.bias, k.bias)))
        if query is key is value and (q.bias is None) == (v.bias is None):
            # Self-attention: one large matrix product is faster than three small ones
            weight, bias = torch.cat([*weights, v.weight]), None if v.bias is None else torch.cat([*biases, v.bias])
            if _is_eager_fp32(query):
                rotations = self._rotations(len(query))[:len(query)].repeat(1, 1, 2, 1, 1) if self.is_rotary else None
                qkv = _Projection.apply(query, weight, bias, rotations)
                return tuple(x.unflatten(-1, (self.heads, self.d_k)) for x in qkv)
            # `[seq_len, batch_size, 3, heads, d_k]`
            qkv = functional.linear(query, weight, bias).unflatten(-1, (3, self.heads, self.d_k))
            qk, v = qkv.split((2, 1), dim=2)
            return *self._rotate(qk).unbind(2), v.squeeze(2)
        # `[seq_len, batch_size, 1, heads, d_k]` each
        q, k = (functional.linear(x, weight, bias).unflatten(-1, (1, self.heads, self.d_k))
                for x, weight, bias in zip((query, key), weights, biases, strict=True))
        k, q = self._rotate(k), self._rotate(q, positions, seq_len=key.shape[0])
        return q.squeeze(2), k.squeeze(2), self.value(value)

    def _pair_rows(self, x: Tensor | None) -> Tensor | None:
        """Rows of a weight or bias, `[d_model, …]`, in the order where features that rotate together are adjacent."""
        if x is None or not self.is_rotary:
            return x
        return x.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2)

    def _rotate(self, x: Tensor, positions: Tensor | None = None, *, seq_len: int | None = None) -> Tensor:
        """`[seq_len, batch_size, n, heads, d_k]`, rotated by position if attention is rotary."""
        if not self.is_rotary:
            return x
        rotations = self._rotations(x.shape[0] if seq_len is None else seq_len)
        # `[seq_len, 1, 1, heads, d_k / 2, 2]`, or with positions `[seq_len, batch_size, 1, heads, d_k / 2, 2]`
        rotations = (rotations[:x.shape[0]] if positions is None else rotations[positions, 0])[:, :, None]
        return _Rotate.apply(x, rotations)


def _with_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """
    Attention with a dropout of its weights as written, `[batch_size, heads, seq_len, d_k]`: torch has no fast kernel
    for it on CPUs, and its dropout is slower than ours. A query that may attend to nothing attends to all keys.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return dropout(scores.softmax(dim=-1), p) @ v


def takes_positions(module: nn.Module) -> bool:
    """Can an attention, or a layer, be asked for some positions alone?"""
    return 'positions' in inspect.signature(module.forward).parameters


@torch.no_grad()
def check_attention(attention: nn.Module, d_model: int):
    """Tries an attention on a small input. Raises `UserError` if it cannot be called as `Attention` says."""
    is_training = attention.training
    attention.eval()
    x = torch.zeros(3, 2, d_model)
    for mask in (None, torch.ones(1, 3, 2, dtype=torch.bool), torch.ones(3, 3, 2, dtype=torch.bool)):
        try:
            y = attention(query=x, key=x, value=x, mask=mask)
        except Exception as e:
            with_mask = 'no mask' if mask is None else f'a mask of shape {list(mask.shape)}'
            raise UserError(f'transformer.encoder_attn, {type(attention).__name__}, fails when it is called with a '
                            f'query of shape {list(x.shape)} and {with_mask}: {type(e).__name__}: {e}. Its contract is '
                            'labml_mlm.model.Attention') from e
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = f'shape {list(y.shape)}' if isinstance(y, Tensor) else f'a {type(y).__name__}'
            raise UserError(f'transformer.encoder_attn, {type(attention).__name__}, returns {got}: it must return a '
                            'tensor of the shape of the query, [seq_len, batch_size, d_model]')
    attention.train(is_training)


def _is_eager_fp32(x: Tensor) -> bool:
    """Is it computed as it stands, on a CPU, in 32 bits?"""
    is_32_bit = x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
    return x.device.type == 'cpu' and is_32_bit and not torch.compiler.is_compiling()


class _Projection(torch.autograd.Function):
    """
    Queries, keys and values of self-attention, `[seq_len, batch_size, d_model]` each, the first two rotated by
    `[seq_len, 1, 2 * heads, d_k / 2, 2]`. All are parts of one tensor, and so are their gradients, which are rotated
    where they stand: autograd would copy them three times.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, rotations: Tensor | None) -> tuple[Tensor, ...]:
        qkv = x @ weight.T
        if bias is not None:
            # Faster than `functional.linear`, which begins with copies of the bias
            qkv.add_(bias)
        if rotations is not None:
            _rotate_in_place(qkv, torch.view_as_complex(rotations))
        return qkv.chunk(3, dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]):
        x, weight, _, rotations = inputs
        ctx.save_for_backward(x, weight, rotations)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rotations = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        gradient = torch.cat(gradients, dim=-1)
        if rotations is not None:
            _rotate_in_place(gradient, torch.view_as_complex(rotations).conj())
        rows = gradient.flatten(0, 1)
        return (gradient @ weight if of_x else None, rows.T @ x.flatten(0, 1) if of_weight else None,
                rows.sum(dim=0) if of_bias else None, None)


def _rotate_in_place(qkv: Tensor, factors: Tensor):
    """Queries and keys in `[seq_len, batch_size, 3 * d_model]`, by `[seq_len, 1, 2 * heads, d_k / 2]`."""
    factors = factors.flatten(2)
    torch.view_as_complex(qkv.unflatten(-1, (-1, 2)))[..., :factors.shape[-1]].mul_(factors)


class _Rotate(torch.autograd.Function):
    """
    Rotates pairs of features, `[…, d_k]`, by cosines and sines, `[…, d_k / 2, 2]`. The backward pass rotates back, so
    that nothing but the angles is kept for it.
    """

    @staticmethod
    def forward(x: Tensor, rotations: Tensor) -> Tensor:
        return _rotated(x, rotations)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [rotations] = ctx.saved_tensors
        return _rotated(gradient.contiguous(), rotations, is_inverse=True), None


def _rotated(x: Tensor, rotations: Tensor, *, is_inverse: bool = False) -> Tensor:
    """
    Rotated pairs. Not in `_Rotate.forward`, which may have no optional arguments: where `x` needs no gradient, as in a
    frozen layer, torch's compiler could not call it.
    """
    pairs = x.unflatten(-1, (-1, 2))
    if x.dtype == torch.float32 and not torch.compiler.is_compiling():
        factors = torch.view_as_complex(rotations)
        factors = factors.conj() if is_inverse else factors
        return torch.view_as_real(torch.view_as_complex(pairs) * factors).flatten(-2)
    # The compiler fuses this into one loop; and there are no 16-bit complex numbers
    (a, b), (cos, sin) = pairs.unbind(-1), rotations.to(x.dtype).unbind(-1)
    sin = -sin if is_inverse else sin
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def rope_rotations(seq_len: int, heads: int, d_k: int, base: float) -> Tensor:
    r"""$\cos m \theta_i$ and $\sin m \theta_i$, `[seq_len, 1, heads, d_k / 2, 2]`, the same for all heads."""
    theta = base ** (-2 * torch.arange(d_k // 2).double() / d_k)
    angles = torch.arange(seq_len).double()[:, None, None, None] * theta
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float().repeat(1, 1, heads, 1, 1)


@option(TransformerConfigs.encoder_attn, 'sdpa')
def _sdpa(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout)


@option(TransformerConfigs.encoder_attn, 'sdpa_rotary')
def _sdpa_rotary(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout, is_rotary=True)
