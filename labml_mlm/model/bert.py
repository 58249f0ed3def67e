r"""
# BERT and RoBERTa

The encoder of [Devlin et al. 2019](https://arxiv.org/abs/1810.04805) differs from this package's own in four places:

* A token is embedded as the sum of three embeddings, of its id, its position and its segment, which is normalised.
* A layer normalises *after* it has added to the residual stream, $x \leftarrow \operatorname{norm}(x + f(x))$, so there
  is no norm at the end.
* The head is a linear layer, an activation and a norm, and then the embeddings again: the logit of a token is the
  product of the result with its embedding, plus a bias.
* Dropout is on the embeddings, on attention weights, and on what each part of a layer adds.

RoBERTa ([Liu et al. 2019](https://arxiv.org/abs/1907.11692)) has the same layers, one segment, and positions that begin
behind the id of `[PAD]`.
"""
from typing import Annotated, Any

import torch
from labml.configs import option
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import FRACTION, Item, Range, at_least
from labml_mlm.model.attention import SDPA
from labml_mlm.model.dropout import Dropout
from labml_mlm.model.encoder import MLMEncoder, gather_positions, mask_at
from labml_mlm.model.packed import DocumentMask
from labml_mlm.model.transformer import MLMTransformerConfigs, TransformerMLM

# Standard deviation of all weights at the beginning (BERT's repository)
_STD = 0.02


class BERTEmbeddings(nn.Module):
    """
    ## Embeddings of tokens, positions and segments

    * `n_positions` is the longest sequence
    * `n_segments` is the number of token types
    * `first_position` is the row of the first position: 0, or RoBERTa's id of `[PAD]` + 1
    """

    def __init__(self, *, n_tokens: int, n_positions: int, n_segments: int, d_model: int, eps: float, dropout: float,
                 first_position: int = 0):
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, d_model)
        self.positions = nn.Embedding(first_position + n_positions, d_model)
        self.segments = nn.Embedding(n_segments, d_model)
        self.norm = nn.LayerNorm(d_model, eps=eps)
        self.dropout = Dropout(dropout)
        self.first_position = first_position

    @property
    def positional_encodings(self) -> Tensor:
        """One for each position, `[n_positions, d_model]`."""
        return self.positions.weight[self.first_position:]

    @property
    def n_segments(self) -> int:
        """Number of segments (token types)."""
        return len(self.segments.weight)

    def forward(self, x: Tensor, positions: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """
        * `x` has token ids, `[seq_len, batch_size]`
        * `positions` are those of the tokens in their documents, of the same shape; 0, 1, … by default
        * `segment_ids` are those of the tokens, of the same shape; 0 by default

        Returns `[seq_len, batch_size, d_model]`.
        """
        if positions is None:
            # `[seq_len, 1]`
            positions = torch.arange(x.shape[0], device=x.device)[:, None]
        # One broadcasts
        segments = self.segments.weight[0] if segment_ids is None else self.segments(segment_ids)
        embedded = self.tokens(x) + segments + self.positions(positions + self.first_position)
        return self.dropout(self.norm(embedded))


class PostNormLayer(nn.Module):
    """
    ## A layer that normalises after each of its parts

    * `self_attn` is its attention
    * `feed_forward` maps `[…, d_model]` to the same shape
    * `dropout` is that of what each of both adds
    """

    def __init__(self, *, self_attn: nn.Module, feed_forward: nn.Module, d_model: int, eps: float, dropout: float):
        super().__init__()
        self.size = d_model
        self.self_attn = self_attn
        self.norm_self_attn = nn.LayerNorm(d_model, eps=eps)
        self.feed_forward = feed_forward
        self.norm_ff = nn.LayerNorm(d_model, eps=eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | DocumentMask | None, positions: Tensor | None = None) -> Tensor:
        """
        * `x` has shape `[seq_len, batch_size, d_model]`, and `mask` is that of `MLMEncoder.forward`
        * `positions` are the ones to compute, `[n_positions, batch_size]`; all by default

        Returns `[n_positions, batch_size, d_model]`.
        """
        query = x
        if positions is not None:
            query = gather_positions(x, positions)
            mask = mask_at(mask, positions)
        attended = self.self_attn(query=query, key=x, value=x, mask=mask, positions=positions)
        x = self.norm_self_attn(query + self.dropout(attended))
        return self.norm_ff(x + self.dropout(self.feed_forward(x)))


class BERTHead(nn.Module):
    """
    ## Predicts tokens by their embeddings

    * `embeddings` are those of tokens, `[n_tokens, d_model]`, which it shares
    """

    def __init__(self, embeddings: nn.Parameter, *, activation: nn.Module, norm: nn.LayerNorm, bias: bool = True):
        super().__init__()
        n_tokens, d_model = embeddings.shape
        self.dense = nn.Linear(d_model, d_model, bias=bias)
        self.activation = activation
        self.norm = norm
        self.decoder = nn.Linear(d_model, n_tokens)
        self.decoder.weight = embeddings

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits, `[…, n_tokens]`, of hidden states, `[…, d_model]`."""
        return self.decoder(self.norm(self.activation(self.dense(hidden))))


def feed_forward(d_model: int, d_ff: int, activation: nn.Module) -> nn.Sequential:
    """Two linear layers with an activation between them."""
    return nn.Sequential(nn.Linear(d_model, d_ff), activation, nn.Linear(d_ff, d_model))


ACTIVATIONS = {'gelu': nn.GELU, 'gelu_new': lambda: nn.GELU(approximate='tanh'), 'relu': nn.ReLU}


# Of the parts of a published architecture
FIXED = Item(refused='the parts of this architecture are fixed; `transformer=mlm` has others')


class BERTConfigs(MLMTransformerConfigs):
    """
    ## Configurable BERT

    By default the sizes of BERT-base but for `d_model`, which is that of the run.
    """
    n_layers: Annotated[int, Item('Number of layers', at_least(1))] = 12
    n_heads: Annotated[int, Item('Number of attention heads', at_least(1))] = 'of_64'
    dropout: Annotated[float, Item('Dropout probability of embeddings and of what layers add', FRACTION)] = 0.1
    attn_dropout: Annotated[float, Item('Dropout probability of attention weights', FRACTION)] = 0.1
    d_ff: Annotated[int, Item('Hidden size of the feed-forward layers', at_least(1))] = 'four_d_model'
    max_positions: Annotated[int, Item('Longest sequence that its position embeddings allow', at_least(1))] = 512
    n_segments: Annotated[int, Item('Number of token types', at_least(1))] = 2
    activation: Annotated[str, Item('Activation: gelu, gelu_new (its approximation by tanh) or relu')] = 'gelu'
    norm_eps: Annotated[float, Item('Added to the variance by norms', Range(0, 1))] = 1e-12
    first_position: Annotated[int, Item('Row of the first position in their embeddings', at_least(0))] = 0
    has_pooler: Annotated[bool, Item('Keep the pooler of a published encoder, which only sentence_pairs trains',
                                     follows='sentence_pairs')] = False
    has_next_sentence: Annotated[bool, Item('Keep the head for next sentence prediction of a published encoder, which '
                                            'only sentence_pairs trains', follows='sentence_pairs')] = False
    encoder_attn: Annotated[Any, FIXED]
    ffn: Annotated[Any, FIXED]
    encoder_layer: Annotated[Any, FIXED]
    encoder: Annotated[Any, FIXED]
    src_embed: Annotated[Any, FIXED]
    generator: Annotated[Any, FIXED]
    transformer_mlm = 'bert'
    _adds_special_tokens = True


class RoBERTaConfigs(BERTConfigs):
    """
    ## Configurable RoBERTa
    """
    n_segments: int = 1
    norm_eps: float = 1e-5
    first_position: int = 'after_padding'
    published_as: Annotated[str, Item('What an export is: roberta, or xlm-roberta or camembert, which are the same but '
                                      'for their names')] = 'roberta'


@option(BERTConfigs.n_heads, 'of_64')
def _n_heads(c: BERTConfigs):
    """One for each 64 features."""
    return max(1, c.d_model // 64)


@option(BERTConfigs.d_ff, 'four_d_model')
def _d_ff(c: BERTConfigs):
    return 4 * c.d_model


@option(RoBERTaConfigs.first_position, 'after_padding')
def _first_position(c: RoBERTaConfigs):
    return c.padding_token + 1


@option(BERTConfigs.transformer_mlm, 'bert')
def _bert(c: BERTConfigs):
    if c.d_model % c.n_heads:
        raise UserError(f'd_model={c.d_model} is not divisible by n_heads={c.n_heads}')
    if c.activation not in ACTIVATIONS:
        raise UserError(f'transformer.activation={c.activation}: it must be {", ".join(ACTIVATIONS)}')
    if isinstance(c, RoBERTaConfigs):
        # No part of the model: an export is told
        _ = c.published_as
    embeddings = BERTEmbeddings(n_tokens=c.n_src_vocab, n_positions=c.max_positions, n_segments=c.n_segments,
                                d_model=c.d_model, eps=c.norm_eps, dropout=c.dropout, first_position=c.first_position)
    layer = PostNormLayer(self_attn=SDPA(c.n_heads, c.d_model, c.attn_dropout, is_dropout_fast=True),
                          feed_forward=feed_forward(c.d_model, c.d_ff, ACTIVATIONS[c.activation]()),
                          d_model=c.d_model, eps=c.norm_eps, dropout=c.dropout)
    encoder = MLMEncoder(layer, c.n_layers)
    # Its layers end with norms
    encoder.norm = nn.Identity()
    head = BERTHead(embeddings.tokens.weight, activation=ACTIVATIONS[c.activation](),
                    norm=nn.LayerNorm(c.d_model, eps=c.norm_eps))
    model = TransformerMLM(src_embed=embeddings, encoder=encoder, generator=head, padding_token=c.padding_token)
    # Not trained by masked language modelling alone
    if c.has_pooler:
        model.pooler = nn.Linear(c.d_model, c.d_model).requires_grad_(False)
    if c.has_next_sentence:
        model.next_sentence = nn.Linear(c.d_model, 2).requires_grad_(False)
    init_normal(model, torch.Generator().manual_seed(c.seed))
    return model


@torch.no_grad()
def init_normal(model: nn.Module, generator: torch.Generator):
    """Normal with BERT's standard deviation, truncated at two of them; biases are 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=_STD, a=-2 * _STD, b=2 * _STD, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
