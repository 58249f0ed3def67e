"""Published encoders for tests: tiny folders of `save_pretrained`, and models of ours with their weights."""
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from labml_mlm.inference.pretrained import silent
from labml_mlm.model.bert import BERTConfigs, RoBERTaConfigs
from labml_mlm.model.modernbert import ModernBERTConfigs
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.published.families import FAMILIES
from labml_mlm.published.start import PublishedEncoder

CONFIGS = {'bert': BERTConfigs, 'roberta': RoBERTaConfigs, 'modernbert': ModernBERTConfigs}
WORDS = ['the', 'quick', 'brown', 'fox', 'jumps', 'over', 'lazy', 'dog']
# In the order of ids; the pieces make words that are not there
VOCABULARY = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS, *'abcdefghijklmnopqrstuvwxyz',
              *(f'##{letter}' for letter in 'abcdefghijklmnopqrstuvwxyz')]
SIZES = {'d_model': 16, 'n_layers': 2, 'n_heads': 2, 'd_ff': 24, 'max_positions': 32}


def make(option: str, *, n_tokens: int = len(VOCABULARY), padding_token: int = 0, **items) -> TransformerMLM:
    """A model of ours, in evaluation mode, whose every weight is random."""
    conf = CONFIGS[option]()
    conf._set_values({'n_src_vocab': n_tokens, 'n_tgt_vocab': n_tokens, 'padding_token': padding_token, **items})
    with silent():
        return randomize(conf.transformer_mlm.eval())


def randomize(model: TransformerMLM) -> TransformerMLM:
    """Away from initial weights, where norms and biases have no effect."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def load_model(source: PublishedEncoder, *, padding_token: int = 0) -> TransformerMLM:
    """A model of ours with the weights of a folder, in evaluation mode."""
    model = make(source.family.option, padding_token=padding_token, **items_of(source))
    assert source.load_weights(model).has_head
    return model


def items_of(source: PublishedEncoder) -> dict[str, Any]:
    """Those of the family, by their names in it."""
    return {name.removeprefix('transformer.'): value for name, value in source.values.items() if name != 'transformer'}


def save(folder: Path, model: nn.Module | None = None, *, model_type: str = 'bert', has_head: bool = True,
         is_tokenized: bool = True, **items) -> Path:
    """Writes a tiny encoder, and returns its folder: a new one, unless `model` is given with its `items`."""
    family, items = FAMILIES[model_type], {**SIZES, **items}
    if model is None:
        model = make(family.option, **items)
    conf = CONFIGS[family.option]()
    conf._set_values({name: value for name, value in items.items() if name != 'n_tokens'})
    conf._set_values({'n_src_vocab': len(VOCABULARY), 'padding_token': 0})
    with silent():
        every = {name: getattr(conf, name) for name in family.item_names if name != 'n_tokens'}
    every['n_tokens'] = len(model.src_embed.tokens.weight)
    weights = family.write(model.state_dict(), every)
    if not has_head:
        weights = {name.partition('.')[2]: tensor for name, tensor in weights.items() if name.startswith('bert.')}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / 'model.safetensors')
    write_json(folder / 'config.json', {'model_type': model_type, 'pad_token_id': 0, **family.config(every)})
    if is_tokenized:
        word_pieces().save(str(folder / 'tokenizer.json'))
    return folder


def word_pieces() -> Tokenizer:
    """BERT's tokenizer, of few words."""
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(VOCABULARY)}, unk_token='[UNK]'))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(VOCABULARY[:5])
    tokenizer.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
    return tokenizer


def write_json(path: Path, content: object):
    path.write_text(json.dumps(content), encoding='utf-8')


def edit_config(folder: Path, **values):
    """Changes `config.json`; what is set to `...` is removed."""
    config = {**json.loads((folder / 'config.json').read_text()), **values}
    write_json(folder / 'config.json', {name: value for name, value in config.items() if value is not ...})
