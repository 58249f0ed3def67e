"""
# Which architecture of Hugging Face's a model is

Decided by the modules of the model, not by what its configs say, as those may have options of the user's own.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from labml_nn.transformers.feed_forward import FeedForward
from labml_nn.transformers.mha import PrepareForMultiHeadAttention
from labml_nn.transformers.models import Generator, TransformerLayer
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.model.attention import SDPA
from labml_mlm.model.bert import BERTConfigs, BERTEmbeddings, BERTHead, PostNormLayer, RoBERTaConfigs
from labml_mlm.model.dropout import Dropout
from labml_mlm.model.encoder import MLMEncoder
from labml_mlm.model.modernbert import GatedFeedForward, ModernBERTConfigs, NormalisedEmbeddings, PreNormLayer
from labml_mlm.model.pairs import PARTS, trains_pairs
from labml_mlm.model.transformer import MLMTransformerConfigs, ShallowTransformerConfigs, TransformerMLM
from labml_mlm.published.families import FAMILIES
from labml_mlm.published.family import Family

_COMMON = {TransformerMLM, MLMEncoder, SDPA, PrepareForMultiHeadAttention, nn.ModuleList, nn.Embedding, nn.Linear,
           nn.LayerNorm, nn.Dropout, Dropout, nn.Identity, nn.Softmax, nn.GELU, nn.ReLU}
# The family, and the modules besides the common ones, of each class of configs
_KNOWN: dict[type, tuple[str, set[type]]] = {
    BERTConfigs: ('bert', {BERTEmbeddings, PostNormLayer, BERTHead, nn.Sequential}),
    RoBERTaConfigs: ('roberta', {BERTEmbeddings, PostNormLayer, BERTHead, nn.Sequential}),
    ModernBERTConfigs: ('modernbert', {NormalisedEmbeddings, PreNormLayer, GatedFeedForward, BERTHead}),
    **dict.fromkeys((MLMTransformerConfigs, ShallowTransformerConfigs),
                    ('esm', {TransformerLayer, FeedForward, Generator}))}


class Representation(NamedTuple):
    """A model as one of a family."""
    family: Family
    items: dict[str, Any]
    # By the names of the family
    weights: dict[str, Tensor]
    # The class of Hugging Face's
    architecture: str


class NotRepresentable(UserError):
    """A model that no architecture of Hugging Face's can represent."""


def represent(model: TransformerMLM, conf: MLMConfigs, *, has_head: bool = True) -> Representation:
    """
    A trained model as Hugging Face has it, or its encoder alone without `has_head`. Raises `NotRepresentable`, which
    names the part, if no family can represent it, and what `Family.write` raises.
    """
    kind = type(conf.transformer)
    if kind not in _KNOWN:
        raise NotRepresentable(f'no architecture of Hugging Face\'s is that of {kind.__name__}')
    name, known = _KNOWN[kind]
    modules = [*model.modules()] if has_head else [*model.src_embed.modules(), *model.encoder.modules()]
    strange = sorted({type(module).__name__ for module in modules if type(module) not in _COMMON | known})
    if strange:
        raise NotRepresentable(f'no architecture of Hugging Face\'s has {", ".join(strange)} as it is here')
    if name == 'esm':
        _check_esm(model)
    family = FAMILIES[conf.transformer.published_as if name == 'roberta' else name]
    items = {item: _value(conf if item in ('d_model', 'n_tokens') else conf.transformer, item)
             for item in family.item_names}
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()
             if has_head or name.startswith(('src_embed.', 'encoder.'))}
    items |= {f'has_{part}': has_head and hasattr(model, part) for part in PARTS if f'has_{part}' in items}
    if name == 'roberta':
        _begin_behind_padding(state, items, conf.padding_token)
    with_pairs = getattr(family, 'with_pairs', None) if trains_pairs(model) else None
    return Representation(family, items, family.write(state, items), with_pairs or family.architecture)


def _value(conf: Any, item: str) -> Any:
    for name in item.split('.'):
        conf = getattr(conf, name)
    return conf


def _begin_behind_padding(state: dict[str, Tensor], items: dict[str, Any], padding_token: int):
    """Moves positions to where RoBERTa has the first, behind the id of `[PAD]`, if another tokenizer has another id."""
    positions, first = state['src_embed.positions.weight'], padding_token + 1
    rows = positions[items['first_position']:]
    state['src_embed.positions.weight'] = torch.cat([rows.new_zeros(first, rows.shape[1]), rows]) \
        if first != items['first_position'] else positions
    items['first_position'] = first


def _check_esm(model: TransformerMLM):
    """Raises `UserError` if something else than the class of a module differs from ESM."""
    for layer in model.encoder.layers:
        attention, ffn = layer.self_attn, layer.feed_forward
        if not (attention.is_rotary and attention.rope_base == 10_000 and attention.window is None):
            raise NotRepresentable('no architecture of Hugging Face\'s has this attention: ESM has rotary positions')
        if ffn.is_gated or type(ffn.activation) is not nn.GELU or ffn.activation.approximate != 'none':
            raise NotRepresentable('no architecture of Hugging Face\'s has this feed-forward layer: ESM has GELU, '
                                   'and no gate')
    linear = [module for module in model.encoder.modules() if isinstance(module, nn.Linear)]
    if any(module.bias is None for module in linear):
        raise NotRepresentable('no architecture of Hugging Face\'s has these linear layers: those of ESM have biases')


def token_ids(conf: MLMConfigs) -> Mapping[str, int]:
    """The ids of special tokens, as `config.json` names them."""
    special = conf.tokenizer.special
    ids = {'pad_token_id': conf.padding_token, 'mask_token_id': conf.mask_token, 'cls_token_id': special.cls,
           'sep_token_id': special.sep, 'bos_token_id': special.cls, 'eos_token_id': special.sep}
    return {name: i for name, i in ids.items() if i is not None}
