"""
# The encoder of labml_mlm for Hugging Face

This file is complete: it needs torch and transformers only, and lies beside the weights that it is for.

    AutoModelForMaskedLM.from_pretrained(FOLDER, trust_remote_code=True)

Layers normalise before attention and before the feed-forward layer, and once more at the end. Tokens know their places
by absolute positions that are added to their embeddings, by rotary ones, or by relative ones of attention. Weights have
the names that labml_mlm gives them, behind `model.` but for the head's. Tensors are batch-first.
"""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

ACTIVATIONS = {'gelu': nn.GELU, 'relu': nn.ReLU, 'silu': nn.SiLU, 'sigmoid': nn.Sigmoid, 'identity': nn.Identity}


class LabmlMLMConfig(PretrainedConfig):
    """
    ## Sizes and parts of a model

    * `embeddings` is `no_pos`, `fixed_pos` or `learned_pos`, the last two with `n_positions`
    * `attention` is `sdpa_rotary`, `relative`, with `n_relative_positions` to either side, or, without positions,
      `sdpa` or `mha`, which are the same here
    * `is_gated` multiplies the activation by one more linear layer; `bias1`, `bias2` and `bias_gate` are the biases of
      the feed-forward layer
    * `encoder` says how labml_mlm trains it
    """
    model_type = 'labml_mlm'

    def __init__(self, vocab_size=100, hidden_size=128, num_hidden_layers=6, num_attention_heads=8,
                 intermediate_size=256, embeddings='no_pos', n_positions=0, attention='sdpa_rotary', rope_base=10000.,
                 n_relative_positions=0, max_position_embeddings=None, encoder='mlm', hidden_act='gelu', is_gated=False,
                 bias1=True, bias2=True, bias_gate=False, hidden_dropout_prob=0., ffn_dropout_prob=0.,
                 layer_norm_eps=1e-5, pad_token_id=0, tie_word_embeddings=False, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.embeddings = embeddings
        self.n_positions = n_positions
        self.attention = attention
        self.rope_base = rope_base
        self.n_relative_positions = n_relative_positions
        self.max_position_embeddings = max_position_embeddings
        self.encoder = encoder
        self.hidden_act = hidden_act
        self.is_gated = is_gated
        self.bias1 = bias1
        self.bias2 = bias2
        self.bias_gate = bias_gate
        self.hidden_dropout_prob = hidden_dropout_prob
        self.ffn_dropout_prob = ffn_dropout_prob
        self.layer_norm_eps = layer_norm_eps
        super().__init__(pad_token_id=pad_token_id, tie_word_embeddings=tie_word_embeddings, **kwargs)


class PositionEmbeddings(nn.Module):
    """Embeddings of tokens plus those of their positions, `[batch_size, seq_len]` to `[…, hidden_size]`."""

    def __init__(self, config):
        super().__init__()
        self.linear = nn.Embedding(config.vocab_size, config.hidden_size)
        encodings = torch.zeros(config.n_positions, 1, config.hidden_size)
        if config.embeddings == 'learned_pos':
            self.positional_encodings = nn.Parameter(encodings)
        else:
            # The weights have these, too
            self.register_buffer('positional_encodings', encodings)

    def forward(self, x: Tensor) -> Tensor:
        """The sum; embeddings of tokens are scaled."""
        encodings = self.positional_encodings[:x.shape[1], 0]
        return self.linear(x) * math.sqrt(self.linear.embedding_dim) + encodings


class Projection(nn.Module):
    """Queries, keys or values: `[batch_size, seq_len, hidden_size]` to `[batch_size, heads, seq_len, d_k]`."""

    def __init__(self, config, bias: bool):
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.hidden_size, bias=bias)
        self.heads = config.num_attention_heads

    def forward(self, x: Tensor) -> Tensor:
        """Those of each head."""
        return self.linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Attention of every position to all others, with rotary positions or with none."""

    has_bias = True

    def __init__(self, config):
        super().__init__()
        self.query = Projection(config, bias=self.has_bias)
        self.key = Projection(config, bias=self.has_bias)
        self.value = Projection(config, bias=True)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, x: Tensor, mask: Tensor | None, rotations: tuple[Tensor, Tensor] | None) -> Tensor:
        """
        * `x` has shape `[batch_size, seq_len, hidden_size]`, and so has the result
        * `mask` is true where a key may be attended to, `[batch_size, 1, 1, seq_len]`
        * `rotations` are cosines and sines, `[seq_len, d_k / 2]` each
        """
        q, k, v = self.query(x), self.key(x), self.value(x)
        if rotations is not None:
            q, k = rotate(q, *rotations), rotate(k, *rotations)
        return self.attend(q, k, v, mask)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`q`, `k` and `v` have shape `[batch_size, heads, seq_len, d_k]`; `mask` may be a bias of the scores."""
        x = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask,
                                                    dropout_p=self.dropout_prob if self.training else 0.)
        return self.output(x.transpose(1, 2).flatten(2))


class RelativeAttention(Attention):
    """Attention whose scores depend on how far apart two positions are (Transformer-XL)."""

    has_bias = False

    def __init__(self, config):
        super().__init__(config)
        n, heads = config.n_relative_positions, config.num_attention_heads
        d_k = config.hidden_size // heads
        self.n_positions = n
        self.key_pos_embeddings = nn.Parameter(torch.zeros(2 * n, heads, d_k))
        self.key_pos_bias = nn.Parameter(torch.zeros(2 * n, heads))
        self.query_pos_bias = nn.Parameter(torch.zeros(heads, d_k))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """As that of `Attention`."""
        seq_len = q.shape[2]
        # Distances from -(seq_len - 1) to seq_len - 1: `[heads, 2 * seq_len - 1, …]`
        near = slice(self.n_positions - seq_len + 1, self.n_positions + seq_len)
        embeddings, bias = self.key_pos_embeddings[near].transpose(0, 1), self.key_pos_bias[near].transpose(0, 1)
        # `[batch_size, heads, seq_len, 2 * seq_len - 1]`
        by_distance = q @ embeddings.transpose(1, 2) + bias[:, None]
        index = torch.arange(seq_len, device=q.device)
        # That of query i and key j is j - i
        distances = (index - index[:, None] + seq_len - 1).expand(*q.shape[:2], -1, -1)
        scores = by_distance.gather(3, distances) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, float('-inf'))
        return super().attend(q + self.query_pos_bias[:, None], k, v, scores)


class FeedForward(nn.Module):
    """Two linear layers, an activation between them, and perhaps a gate."""

    def __init__(self, config):
        super().__init__()
        self.layer1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias1)
        self.layer2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias2)
        self.activation = ACTIVATIONS[config.hidden_act]()
        self.dropout = nn.Dropout(config.ffn_dropout_prob)
        self.is_gated = config.is_gated
        if config.is_gated:
            self.linear_v = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias_gate)

    def forward(self, x: Tensor) -> Tensor:
        """The result, of the shape of `x`."""
        hidden = self.activation(self.layer1(x))
        if self.is_gated:
            hidden = hidden * self.linear_v(x)
        return self.layer2(self.dropout(hidden))


class Layer(nn.Module):
    """One layer; its arguments are those of `Attention`."""

    def __init__(self, config):
        super().__init__()
        self.self_attn = (RelativeAttention if config.attention == 'relative' else Attention)(config)
        self.feed_forward = FeedForward(config)
        self.norm_self_attn = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm_ff = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | None, rotations: tuple[Tensor, Tensor] | None) -> Tensor:
        """The result, of the shape of `x`."""
        x = x + self.dropout(self.self_attn(self.norm_self_attn(x), mask, rotations))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


class Encoder(nn.Module):
    """The layers, and the norm behind them."""

    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Generator(nn.Module):
    """The head: a linear layer, `[…, hidden_size]` to `[…, vocab_size]`."""

    def __init__(self, config):
        super().__init__()
        self.projection = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits."""
        return self.projection(hidden)


class LabmlMLMPreTrainedModel(PreTrainedModel):
    """What both models have in common."""
    config_class = LabmlMLMConfig
    base_model_prefix = 'model'
    _no_split_modules = ['Layer']
    _supports_sdpa = True


class LabmlMLMModel(LabmlMLMPreTrainedModel):
    """The encoder."""

    def __init__(self, config):
        super().__init__(config)
        if config.embeddings == 'no_pos':
            self.src_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        else:
            self.src_embed = PositionEmbeddings(config)
        self.encoder = Encoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Embeddings of tokens."""
        return self.src_embed if self.config.embeddings == 'no_pos' else self.src_embed.linear

    def set_input_embeddings(self, value: nn.Module):
        """Replaces embeddings of tokens."""
        if self.config.embeddings == 'no_pos':
            self.src_embed = value
        else:
            self.src_embed.linear = value

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None,
                return_dict: bool | None = None) -> BaseModelOutput | tuple:
        """`input_ids` and `attention_mask`, 1 or 0, have shape `[batch_size, seq_len]`."""
        seq_len, longest = input_ids.shape[1], self.config.max_position_embeddings
        if longest is not None and seq_len > longest:
            raise ValueError(f'{seq_len} tokens are too many: this model has {longest} positions')
        mask = None
        if attention_mask is not None:
            # A sequence of padding attends to padding: a softmax over no key is undefined
            mask = attention_mask.bool()
            mask = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]
        x = self.src_embed(input_ids)
        rotations = self._rotations(seq_len, x) if self.config.attention == 'sdpa_rotary' else None
        states = [x]
        for layer in self.encoder.layers:
            x = layer(x, mask, rotations)
            states.append(x)
        states[-1] = x = self.encoder.norm(x)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = BaseModelOutput(last_hidden_state=x, hidden_states=tuple(states) if output_hidden_states else None)
        return output.to_tuple() if return_dict is False else output

    def _rotations(self, seq_len: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, `[seq_len, d_k / 2]` each, computed with 64 bits, which some devices lack."""
        d_k = self.config.hidden_size // self.config.num_attention_heads
        theta = self.config.rope_base ** (-2 * torch.arange(d_k // 2, dtype=torch.float64, device='cpu') / d_k)
        angles = torch.arange(seq_len, dtype=torch.float64, device='cpu')[:, None] * theta
        return angles.cos().to(x.device, x.dtype), angles.sin().to(x.device, x.dtype)


class LabmlMLMForMaskedLM(LabmlMLMPreTrainedModel):
    """The encoder, and the head that predicts tokens."""

    def __init__(self, config):
        super().__init__(config)
        self.model = LabmlMLMModel(config)
        self.generator = Generator(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The linear layer of the head."""
        return self.generator.projection

    def set_output_embeddings(self, value: nn.Module):
        """Replaces the linear layer of the head."""
        self.generator.projection = value

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None,
                output_hidden_states: bool | None = None, return_dict: bool | None = None) -> MaskedLMOutput | tuple:
        """`labels`, of the shape of `input_ids`, are -100 where there is nothing to predict."""
        output = self.model(input_ids, attention_mask, output_hidden_states, return_dict=True)
        logits = self.generator(output.last_hidden_state)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return output.to_tuple() if return_dict is False else output


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs of features i and i + d_k / 2 of `x`, `[batch_size, heads, seq_len, d_k]`."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
