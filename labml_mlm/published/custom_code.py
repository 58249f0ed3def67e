"""
# Folders with `modeling_labml_mlm.py`

What their `config.json` says, as configs of ours; the weights have our names, but for a prefix.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.published.folder import PublishedFolder

MODEL_TYPE = 'labml_mlm'
# Of a fine-tuned model, whose config has that of its encoder in it
HEAD_TYPE = 'labml_mlm_head'
# In front of the names of all weights but the head's
_PREFIX, _HEAD = 'model.', 'generator.'
# By our names, which begin with `ffn.` for the feed-forward layer's
_ITEMS = {'n_src_vocab': 'vocab_size', 'd_model': 'hidden_size', 'n_layers': 'num_hidden_layers',
          'n_heads': 'num_attention_heads', 'dropout': 'hidden_dropout_prob', 'src_embed': 'embeddings',
          'encoder_attn': 'attention', 'encoder': 'encoder', 'ffn.d_ff': 'intermediate_size',
          'ffn.dropout': 'ffn_dropout_prob', 'ffn.is_gated': 'is_gated', 'ffn.bias1': 'bias1', 'ffn.bias2': 'bias2',
          'ffn.bias_gate': 'bias_gate'}
# labml_nn has the other activations in GLU variants only
ACTIVATIONS = {'gelu': {'ffn.activation': 'GELU'}, 'relu': {'ffn.activation': 'ReLU'},
               'silu': {'ffn.glu_variant': 'SwiGLU'}, 'sigmoid': {'ffn.glu_variant': 'GLU'},
               'identity': {'ffn.glu_variant': 'Bilinear'}}


def encoder_alone(folder: PublishedFolder) -> PublishedFolder:
    """The encoder of a fine-tuned model with code of its own; any other folder as it is. Raises `UserError`."""
    if folder.config.get('model_type') == HEAD_TYPE:
        if not isinstance(folder.config.get('encoder'), dict):
            raise UserError(f'{folder.path}: the config of type {HEAD_TYPE} has no encoder')
        folder.config = folder.config['encoder']
        folder.weights = {name.removeprefix(_PREFIX): weight for name, weight in folder.weights.items()
                          if name.startswith(_PREFIX)}
    return folder


def items_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    The items of `MLMTransformerConfigs` that `config.json` stands for. Raises `UserError` for what is missing or not
    known.
    """
    missing = [name for name in (*_ITEMS.values(), 'hidden_act') if name not in config]
    if missing:
        raise UserError(f'the config of type {MODEL_TYPE} has no {", ".join(missing)}')
    if config['hidden_act'] not in ACTIVATIONS:
        raise UserError(f'the config of type {MODEL_TYPE} has hidden_act={config["hidden_act"]}: it must be '
                        f'{" or ".join(ACTIVATIONS)}')
    return {ours: config[theirs] for ours, theirs in _ITEMS.items()} | ACTIVATIONS[config['hidden_act']]


def config_of(items: Mapping[str, Any], *, activation: str) -> dict[str, Any]:
    """The part of `config.json` that stands for items; the activation has the name that it has there."""
    return {theirs: items[ours] for ours, theirs in _ITEMS.items()} | {'hidden_act': activation}


def published_name(name: str) -> str:
    """The name of a weight in the folder by its name in `TransformerMLM`."""
    return name if name.startswith(_HEAD) else _PREFIX + name


class CustomCodeFamily:
    """What `labml-mlm export --custom-code` writes, to be read again; `labml_mlm.export.custom_code` writes it."""
    model_type, option = MODEL_TYPE, 'mlm'
    architecture, base = 'LabmlMLMForMaskedLM', 'LabmlMLMModel'
    item_names = tuple(_ITEMS)

    def items(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """`Family.items`."""
        items = items_of(config)
        items['n_tokens'] = items.pop('n_src_vocab')
        return items

    def read(self, weights: Mapping[str, Tensor], items: Mapping[str, Any]) -> tuple[dict[str, Tensor], set[str]]:
        """`Family.read`."""
        return {name.removeprefix(_PREFIX): weight for name, weight in weights.items()}, set(weights)
