r"""
# The default encoder in Hugging Face's format: ESM

The encoder of ESM-2 ([Lin et al. 2023](https://doi.org/10.1126/science.ade2574)) is this package's default one, with
norms before the parts of a layer, rotary positions and GELU. Its head is not: there is a linear layer, GELU and a norm
between the last norm and the decoder, and ours is the decoder alone. But that head can be made to do nothing. With gain
$g$ and bias $b$ of the last norm, $x = g \odot z + b$ for a normalised $z$, choose

$$W = \operatorname{diag}(1 / g), \qquad \beta = c - b / g, \qquad W x + \beta = z + c.$$

As $|z_i| \leq \sqrt{d}$, all of $z + c$ is beyond 6 for $c \geq \sqrt{d} + 6$, where GELU is the identity to the last
bit. The norm of the head subtracts the mean, $c$ among it, divides by the standard deviation, which is 1, and has gain
$g$ and bias $b$: $x$ again. Decoder, embeddings and hidden states stay as they are.

In 16 bits $z + c$ loses most digits of $z$: use such a model in fp32.
"""
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.published.family import is_of_head, read_by_names, require, take, written

_DEFAULTS = {'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1, 'position_embedding_type': 'absolute',
             'layer_norm_eps': 1e-12, 'emb_layer_norm_before': None, 'token_dropout': False, 'is_folding_model': False,
             'is_decoder': False, 'add_cross_attention': False, 'tie_word_embeddings': True, 'pad_token_id': None}
# Of labml_nn's norms
_EPS = 1e-5
_ALLOWED = {'position_embedding_type': ['rotary'], 'layer_norm_eps': [_EPS], 'token_dropout': [False],
            'emb_layer_norm_before': [False, None], 'is_folding_model': [False], 'is_decoder': [False],
            'add_cross_attention': [False], 'tie_word_embeddings': [False]}
_ITEMS = {'d_model': 'hidden_size', 'n_tokens': 'vocab_size', 'n_layers': 'num_hidden_layers',
          'n_heads': 'num_attention_heads', 'ffn.d_ff': 'intermediate_size', 'dropout': 'hidden_dropout_prob'}
_PREFIX, _KINDS = 'esm', ('weight', 'bias')
# Its head for contacts in proteins
_CONTACTS = 'esm.contact_head.'
# A gain that is smaller cannot be divided by
MIN_GAIN = 1e-3


class ESMFamily:
    """`EsmForMaskedLM` with the head that does nothing."""
    model_type, option = 'esm', 'mlm'
    architecture, base = 'EsmForMaskedLM', 'EsmModel'
    item_names = tuple(_ITEMS)

    def items(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """`Family.items`."""
        require(config, _ALLOWED, _DEFAULTS)
        items = take(config, _ITEMS, _DEFAULTS)
        norm = [weights.get(f'esm.encoder.emb_layer_norm_after.{kind}') for kind in _KINDS]
        head = {name: tensor for name, tensor in weights.items()
                if name.startswith('lm_head.') and 'decoder' not in name and name != 'lm_head.bias'}
        if head and (None in norm or any(not tensor.equal(head.get(name, tensor.new_zeros(0)))
                                         for name, tensor in _head(*norm).items())):
            raise UserError('its head has a trained linear layer and norm, which is not supported: only the ESM that '
                            'labml-mlm export writes is')
        return items

    def config(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """`Family.config`."""
        config = {theirs: items[ours] for ours, theirs in _ITEMS.items()}
        return config | {'attention_probs_dropout_prob': items['dropout'], 'hidden_act': 'gelu', 'token_dropout': False,
                         'position_embedding_type': 'rotary', 'layer_norm_eps': _EPS, 'emb_layer_norm_before': False,
                         'tie_word_embeddings': False, 'is_folding_model': False, 'dtype': 'float32'}

    def read(self, weights: Mapping[str, Tensor], items: Mapping[str, Any]) -> tuple[dict[str, Tensor], set[str]]:
        """`Family.read`."""
        state, used = read_by_names(weights, self._names(items), prefix=_PREFIX)
        return state, used | {name for name in weights
                              if name.startswith(('lm_head.', _CONTACTS)) or name.endswith('.inv_freq')}

    def write(self, state: Mapping[str, Tensor], items: Mapping[str, Any]) -> dict[str, Tensor]:
        """`Family.write`. Raises `UserError` if a gain of the last norm is too small to be divided by."""
        gain, has_head = state['encoder.norm.weight'], any(map(is_of_head, state))
        if has_head and gain.abs().min() < MIN_GAIN:
            raise UserError(f'a gain of the last norm is {gain.abs().min():.1e}, and below {MIN_GAIN:g} the head '
                            'cannot be written as that of ESM: use --custom-code')
        weights = {theirs: state[ours] for ours, theirs in written(self._names(items), state).items()}
        weights |= _parts_of_its_own(items)
        return weights | _head(gain, state['encoder.norm.bias']) if has_head else weights

    def _names(self, items: Mapping[str, Any]) -> dict[str, str]:
        """Theirs by ours; the head in between has no weights of ours."""
        modules = {'encoder.norm': 'esm.encoder.emb_layer_norm_after'}
        for i in range(items['n_layers']):
            layer, theirs = f'encoder.layers.{i}', f'esm.encoder.layer.{i}'
            modules |= {f'{layer}.self_attn.{part}.linear': f'{theirs}.attention.self.{part}'
                        for part in ('query', 'key', 'value')}
            modules |= {f'{layer}.self_attn.output': f'{theirs}.attention.output.dense',
                        f'{layer}.norm_self_attn': f'{theirs}.attention.LayerNorm',
                        f'{layer}.feed_forward.layer1': f'{theirs}.intermediate.dense',
                        f'{layer}.feed_forward.layer2': f'{theirs}.output.dense',
                        f'{layer}.norm_ff': f'{theirs}.LayerNorm'}
        names = {f'{ours}.{kind}': f'{theirs}.{kind}' for ours, theirs in modules.items() for kind in _KINDS}
        return names | {'src_embed.weight': 'esm.embeddings.word_embeddings.weight',
                        'generator.projection.weight': 'lm_head.decoder.weight',
                        'generator.projection.bias': 'lm_head.bias'}


def _head(gain: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The weights of a head that does nothing, for gain and bias of the norm before it, `[d_model]` each."""
    shift = math.ceil(math.sqrt(len(gain))) + 6.
    return {'lm_head.dense.weight': torch.diag(1 / gain), 'lm_head.dense.bias': shift - bias / gain,
            'lm_head.layer_norm.weight': gain.clone(), 'lm_head.layer_norm.bias': bias.clone()}


def _parts_of_its_own(items: Mapping[str, Any]) -> dict[str, Tensor]:
    """What ESM has and we have not: a head for contacts, which is 0, and the frequencies of rotary positions."""
    n_maps, d_k = items['n_layers'] * items['n_heads'], items['d_model'] // items['n_heads']
    frequencies = 10_000. ** -(torch.arange(0, d_k, 2).float() / d_k)
    return {f'{_CONTACTS}regression.weight': torch.zeros(1, n_maps), f'{_CONTACTS}regression.bias': torch.zeros(1)} | {
        f'esm.encoder.layer.{i}.attention.self.rotary_embeddings.inv_freq': frequencies.clone()
        for i in range(items['n_layers'])}
