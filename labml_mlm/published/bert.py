"""
# BERT and RoBERTa in Hugging Face's format
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.items.declarations import Range
from labml_mlm.model.bert import ACTIVATIONS
from labml_mlm.published.family import find, read_by_names, require, require_number, take, written

# What `BertConfig` has where a `config.json` says nothing
_DEFAULTS = {'hidden_act': 'gelu', 'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1,
             'type_vocab_size': 2, 'layer_norm_eps': 1e-12, 'position_embedding_type': 'absolute',
             'is_decoder': False, 'add_cross_attention': False, 'pad_token_id': 0, 'embedding_size': None}
_ALLOWED = {'position_embedding_type': ['absolute'], 'is_decoder': [False], 'add_cross_attention': [False],
            'hidden_act': [*ACTIVATIONS], 'embedding_size': [None]}
_ITEMS = {'d_model': 'hidden_size', 'n_tokens': 'vocab_size', 'n_layers': 'num_hidden_layers',
          'n_heads': 'num_attention_heads', 'd_ff': 'intermediate_size', 'activation': 'hidden_act',
          'dropout': 'hidden_dropout_prob', 'attn_dropout': 'attention_probs_dropout_prob',
          'n_segments': 'type_vocab_size', 'norm_eps': 'layer_norm_eps', 'max_positions': 'max_position_embeddings'}
_LINEAR = 'weight', 'bias'
_HEADS = {'bert': {'dense': 'cls.predictions.transform.dense', 'norm': 'cls.predictions.transform.LayerNorm',
                   'decoder': 'cls.predictions'},
          'roberta': {'dense': 'lm_head.dense', 'norm': 'lm_head.layer_norm', 'decoder': 'lm_head'}}


class BERTFamily:
    """`BertForMaskedLM` with `bert` for `option`, or `RobertaForMaskedLM` with `roberta`."""
    def __init__(self, option: str, *, model_type: str, architecture: str):
        self.option = option
        self.item_names = (*_ITEMS, 'first_position', 'has_pooler', 'has_next_sentence',
                           *['published_as'] * (option == 'roberta'))
        self.model_type = model_type
        self.architecture = f'{architecture}ForMaskedLM'
        self.base = f'{architecture}Model'
        # That with a head for pairs, too, if there is one
        self.with_pairs = f'{architecture}ForPreTraining' if option == 'bert' else None

    def items(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """`Family.items`."""
        require(config, _ALLOWED, _DEFAULTS)
        items = take(config, _ITEMS, _DEFAULTS) | {'first_position': 0}
        if self.option == 'roberta':
            padding = {'pad_token_id': 1, **config}
            require_number(padding, 'pad_token_id', Range(0, items['max_positions'] - 2))
            items['published_as'] = self.model_type
            items['first_position'] = padding['pad_token_id'] + 1
            items['max_positions'] -= items['first_position']
        items |= {name: find(weights, theirs, prefix=self.option) is not None
                  for name, theirs in (('has_pooler', f'{self.option}.pooler.dense.weight'),
                                       ('has_next_sentence', 'cls.seq_relationship.weight'))}
        decoder = weights.get(f'{_HEADS[self.option]["decoder"]}.decoder.weight')
        embeddings = find(weights, f'{self.option}.embeddings.word_embeddings.weight', prefix=self.option)
        if decoder is not None and embeddings and not decoder.equal(weights[embeddings]):
            raise UserError('its decoder has weights of its own (tie_word_embeddings=false), which is not supported')
        return items

    def config(self, items: Mapping[str, Any]) -> dict[str, Any]:
        """`Family.config`."""
        first = items['first_position']
        config = {theirs: items[ours] for ours, theirs in _ITEMS.items()}
        return config | {'max_position_embeddings': first + items['max_positions'], 'tie_word_embeddings': True,
                         'position_embedding_type': 'absolute'}

    def read(self, weights: Mapping[str, Tensor], items: Mapping[str, Any]) -> tuple[dict[str, Tensor], set[str]]:
        """`Family.read`."""
        state, used = read_by_names(weights, self._names(items), prefix=self.option)
        head = _HEADS[self.option]['decoder']
        # The decoder's are those of the embeddings, and its bias is saved twice
        return state, used | {f'{head}.decoder.{kind}' for kind in _LINEAR}

    def write(self, state: Mapping[str, Tensor], items: Mapping[str, Any]) -> dict[str, Tensor]:
        """`Family.write`."""
        return {theirs: state[ours] for ours, theirs in written(self._names(items), state).items()}

    def _names(self, items: Mapping[str, Any]) -> dict[str, str]:
        """Theirs by ours."""
        family, head = self.option, _HEADS[self.option]
        names = {f'src_embed.{ours}.weight': f'{family}.embeddings.{theirs}_embeddings.weight'
                 for ours, theirs in (('tokens', 'word'), ('positions', 'position'), ('segments', 'token_type'))}
        modules = {'src_embed.norm': f'{family}.embeddings.LayerNorm'}
        for i in range(items['n_layers']):
            layer, theirs = f'encoder.layers.{i}', f'{family}.encoder.layer.{i}'
            modules |= {f'{layer}.self_attn.{part}.linear': f'{theirs}.attention.self.{part}'
                        for part in ('query', 'key', 'value')}
            modules |= {f'{layer}.self_attn.output': f'{theirs}.attention.output.dense',
                        f'{layer}.norm_self_attn': f'{theirs}.attention.output.LayerNorm',
                        f'{layer}.feed_forward.0': f'{theirs}.intermediate.dense',
                        f'{layer}.feed_forward.2': f'{theirs}.output.dense',
                        f'{layer}.norm_ff': f'{theirs}.output.LayerNorm'}
        modules |= {f'generator.{part}': head[part] for part in ('dense', 'norm')}
        if items['has_pooler']:
            modules['pooler'] = f'{family}.pooler.dense'
        if items['has_next_sentence'] and family == 'bert':
            modules['next_sentence'] = 'cls.seq_relationship'
        names |= {f'{ours}.{kind}': f'{theirs}.{kind}' for ours, theirs in modules.items() for kind in _LINEAR}
        return names | {'generator.decoder.bias': f'{head["decoder"]}.bias'}
