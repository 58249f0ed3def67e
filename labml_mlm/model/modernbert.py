r"""
# ModernBERT

[Warner et al. 2024](https://arxiv.org/abs/2412.13663), section 2.1. Beside BERT:

* Layers normalise before each part; the first has no norm before its attention, as the embeddings are normalised.
* Positions are rotary. Every third layer attends to the whole sequence, with a large base of the angles; the others to
  64 positions on either side.
* The feed-forward layer is gated (GeGLU, [Shazeer 2020](https://arxiv.org/abs/2002.05202)):
  $W_o (\operatorname{gelu}(a) \odot b)$, where $a$ and $b$ are the halves of $W_i x$, in that order.
* Linear layers and norms have no biases.
"""
from typing import Annotated, Any

import torch
from labml.configs import option
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import FRACTION, Item, Range, at_least
from labml_mlm.model.attention import SDPA
from labml_mlm.model.bert import ACTIVATIONS, FIXED, BERTHead, init_normal
from labml_mlm.model.dropout import Dropout
from labml_mlm.model.encoder import MLMEncoder, gather_positions, mask_at
from labml_mlm.model.packed import DocumentMask
from labml_mlm.model.transformer import MLMTransformerConfigs, TransformerMLM

_LOCAL = 'local layers, and all are global: see transformer.n_layers and transformer.global_every'


class NormalisedEmbeddings(nn.Module):
    """Embeddings of tokens alone, normalised: `[seq_len, batch_size]` to `[seq_len, batch_size, d_model]`."""

    def __init__(self, *, n_tokens: int, norm: nn.LayerNorm, dropout: float):
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, norm.normalized_shape[0])
        self.norm = norm
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """`positions` are for embeddings that have some."""
        return self.dropout(self.norm(self.tokens(x)))


class GatedFeedForward(nn.Module):
    """GeGLU, `[…, d_model]` to the same shape; the activation is on the first half."""

    def __init__(self, d_model: int, d_ff: int, *, activation: nn.Module, bias: bool, dropout: float):
        super().__init__()
        self.inner = nn.Linear(d_model, 2 * d_ff, bias=bias)
        self.activation = activation
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The result, of the shape of `x`."""
        value, gate = self.inner(x).chunk(2, dim=-1)
        return self.outer(self.dropout(self.activation(value) * gate))


class PreNormLayer(nn.Module):
    """
    ## A layer that normalises before each of its parts

    `norm_self_attn` may be `nn.Identity`. The other arguments are those of `PostNormLayer`.
    """

    def __init__(self, *, self_attn: nn.Module, norm_self_attn: nn.Module, feed_forward: nn.Module,
                 norm_ff: nn.LayerNorm, dropout: float):
        super().__init__()
        self.size = norm_ff.normalized_shape[0]
        self.self_attn = self_attn
        self.norm_self_attn = norm_self_attn
        self.feed_forward = feed_forward
        self.norm_ff = norm_ff
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | DocumentMask | None, positions: Tensor | None = None) -> Tensor:
        """As that of `PostNormLayer`."""
        z = self.norm_self_attn(x)
        query = z
        if positions is not None:
            query, x = gather_positions(z, positions), gather_positions(x, positions)
            mask = mask_at(mask, positions)
        x = x + self.dropout(self.self_attn(query=query, key=z, value=z, mask=mask, positions=positions))
        return x + self.feed_forward(self.norm_ff(x))


class ModernBERTConfigs(MLMTransformerConfigs):
    """
    ## Configurable ModernBERT
    """
    n_layers: Annotated[int, Item('Number of layers', at_least(1))] = 22
    n_heads: Annotated[int, Item('Number of attention heads', at_least(1))] = 'of_64'
    dropout: Annotated[float, Item('Dropout probability within feed-forward layers', FRACTION)] = 0.0
    embed_dropout: Annotated[float, Item('Dropout probability of embeddings', FRACTION)] = 0.0
    attn_dropout: Annotated[float, Item('Dropout probability of attention weights, and of what attention adds',
                                        FRACTION)] = 0.0
    max_positions: Annotated[int, Item('Longest sequence that it is meant for; there is no table of positions',
                                       at_least(1))] = 8192
    d_ff: Annotated[int, Item('Hidden size of the feed-forward layers', at_least(1))] = 'three_halves_d_model'
    activation: Annotated[str, Item('Activation: gelu, gelu_new (its approximation by tanh) or relu')] = 'gelu'
    norm_eps: Annotated[float, Item('Added to the variance by norms', Range(0, 1))] = 1e-5
    norm_bias: Annotated[bool, Item('Do norms have biases?')] = False
    attn_bias: Annotated[bool, Item('Do the linear layers of attention have biases?')] = False
    ffn_bias: Annotated[bool, Item('Do the linear layers of feed-forward layers have biases?')] = False
    head_bias: Annotated[bool, Item('Does the linear layer of the head have a bias?')] = False
    global_every: Annotated[int, Item('One of how many layers attends to the whole sequence', at_least(1))] = 3
    local_attention: Annotated[int, Item('Positions that the other layers attend to', at_least(2),
                                         belongs_to=_LOCAL)] = 128
    global_rope_base: Annotated[float, Item('Base of the angles of rotary positions in global layers')] = 160_000.
    local_rope_base: Annotated[float, Item('Base of the angles of rotary positions in local layers',
                                           belongs_to=_LOCAL)] = 10_000.
    encoder_attn: Annotated[Any, FIXED]
    ffn: Annotated[Any, FIXED]
    encoder_layer: Annotated[Any, FIXED]
    encoder: Annotated[Any, FIXED]
    src_embed: Annotated[Any, FIXED]
    generator: Annotated[Any, FIXED]
    transformer_mlm = 'modernbert'
    _adds_special_tokens = True


@option(ModernBERTConfigs.n_heads, 'of_64')
def _n_heads(c: ModernBERTConfigs):
    """One for each 64 features."""
    return max(1, c.d_model // 64)


@option(ModernBERTConfigs.d_ff, 'three_halves_d_model')
def _d_ff(c: ModernBERTConfigs):
    return 3 * c.d_model // 2


@option(ModernBERTConfigs.transformer_mlm, 'modernbert')
def _modernbert(c: ModernBERTConfigs):
    if c.d_model % c.n_heads:
        raise UserError(f'd_model={c.d_model} is not divisible by n_heads={c.n_heads}')
    if c.activation not in ACTIVATIONS:
        raise UserError(f'transformer.activation={c.activation}: it must be {", ".join(ACTIVATIONS)}')
    # No part of the model: what goes on from it, or reads an export, is told
    _ = c.max_positions
    embeddings = NormalisedEmbeddings(n_tokens=c.n_src_vocab, norm=_norm(c), dropout=c.embed_dropout)
    layers = [_layer(c, i) for i in range(c.n_layers)]
    encoder = MLMEncoder(layers[0], 1)
    encoder.layers, encoder.norm = nn.ModuleList(layers), _norm(c)
    head = BERTHead(embeddings.tokens.weight, activation=ACTIVATIONS[c.activation](), norm=_norm(c), bias=c.head_bias)
    model = TransformerMLM(src_embed=embeddings, encoder=encoder, generator=head, padding_token=c.padding_token)
    init_normal(model, torch.Generator().manual_seed(c.seed))
    return model


def _norm(c: ModernBERTConfigs) -> nn.LayerNorm:
    return nn.LayerNorm(c.d_model, eps=c.norm_eps, bias=c.norm_bias)


def _layer(c: ModernBERTConfigs, number: int) -> PreNormLayer:
    is_global = number % c.global_every == 0
    attention = SDPA(c.n_heads, c.d_model, c.attn_dropout, c.attn_bias, is_rotary=True,
                     rope_base=c.global_rope_base if is_global else c.local_rope_base,
                     window=None if is_global else c.local_attention // 2, is_dropout_fast=True)
    if not c.attn_bias:
        # labml_nn's have biases here in any case
        attention.value.linear = nn.Linear(c.d_model, c.d_model, bias=False)
        attention.output = nn.Linear(c.d_model, c.d_model, bias=False)
    return PreNormLayer(self_attn=attention, norm_self_attn=_norm(c) if number else nn.Identity(), norm_ff=_norm(c),
                        feed_forward=GatedFeedForward(c.d_model, c.d_ff, activation=ACTIVATIONS[c.activation](),
                                                      bias=c.ffn_bias, dropout=c.dropout),
                        dropout=c.attn_dropout)
