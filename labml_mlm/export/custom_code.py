"""
# A model as `modeling_labml_mlm.py` has it

That file, which lies in the folder beside the weights, represents what `MLMTransformerConfigs` builds by name.

Whether it represents a model is not to be told by the names of options, which anyone may register. So the items are
read off the modules, a second model is built by them, and the two must have the same modules, of the same classes and
with the same attributes. A layer of one's own is found wherever it is.
"""
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from labml_nn.transformers.feed_forward import FeedForward
from labml_nn.transformers.mha import MultiHeadAttention
from labml_nn.transformers.models import (
    EmbeddingsWithLearnedPositionalEncoding,
    EmbeddingsWithPositionalEncoding,
    Encoder,
    Generator,
    TransformerLayer,
)
from labml_nn.transformers.xl.relative_mha import RelativeMultiHeadAttention
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.inference.pretrained import silent
from labml_mlm.model.attention import SDPA
from labml_mlm.model.encoder import MLMEncoder
from labml_mlm.model.pairs import PARTS
from labml_mlm.model.transformer import MLMTransformerConfigs, TransformerMLM
from labml_mlm.published.custom_code import MODEL_TYPE, config_of, items_of, published_name

# Copied into folders. It is not imported here, as it needs transformers
MODELING = Path(__file__).with_name('modeling_labml_mlm.py')
# The name of that of fine-tuned models
HEAD_MODELING = 'modeling_labml_mlm_head.py'
_CLASSES = {'AutoConfig': 'LabmlMLMConfig', 'AutoModel': 'LabmlMLMModel', 'AutoModelForMaskedLM': 'LabmlMLMForMaskedLM'}

# Classes of each part, and the options that make them
_EMBEDDINGS = {nn.Embedding: 'no_pos', EmbeddingsWithPositionalEncoding: 'fixed_pos',
               EmbeddingsWithLearnedPositionalEncoding: 'learned_pos'}
_ENCODERS = {MLMEncoder: 'mlm', Encoder: 'default'}
_ATTENTIONS = {SDPA: 'sdpa', MultiHeadAttention: 'mha', RelativeMultiHeadAttention: 'relative'}
_ACTIVATIONS = {nn.GELU: 'gelu', nn.ReLU: 'relu', nn.SiLU: 'silu', nn.Sigmoid: 'sigmoid', nn.Identity: 'identity'}
# Attributes that say nothing about the function
_OF_STATE = {'training', 'attn', 'is_rope_cache_fixed', 'is_save_ff_input'}


def custom_config(model: TransformerMLM) -> dict[str, Any]:
    """The `config.json` of a model. Raises `UserError`, with the name of the part, for what the file does not have."""
    items, activation = _read_items(model)
    attention, embeddings = model.encoder.layers[0].self_attn, items['src_embed']
    config = {
        'architectures': [_CLASSES['AutoModelForMaskedLM']], 'model_type': MODEL_TYPE,
        'auto_map': {auto: f'{MODELING.stem}.{name}' for auto, name in _CLASSES.items()},
        **config_of(items, activation=activation),
        'pad_token_id': model.padding_token, 'tie_word_embeddings': False, 'dtype': 'float32',
        'rope_base': getattr(attention, 'rope_base', 10_000.), 'layer_norm_eps': model.encoder.norm.eps,
        'n_positions': 0 if embeddings == 'no_pos' else len(model.src_embed.positional_encodings),
        'n_relative_positions': getattr(attention, 'P', 0),
        'max_position_embeddings': None if math.isinf(model.max_seq_len) else model.max_seq_len}
    _check_same(model, _build(items_of(config), model.padding_token))
    return config


def custom_weights(model: TransformerMLM) -> dict[str, Tensor]:
    """The weights of a model by their names in the folder, without those of a head for pairs."""
    return {published_name(name): tensor.detach().cpu().contiguous().clone()
            for name, tensor in model.state_dict().items() if not name.startswith(PARTS)}


def _read_items(model: TransformerMLM) -> tuple[dict[str, Any], str]:
    """The items that the modules say, and the name of the activation."""
    _option(model, 'the model', {TransformerMLM: ''})
    _option(model.generator, 'generator', {Generator: ''})
    embeddings = _option(model.src_embed, 'src_embed', _EMBEDDINGS)
    encoder = _option(model.encoder, 'encoder', _ENCODERS)
    layer = model.encoder.layers[0]
    _option(layer, 'encoder_layer', {TransformerLayer: ''})
    _option(layer.feed_forward, 'ffn', {FeedForward: ''})
    attention = _option(layer.self_attn, 'encoder_attn', _ATTENTIONS)
    if attention == 'sdpa' and layer.self_attn.is_rotary:
        attention = 'sdpa_rotary'
    ffn, tokens = layer.feed_forward, model.src_embed if embeddings == 'no_pos' else model.src_embed.linear
    activation = _option(ffn.activation, 'ffn.activation', _ACTIVATIONS)
    return {
        'n_src_vocab': tokens.num_embeddings, 'd_model': tokens.embedding_dim, 'n_layers': len(model.encoder.layers),
        'n_heads': layer.self_attn.heads, 'dropout': layer.dropout.p, 'src_embed': embeddings,
        'encoder_attn': attention, 'encoder': encoder, 'ffn.d_ff': ffn.layer1.out_features,
        'ffn.dropout': ffn.dropout.p, 'ffn.is_gated': ffn.is_gated, 'ffn.bias1': ffn.layer1.bias is not None,
        'ffn.bias2': ffn.layer2.bias is not None,
        'ffn.bias_gate': ffn.is_gated and ffn.linear_v.bias is not None}, activation


def _option(module: nn.Module, part: str, options: dict[type, str]) -> str:
    """The option that makes modules of this very class."""
    if type(module) not in options:
        raise UserError(f'{MODELING.name} cannot represent {part}: it is of class {type(module).__name__}, and must be '
                        f'{" or ".join(class_.__name__ for class_ in options)}')
    return options[type(module)]


def _build(items: dict[str, Any], padding_token: int) -> TransformerMLM:
    conf = MLMTransformerConfigs()
    conf._set_values({**items, 'n_tgt_vocab': items['n_src_vocab'], 'padding_token': padding_token})
    with silent(), torch.random.fork_rng(devices=[]):
        return conf.transformer_mlm


def _check_same(model: nn.Module, represented: nn.Module):
    """Raises `UserError` with the first difference between a model and the one that its config represents."""
    found, expected = dict(_described(model)), dict(_described(represented))
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise UserError(f'{MODELING.name} cannot represent {name}: it is {found.get(name, "missing")}, and '
                            f'labml_mlm would build {expected.get(name, "nothing")} there')


def _described(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Classes and attributes of all modules, and the shapes of all weights, by name; not of a head for pairs."""
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(PARTS):
            continue
        kind = type(module)
        yield name or 'the model', f'{kind.__module__}.{kind.__qualname__}'
        for attribute, value in vars(module).items():
            # Not those of `nn.Module` itself
            if not attribute.startswith('_') and attribute not in _OF_STATE \
                    and isinstance(value, bool | int | float | str | tuple | None):
                yield f'{name}.{attribute}', value
    for name, tensor in model.state_dict().items():
        if name.startswith(PARTS):
            continue
        yield f'the weight {name}', list(tensor.shape)
