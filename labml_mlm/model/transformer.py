r"""
# The model

A transformer encoder sees the whole masked sequence, left and right context alike, and predicts the tokens that were
masked. The loss of a batch is

$$\mathcal{L} = \frac{1}{\max(1, |M|)} \sum_{(i, b) \in M} -\log p(y_{i,b} \mid \tilde{x}_b)$$

over the set $M$ of masked positions: a sum divided by a count, never a mean of means, and 0 where nothing is masked.

Only masked positions need a prediction, so only those are projected to the vocabulary: with 15% of the tokens masked,
that is a seventh of the work and of the memory of the largest matrix product of a model with a large vocabulary.
`MLMEncoder` does the same for the last layer.

**Initialization.** labml_nn makes a stack of layers by copying one, weights included. Layers that start equal receive
similar gradients, and the loss stays on the unigram plateau for long. `init_weights` draws every layer on its own.
"""
import math
from typing import Annotated, Any, NamedTuple

import torch
from labml.configs import option
from labml_nn.transformers import TransformerConfigs
from labml_nn.transformers.configs import FeedForwardConfigs
from labml_nn.transformers.mha import MultiHeadAttention
from labml_nn.transformers.models import EmbeddingsWithPositionalEncoding, Encoder
from labml_nn.transformers.xl.relative_mha import RelativeMultiHeadAttention
from torch import Tensor, nn
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import FRACTION, DeclaredConfigs, Item, Range, at_least
from labml_mlm.model.attention import SDPA, check_attention
from labml_mlm.model.embeddings import ABSOLUTE, embed_documents
from labml_mlm.model.encoder import MLMEncoder, gather_positions
from labml_mlm.model.packed import DocumentMask
from labml_mlm.model.pairs import PairsOutput, pairs_output


class MLMOutput(NamedTuple):
    """The result for a batch: tensors without dimensions."""
    # `loss_sum / max(1, n_masked)`, to call `backward` on
    loss: Tensor
    # Sum over the masked tokens, in nats
    loss_sum: Tensor
    # Number of masked tokens
    n_masked: Tensor
    # Number of those whose most probable token is the right one
    n_correct: Tensor
    # Of a batch with labels of pairs
    pairs: PairsOutput | None = None

    @property
    def figures(self) -> dict[str, Tensor]:
        """What to track of a training step, by name."""
        found = {'loss.': self.loss, 'accuracy.': self.n_correct / self.n_masked.clamp(min=1)}
        if self.pairs is None:
            return found
        return found | {'loss.pairs.': self.pairs.loss, 'loss.total.': self.loss + self.pairs.loss,
                        'accuracy.pairs.': self.pairs.n_correct / self.pairs.n_pairs}


class TransformerMLM(nn.Module):
    """
    ## Embed, encode, predict the masked tokens

    * `src_embed` maps token ids `[seq_len, batch_size]` to embeddings `[seq_len, batch_size, d_model]`
    * `encoder` is labml_nn's, with any attention
    * `generator` projects hidden states to the logits of the vocabulary
    * `padding_token` stands in `labels` where nothing is to be predicted

    `document_mask` may be `DocumentMask`: attention over packed documents by a kernel that knows of them.

    With a `pooler` and a head `next_sentence`, linear layers both (`pairs`), it predicts labels of pairs, too.
    """

    document_mask: type[DocumentMask] | None = None

    def __init__(self, *, src_embed: nn.Module, encoder: Encoder, generator: nn.Module, padding_token: int):
        super().__init__()
        self.src_embed = src_embed
        self.encoder = encoder
        self.generator = generator
        self.padding_token = padding_token

    def forward(self, x: Tensor, labels: Tensor, *, padding_mask: Tensor | None = None,
                document_ids: Tensor | None = None, segment_ids: Tensor | None = None,
                pair_labels: Tensor | None = None, n_positions: int | None = None) -> MLMOutput:
        """
        * `x` is the masked batch and `labels` what to predict, as `MLM` returns them, `[seq_len, batch_size]`
        * `padding_mask` is true where `x` is padding, which is never attended to; same shape
        * `document_ids` are integers; tokens of a sequence attend to each other only if theirs are equal, and those of
          a document are in a row; same shape
        * `segment_ids` are those of BERT's pairs, if the model has any; same shape
        * `pair_labels` are those of `Batch`, `[1, batch_size]`; their loss is a sum of its own
        * `n_positions` bounds the masked positions of a sequence, if a bound is known: it makes all shapes static
        """
        # `[n_positions, batch_size]` each
        positions, labels = self._masked_positions(labels, n_positions)
        if pair_labels is not None:
            # The first token, `[CLS]`, stands for the pair
            positions = torch.cat([torch.zeros_like(positions[:1]), positions])
        # `[n_positions, batch_size, d_model]`, `[n_positions * batch_size, n_tokens]`
        hidden, pairs = self.encode(x, padding_mask, document_ids, positions, segment_ids), None
        if pair_labels is not None:
            hidden, pairs = hidden[1:], pairs_output(self._pair_logits(hidden[0]), pair_labels[0])
        logits, labels = self.generator(hidden).flatten(0, 1), labels.flatten()

        is_masked = labels != self.padding_token
        loss_sum = functional.cross_entropy(logits.float(), labels, ignore_index=self.padding_token, reduction='sum')
        n_masked = is_masked.sum()
        n_correct = ((logits.argmax(dim=-1) == labels) & is_masked).sum()
        return MLMOutput(loss_sum / n_masked.clamp(min=1), loss_sum, n_masked, n_correct, pairs)

    def _masked_positions(self, labels: Tensor, n_positions: int | None) -> tuple[Tensor, Tensor]:
        """
        The masked positions of each sequence and their labels, `[n_positions, batch_size]` each. Sequences with fewer
        have other positions as well, whose label is `padding_token`. `labels` is `[seq_len, batch_size]`.
        """
        is_masked = labels != self.padding_token
        if n_positions is None:
            # A rank may have no sequence of a batch
            n_positions = int(is_masked.sum(dim=0).max()) if is_masked.shape[1] else 0
        # Attention needs at least one query
        # As bytes: some releases of torch cannot sort booleans on a GPU
        positions = is_masked.byte().argsort(dim=0, descending=True, stable=True)[:max(1, n_positions)]
        return positions, labels.gather(0, positions)

    def predict(self, x: Tensor, *, padding_mask: Tensor | None = None, document_ids: Tensor | None = None,
                segment_ids: Tensor | None = None) -> Tensor:
        """Logits at every position, `[seq_len, batch_size, n_tokens]`; the arguments are those of `forward`."""
        return self.generator(self.encode(x, padding_mask, document_ids, segment_ids=segment_ids))

    def predict_pairs(self, x: Tensor, *, padding_mask: Tensor | None = None,
                      segment_ids: Tensor | None = None) -> Tensor:
        """Logits of the two labels of pairs, `[batch_size, 2]`; the arguments are those of `forward`."""
        return self._pair_logits(self.encode(x, padding_mask, segment_ids=segment_ids)[0])

    def _pair_logits(self, hidden: Tensor) -> Tensor:
        """The same of hidden states of the first token, `[batch_size, d_model]`."""
        return self.next_sentence(torch.tanh(self.pooler(hidden)))

    def encode(self, x: Tensor, padding_mask: Tensor | None = None, document_ids: Tensor | None = None,
               positions: Tensor | None = None, segment_ids: Tensor | None = None) -> Tensor:
        """
        Hidden states at every position, `[seq_len, batch_size, d_model]`, or at some `positions` of each sequence,
        `[n_positions, batch_size]`. The other arguments are those of `forward`.
        """
        mask = self._mask(padding_mask, document_ids)
        segments = {} if segment_ids is None else {'segment_ids': segment_ids}
        embedded = self.src_embed(x, **segments) if document_ids is None else \
            embed_documents(self.src_embed, x, document_ids, **segments)
        if positions is None:
            return self.encoder(embedded, mask)
        if isinstance(self.encoder, MLMEncoder):
            return self.encoder(embedded, mask, positions)
        return gather_positions(self.encoder(embedded, mask), positions)

    def _mask(self, padding_mask: Tensor | None, document_ids: Tensor | None) -> Tensor | DocumentMask | None:
        """Which positions may attend to each other; both are `[seq_len, batch_size]`."""
        if document_ids is not None and self.document_mask is not None:
            return self.document_mask(document_ids, padding_mask)
        # labml_nn's attention mask is `[seq_len_q, seq_len_k, batch_size]`
        mask = None if document_ids is None else document_ids[:, None] == document_ids[None]
        if padding_mask is None:
            return mask
        # A token that may attend to padding only does so: a softmax over no key is undefined. 1 broadcasts
        is_visible = ~padding_mask[None] if mask is None else mask & ~padding_mask[None]
        return is_visible | ~is_visible.any(dim=1, keepdim=True)

    def hidden_states(self, x: Tensor, padding_mask: Tensor | None = None) -> list[Tensor]:
        """
        Those of the embeddings and after each layer, `[seq_len, batch_size, d_model]` each; the last are those that
        `encode` returns, after the norm at the end.
        """
        states = []
        hooks = [module.register_forward_hook(lambda module, inputs, output: states.append(output))
                 for module in (self.src_embed, *self.encoder.layers)]
        try:
            last = self.encode(x, padding_mask)
        finally:
            for hook in hooks:
                hook.remove()
        return [*states[:-1], last]

    @property
    def ignored_label(self) -> float:
        """What stands in labels where nothing is to be predicted."""
        return self.padding_token

    @property
    def n_segments(self) -> int:
        """How many segments (token types) it tells apart; 1 if it has no embeddings of segments."""
        return getattr(self.src_embed, 'n_segments', 1)

    @property
    def max_seq_len(self) -> float:
        """The longest sequence that its position embeddings allow; infinite for rotary ones."""
        lengths = [len(m.positional_encodings) for m in self.modules() if hasattr(m, 'positional_encodings')]
        lengths += [m.P for m in self.modules() if isinstance(m, RelativeMultiHeadAttention)]
        return min(lengths, default=math.inf)


def init_weights(model: nn.Module, generator: torch.Generator):
    """
    Draws the weights of every linear layer and embedding, each on its own, in the order of `model.modules()`.

    * Linear: uniform in ±`fan_in`^-½, torch's default; biases are 0. One such map shrinks the standard deviation of its
      input to 0.577; the residual stream keeps the scale from layer to layer.
    * Embedding: normal, so that embedded tokens have unit variance. labml_nn's embeddings with positions multiply by
      `d_model`^½: there the standard deviation is `d_model`^-½, and 1 otherwise.
    """
    multiplied = [m.linear for m in model.modules() if isinstance(m, ABSOLUTE)]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = module.in_features ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            std = module.embedding_dim ** -0.5 if module in multiplied else 1.
            nn.init.normal_(module.weight, std=std, generator=generator)


class MLMFeedForwardConfigs(DeclaredConfigs, FeedForwardConfigs):
    """
    ## Configurable feed-forward layer

    labml_nn's, with GELU by default.
    """
    ffn: Annotated[nn.Module, Item('Feed-forward layer')]
    d_model: Annotated[int, Item(refused='it is `transformer.d_model`', follows='transformer.d_model')]
    d_ff: Annotated[int, Item('Hidden size of the feed-forward layer', at_least(1), follows='2 × transformer.d_model')]
    dropout: Annotated[float, Item('Dropout probability within the layer', FRACTION, follows='transformer.dropout')]
    activation: Annotated[nn.Module, Item('Activation between the two linear layers')] = 'GELU'
    is_gated: Annotated[bool, Item('Multiply the activation by a second linear layer (GLU)')]
    bias1: Annotated[bool, Item('Bias of the first linear layer')]
    bias2: Annotated[bool, Item('Bias of the second linear layer')]
    bias_gate: Annotated[bool, Item('Bias of the gate')]
    glu_variant: Annotated[str, Item('Gated variant, which sets activation, gate and biases')]


_TOKENIZER = Item(refused='it follows from the tokenizer')
_NO_DECODER = Item(refused='a masked language model has no decoder')


class MLMTransformerConfigs(DeclaredConfigs, TransformerConfigs):
    """
    ## Configurable transformer for MLM

    All of labml_nn's `TransformerConfigs`, and the wrapper `transformer_mlm` that computes the masked loss.
    """
    n_layers: Annotated[int, Item('Number of layers', at_least(1))]
    n_heads: Annotated[int, Item('Number of attention heads', at_least(1))]
    d_model: Annotated[int, Item('Size of embeddings and hidden states', at_least(2), follows='d_model')]
    dropout: Annotated[float, Item('Dropout probability; recent MLM recipes use none', FRACTION)] = 0.0
    encoder_attn: Annotated[nn.Module, Item('Attention')] = 'sdpa_rotary'
    ffn: Annotated[MLMFeedForwardConfigs, Item('Feed-forward layers; `mlm` has d_ff = 2 d_model, `default` is '
                                               "labml_nn's (2048)")] = 'mlm'
    encoder_layer: Annotated[nn.Module, Item('A layer')]
    encoder: Annotated[Encoder, Item('All layers; `mlm` computes the last one at masked positions only, `default` is '
                                     "labml_nn's")] = 'mlm'
    src_embed: Annotated[nn.Module, Item('Token embeddings; `by_attention` adds positions where attention has none of '
                                         'its own')] = 'by_attention'
    generator: Annotated[nn.Module, Item('Projection to the vocabulary')]
    transformer_mlm: Annotated[TransformerMLM, Item('The model')] = 'default'
    seed: Annotated[int, Item('Seed of the initial weights', Range(0, 2 ** 32 - 1), follows='seed')] = 1
    padding_token: Annotated[int, _TOKENIZER] = 0
    n_src_vocab: Annotated[int, _TOKENIZER]
    n_tgt_vocab: Annotated[int, _TOKENIZER]
    decoder: Annotated[Any, _NO_DECODER]
    decoder_attn: Annotated[Any, _NO_DECODER]
    decoder_layer: Annotated[Any, _NO_DECODER]
    decoder_mem_attn: Annotated[Any, _NO_DECODER]
    encoder_decoder: Annotated[Any, _NO_DECODER]
    tgt_embed: Annotated[Any, _NO_DECODER]

    # Does it expect special tokens around each sequence?
    _adds_special_tokens = False


class ShallowTransformerConfigs(MLMTransformerConfigs):
    """
    ## The same with three layers

    What learns most in the first minutes on a CPU.
    """
    n_layers = 3


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
        raise UserError(f'd_model={c.d_model} is not divisible by n_heads={c.n_heads}')
    if c.d_model % 2:
        raise UserError(f'd_model={c.d_model} is odd: sinusoidal positions come in pairs')
    model = TransformerMLM(src_embed=c.src_embed, encoder=c.encoder, generator=c.generator,
                           padding_token=c.padding_token)
    for layer in model.encoder.layers:
        attention = getattr(layer, 'self_attn', None)
        if type(attention) is RelativeMultiHeadAttention:
            # labml_nn's option keeps 0.1 whatever `dropout` says
            attention.dropout.p = c.dropout
    init_weights(model, torch.Generator().manual_seed(c.seed))
    attention = getattr(model.encoder.layers[0], 'self_attn', None)
    if attention is not None and type(attention) not in (SDPA, MultiHeadAttention, RelativeMultiHeadAttention):
        check_attention(attention, c.d_model)
    return model

