"""
# ModernBERT in Hugging Face's format

Queries, keys and values are one matrix there. Layers are global or local by a list in recent folders, by their distance
in older ones.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import ABOVE_ZERO
from labml_mlm.model.bert import ACTIVATIONS
from labml_mlm.published.family import find, read_by_names, require, require_number, take, written

# What `ModernBertConfig` has where a `config.json` says nothing
_DEFAULTS = {'hidden_activation': 'gelu', 'classifier_activation': 'gelu', 'norm_eps': 1e-5, 'norm_bias': False,
             'attention_bias': False, 'mlp_bias': False, 'classifier_bias': False, 'decoder_bias': True,
             'attention_dropout': 0.0, 'embedding_dropout': 0.0, 'mlp_dropout': 0.0, 'local_attention': 128,
             'tie_word_embeddings': True, 'max_position_embeddings': 8192}
_ALLOWED = {'hidden_activation': [*ACTIVATIONS], 'tie_word_embeddings': [True], 'decoder_bias': [True]}
_ITEMS = {'d_model': 'hidden_size', 'n_tokens': 'vocab_size', 'n_layers': 'num_hidden_layers',
          'n_heads': 'num_attention_heads', 'd_ff': 'intermediate_size', 'activation': 'hidden_activation',
          'norm_eps': 'norm_eps', 'norm_bias': 'norm_bias', 'attn_bias': 'attention_bias', 'ffn_bias': 'mlp_bias',
          'head_bias': 'classifier_bias', 'attn_dropout': 'attention_dropout', 'embed_dropout': 'embedding_dropout',
          'dropout': 'mlp_dropout', 'local_attention': 'local_attention', 'max_positions': 'max_position_embeddings'}
_GLOBAL, _LOCAL = 'full_attention', 'sliding_attention'
_KINDS = 'weight', 'bias'


class ModernBERTFamily:
    """`ModernBertForMaskedLM`."""
    option = model_type = 'modernbert'
    architecture, base = 'ModernBertForMaskedLM', 'ModernBertModel'
    item_names = *_ITEMS, 'global_every', 'global_rope_base', 'local_rope_base'

    def items(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """`Family.items`."""
        require(config, _ALLOWED | {'classifier_activation': [config.get('hidden_activation', 'gelu')]}, _DEFAULTS)
        items = take(config, _ITEMS, _DEFAULTS)
        theta = self._theta(config)
        return items | {'global_every': self._global_every(config, items['n_layers']),
                        'global_rope_base': theta[_GLOBAL], 'local_rope_base': theta[_LOCAL]}

    def _global_every(self, config: Mapping[str, Any], n_layers: int) -> int:
        """The distance of two layers that attend to all positions."""
        if (layers := config.get('layer_types')) is None:
            config = {'global_attn_every_n_layers': 3, **config}
            require_number(config, 'global_attn_every_n_layers')
            return config['global_attn_every_n_layers']
        # Their number first, as `n_layers` may be anything
        if isinstance(layers, list) and len(layers) == n_layers:
            every = next((i for i in range(1, n_layers) if layers[i] == _GLOBAL), n_layers)
            if layers == self._layer_types(every, n_layers):
                return every
        raise UserError('layer_types is not supported: the first of every so many layers must attend to all, and there '
                        f'must be as many as layers, {n_layers}')

    @staticmethod
    def _theta(config: Mapping[str, Any]) -> dict[str, float]:
        """The bases of the angles by kind of layer, in recent folders and in older ones."""
        require(config, {'rope_scaling': [None]}, {})
        rope = config.get('rope_parameters') or {}
        if not isinstance(rope, dict) or not all(isinstance(rope.get(kind, {}), dict) for kind in (_GLOBAL, _LOCAL)) \
                or rope.keys() - {_GLOBAL, _LOCAL}:
            raise UserError(f'rope_parameters is not supported: it must have {_GLOBAL} and {_LOCAL}')
        for of_kind in rope.values():
            require(of_kind, {'rope_type': ['default']}, {'rope_type': 'default'})
        of_global = rope.get(_GLOBAL, {}).get('rope_theta') or config.get('global_rope_theta') or 160_000.
        of_local = rope.get(_LOCAL, {}).get('rope_theta')
        if of_local is None:
            # Older folders may have none for local layers: theirs is that of global ones then
            of_local = config['local_rope_theta'] or of_global if 'local_rope_theta' in config else 10_000.
        theta = {'global_rope_theta': of_global, 'local_rope_theta': of_local}
        for name in theta:
            require_number(theta, name, ABOVE_ZERO, is_integer=False)
        return {_GLOBAL: float(of_global), _LOCAL: float(of_local)}

    def config(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """`Family.config`: what recent and older releases read."""
        config = {theirs: items[ours] for ours, theirs in _ITEMS.items()}
        bases = {_GLOBAL: items['global_rope_base'], _LOCAL: items['local_rope_base']}
        return config | {
            'classifier_activation': items['activation'], 'decoder_bias': True, 'tie_word_embeddings': True,
            'layer_types': self._layer_types(items['global_every'], items['n_layers']),
            'rope_parameters': {kind: {'rope_type': 'default', 'rope_theta': base} for kind, base in bases.items()},
            'global_attn_every_n_layers': items['global_every'], 'global_rope_theta': bases[_GLOBAL],
            'local_rope_theta': bases[_LOCAL]}

    def read(self, weights: Mapping[str, Tensor], items: Mapping[str, Any]) -> tuple[dict[str, Tensor], set[str]]:
        """`Family.read`."""
        state, used = read_by_names(weights, self._names(items), prefix='model')
        for ours, theirs in self._fused_names(items).items():
            if name := find(weights, theirs, prefix='model'):
                used.add(name)
                state |= zip(self._parts(ours), weights[name].chunk(3), strict=True)
        return state, used | {'decoder.weight'}

    def write(self, state: Mapping[str, Tensor], items: Mapping[str, Any]) -> dict[str, Tensor]:
        """`Family.write`."""
        weights = {theirs: state[ours] for ours, theirs in written(self._names(items), state).items()}
        return weights | {theirs: torch.cat([state[part] for part in self._parts(ours)])
                          for ours, theirs in self._fused_names(items).items()}

    @staticmethod
    def _layer_types(every: int, n_layers: int) -> list[str]:
        return [_LOCAL if i % every else _GLOBAL for i in range(n_layers)]

    @staticmethod
    def _parts(name: str) -> list[str]:
        """The three weights of ours that are one there."""
        return [name.format(part) for part in ('query', 'key', 'value')]

    def _fused_names(self, items: Mapping[str, Any]) -> dict[str, str]:
        """Theirs by ours, where `{}` is the part."""
        return {f'encoder.layers.{i}.self_attn.{{}}.linear.{kind}': f'model.layers.{i}.attn.Wqkv.{kind}'
                for i in range(items['n_layers']) for kind in self._kinds(items['attn_bias'])}

    def _names(self, items: Mapping[str, Any]) -> dict[str, str]:
        """Theirs by ours, of all others."""
        modules = {'src_embed.norm': ('model.embeddings.norm', items['norm_bias']),
                   'encoder.norm': ('model.final_norm', items['norm_bias']),
                   'generator.dense': ('head.dense', items['head_bias']),
                   'generator.norm': ('head.norm', items['norm_bias'])}
        for i in range(items['n_layers']):
            layer, theirs = f'encoder.layers.{i}', f'model.layers.{i}'
            modules |= {f'{layer}.self_attn.output': (f'{theirs}.attn.Wo', items['attn_bias']),
                        f'{layer}.feed_forward.inner': (f'{theirs}.mlp.Wi', items['ffn_bias']),
                        f'{layer}.feed_forward.outer': (f'{theirs}.mlp.Wo', items['ffn_bias']),
                        f'{layer}.norm_ff': (f'{theirs}.mlp_norm', items['norm_bias'])}
            if i:
                modules[f'{layer}.norm_self_attn'] = f'{theirs}.attn_norm', items['norm_bias']
        names = {f'{ours}.{kind}': f'{theirs}.{kind}' for ours, (theirs, has_bias) in modules.items()
                 for kind in self._kinds(has_bias)}
        return names | {'src_embed.tokens.weight': 'model.embeddings.tok_embeddings.weight',
                        'generator.decoder.bias': 'decoder.bias'}

    @staticmethod
    def _kinds(has_bias: bool) -> tuple[str, ...]:
        return _KINDS if has_bias else _KINDS[:1]
