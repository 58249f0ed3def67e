r"""
# The model

A transformer encoder sees the whole masked sequence, left and right context alike, and predicts the tokens that
were masked. The loss of a batch is

$$\mathcal{L} = \frac{1}{\max(1, |M|)} \sum_{(i, b) \in M} -\log p(y_{i,b} \mid \tilde{x}_b)$$

over the set $M$ of masked places: a sum divided by a count, never a mean of means, and 0 where nothing is masked.

Only the masked places need a prediction, so only those are projected to the vocabulary: with 15% of
the tokens masked, that is a seventh of the work and of the memory of the largest matrix product
of a model with a large vocabulary. `MLMEncoder` does the same for the last layer.

**Initialisation.** labml_nn makes a stack of layers by copying one, weights included. Layers that are
equal at the start receive similar gradients, and the model sits on the unigram plateau for long. `initialise` draws
every layer on its own.
"""

import math
from typing import NamedTuple

import torch
from labml.configs import option
from labml_nn.transformers import TransformerConfigs
from labml_nn.transformers.configs import FeedForwardConfigs
from labml_nn.transformers.models import (
    EmbeddingsWithLearnedPositionalEncoding,
    EmbeddingsWithPositionalEncoding,
    Encoder,
)
from labml_nn.transformers.xl.relative_mha import RelativeMultiHeadAttention
from torch import Tensor, nn
from torch.nn import functional

import labml_mlm.model.attention  # noqa: F401  its options
from labml_mlm.common.errors import SHARE, Range, UserError, at_least
from labml_mlm.common.labml_compat import OwnDefaults
from labml_mlm.model.encoder import MLMEncoder, at


class MLMOutput(NamedTuple):
    """What a batch gives; tensors without dimensions."""
    # `loss_sum / max(1, n_masked)`, to call `backward` on
    loss: Tensor
    # Sum over the masked tokens, in nats
    loss_sum: Tensor
    # Number of masked tokens
    n_masked: Tensor
    # Number of those where the most probable token is the right one
    n_correct: Tensor


class TransformerMLM(nn.Module):
    """
    ## Embed, encode, predict what was masked

    * `src_embed` takes token ids `[seq_len, batch_size]` to `[seq_len, batch_size, d_model]`
    * `encoder` is labml_nn's, with any attention
    * `generator` projects `d_model` features to the logits of the vocabulary
    * `padding_token` stands in `labels` where nothing is to be predicted
    """

    def __init__(self, *, src_embed: nn.Module, encoder: Encoder, generator: nn.Module, padding_token: int):
        super().__init__()
        self.src_embed = src_embed
        self.encoder = encoder
        self.generator = generator
        self.padding_token = padding_token

    def forward(self, x: Tensor, labels: Tensor, *, key_padding: Tensor | None = None,
                document: Tensor | None = None, n_places: int | None = None) -> MLMOutput:
        """
        * `x` is the masked batch and `labels` what to predict, as `MLM` returns them, `[seq_len, batch_size]`
        * `key_padding` is true where `x` is padding, which then is never attended to; same shape
        * `document` has whole numbers; only tokens of a sequence with the same one attend to each other; same shape
        * `n_places` is how many places of a sequence may be masked at the most, if that is known: the shapes of all
          tensors are known then, too
        """
        # `[n_places, batch_size]` each
        places, labels = self._places(labels, n_places)
        # `[n_places, batch_size, d_model]`, `[n_places * batch_size, n_tokens]`
        features = self.encode(x, key_padding, document, places)
        logits, labels = self.generator(features).flatten(0, 1), labels.flatten()

        is_masked = labels != self.padding_token
        loss_sum = functional.cross_entropy(logits.float(), labels, ignore_index=self.padding_token, reduction='sum')
        n_masked = is_masked.sum()
        n_correct = ((logits.argmax(dim=-1) == labels) & is_masked).sum()
        return MLMOutput(loss_sum / n_masked.clamp(min=1), loss_sum, n_masked, n_correct)

    def _places(self, labels: Tensor, n_places: int | None) -> tuple[Tensor, Tensor]:
        """
        Where something is to be predicted in each sequence, and what; `[n_places, batch_size]` each. Sequences with
        fewer such places have some others, too, whose label is `padding_token`. `labels` is `[seq_len, batch_size]`.
        """
        is_masked = labels != self.padding_token
        if n_places is None:
            # A rank may have no sequence of a batch
            n_places = int(is_masked.sum(dim=0).max()) if is_masked.shape[1] else 0
        # Attention takes at least one query
        places = is_masked.argsort(dim=0, descending=True, stable=True)[:max(1, n_places)]
        return places, labels.gather(0, places)

    def predict(self, x: Tensor, *, key_padding: Tensor | None = None, document: Tensor | None = None) -> Tensor:
        """Logits of every place, `[seq_len, batch_size, n_tokens]`; the arguments are those of `forward`."""
        return self.generator(self.encode(x, key_padding, document))

    def encode(self, x: Tensor, key_padding: Tensor | None = None, document: Tensor | None = None,
               places: Tensor | None = None) -> Tensor:
        """
        Features of every place, `[seq_len, batch_size, d_model]`, or of some `places` of each sequence, `[n_places,
        batch_size]`; the other arguments are those of `forward`.
        """
        mask = None
        if document is not None:
            # labml_nn's mask is `[seq_len_q, seq_len_k, batch_size]`
            mask = document[:, None] == document[None]
        if key_padding is not None:
            # A token that could see nothing but padding sees that: a softmax over no key is not defined. 1 broadcasts
            is_seen = ~key_padding[None] if mask is None else mask & ~key_padding[None]
            mask = is_seen | ~is_seen.any(dim=1, keepdim=True)
        embedded = self.src_embed(x)
        if places is None:
            return self.encoder(embedded, mask)
        if isinstance(self.encoder, MLMEncoder):
            return self.encoder(embedded, mask, places)
        return at(places, self.encoder(embedded, mask))

    @property
    def max_seq_len(self) -> float:
        """The longest sequence that its positions allow; infinite for rotary ones."""
        lengths = [len(m.positional_encodings) for m in self.modules() if hasattr(m, 'positional_encodings')]
        lengths += [m.P for m in self.modules() if isinstance(m, RelativeMultiHeadAttention)]
        return min(lengths, default=math.inf)


def initialise(model: nn.Module, generator: torch.Generator):
    """
    Draws the weights of every linear layer and embedding anew, each on its own, in the order of `model.modules()`.

    * Linear: uniform in ±`fan_in`^-½, which keeps the scale of gradients from layer to layer; biases are 0.
    * Embedding: normal, so that features have unit variance in the beginning. labml_nn's embeddings with positions
      multiply by `d_model`^½: there the standard deviation is `d_model`^-½, and 1 otherwise.
    """
    multiplied = [m.linear for m in model.modules()
                  if isinstance(m, EmbeddingsWithPositionalEncoding | EmbeddingsWithLearnedPositionalEncoding)]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            std = module.embedding_dim ** -0.5 if module in multiplied else 1.
            nn.init.normal_(module.weight, std=std, generator=generator)


class MLMFeedForwardConfigs(OwnDefaults, FeedForwardConfigs):
    """
    ## Configurable feed-forward layer

    labml_nn's, with GELU by default.
    """
    # Between the two linear layers
    activation: nn.Module = 'GELU'

    _ranges = {'d_ff': at_least(1), 'dropout': SHARE}


class MLMTransformerConfigs(OwnDefaults, TransformerConfigs):
    """
    ## Configurable transformer for MLM

    All of labml_nn's `TransformerConfigs`, and the wrapper `transformer_mlm` that computes the masked loss.
    """
    # Share of features dropped; recent MLM recipes do without
    dropout: float = 0.0
    # Attention, by name
    encoder_attn: nn.Module = 'sdpa_rotary'
    # Feed-forward layers; `mlm` has d_ff = 2 d_model, `default` is labml_nn's (2048)
    ffn: MLMFeedForwardConfigs = 'mlm'
    # All layers; `mlm` computes the last one for masked places only, `default` is labml_nn's
    encoder: Encoder = 'mlm'
    # Token embeddings, with positions where attention does not bring its own
    src_embed: nn.Module = 'by_attention'
    # Id of `[PAD]`
    padding_token: int = 0
    # Seed of the initial weights
    seed: int = 1
    # The model
    transformer_mlm: TransformerMLM = 'default'

    _ranges = {'n_heads': at_least(1), 'd_model': at_least(2), 'n_layers': at_least(1), 'dropout': SHARE,
               'seed': Range(0, 2 ** 32 - 1)}
    _follows = {'ffn.d_model': 'transformer.d_model', 'ffn.d_ff': '2 × transformer.d_model',
                'ffn.dropout': 'transformer.dropout'}
    _refused = dict.fromkeys(['n_src_vocab', 'n_tgt_vocab', 'padding_token'], 'it follows from the tokenizer')
    _refused |= dict.fromkeys(['ffn.d_model'], 'it is `transformer.d_model`')
    _refused |= dict.fromkeys(['decoder', 'decoder_attn', 'decoder_layer', 'decoder_mem_attn', 'encoder_decoder',
                               'tgt_embed'], 'a masked language model has no decoder')


@option(MLMTransformerConfigs.ffn, 'mlm')
def _ffn(c: MLMTransformerConfigs) -> MLMFeedForwardConfigs:
    conf = MLMFeedForwardConfigs()
    conf.set_default(FeedForwardConfigs.d_model, func=lambda: c.d_model)
    conf.set_default(FeedForwardConfigs.d_ff, func=lambda: 2 * c.d_model)
    conf.set_default(FeedForwardConfigs.dropout, func=lambda: c.dropout)
    return conf


@option(MLMTransformerConfigs.encoder, 'mlm')
def _encoder(c: MLMTransformerConfigs):
    return MLMEncoder(c.encoder_layer, c.n_layers)


@option(MLMTransformerConfigs.src_embed, 'by_attention')
def _src_embed(c: MLMTransformerConfigs):
    attention = c.encoder_layer.self_attn
    if isinstance(attention, RelativeMultiHeadAttention) or getattr(attention, 'is_rotary', False):
        return nn.Embedding(c.n_src_vocab, c.d_model)
    return EmbeddingsWithPositionalEncoding(c.d_model, c.n_src_vocab)


@option(MLMTransformerConfigs.transformer_mlm, 'default')
def _transformer_mlm(c: MLMTransformerConfigs):
    if c.d_model % c.n_heads:
        raise UserError(f'd_model={c.d_model} is not divisible by n_heads={c.n_heads}: each head gets an equal share')
    if c.d_model % 2:
        raise UserError(f'd_model={c.d_model} is odd: sinusoidal positions come in pairs')
    model = TransformerMLM(src_embed=c.src_embed, encoder=c.encoder, generator=c.generator,
                           padding_token=c.padding_token)
    for layer in model.encoder.layers:
        # labml_nn's `relative` keeps 0.1 whatever `dropout` says
        layer.self_attn.dropout.p = c.dropout
    initialise(model, torch.Generator().manual_seed(c.seed))
    return model

