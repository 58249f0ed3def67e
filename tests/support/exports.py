"""Runs and models of several architectures, to be exported."""
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from labml.internal.lab import lab_singleton
from torch import nn

from labml_mlm import MLMConfigs
from labml_mlm.inference.pretrained import Pretrained, silent
from support.project import Project

# Where Hugging Face's half is not wanted
NO_PYTHON = 'no-python'
# Line ends, accents, punctuation, three documents
DOCUMENTS = ['the quick brown fox jumps over the lazy dog\n' * 20,
             'Naïve café owners, aged 40, pay 3.50 a cup: "why?" they ask\r\n' * 15,
             "it's a fox over the dog\n\nover the fox, over the brown dog!\n" * 15]
SIZES = {'transformer.n_layers': 2, 'd_model': 32, 'transformer.n_heads': 4, 'seq_len': 32, 'batch_size': 16,
         'n_prompts': 0, 'checkpoint_interval': 'none'}
_BERT = {'transformer': 'bert', 'transformer.d_ff': 48, 'tokenizer': 'wordpiece', 'vocab_size': 150}
_ROBERTA = {'transformer': 'roberta', 'transformer.d_ff': 48, 'tokenizer': 'bpe', 'vocab_size': 300}
_MODERNBERT = {**_ROBERTA, 'transformer': 'modernbert'}
# Those that `make` makes. The first are Hugging Face's, the last has code of its own
FAMILIES = {
    'esm': {},
    'esm with words': {'tokenizer': 'basic_english', 'transformer.ffn.d_ff': 40, 'n_tokens': 100},
    'esm with special tokens': {'add_special_tokens': True, 'tokenizer': 'grapheme'},
    'bert': _BERT, 'bert without special tokens': {**_BERT, 'add_special_tokens': False},
    'roberta': _ROBERTA, 'roberta with unigram': {**_ROBERTA, 'tokenizer': 'unigram', 'vocab_size': 400},
    'modernbert': {**_MODERNBERT, 'transformer.n_layers': 4, 'transformer.local_attention': 8}}
CUSTOM = {'relative': {'transformer.encoder_attn': 'relative'},
          'gated': {'transformer.ffn.glu_variant': 'SwiGLU', 'tokenizer': 'bpe', 'vocab_size': 280}}
# Runs, by their uuid
_RUNS = {'feed': {'epochs': 4, 'optimizer.learning_rate': 0.005}, 'beef': {**_BERT, 'packing': 'documents'},
         'cafe': _ROBERTA}


@pytest.fixture(scope='session')
def texts(tmp_path_factory) -> Path:
    """A folder of texts."""
    folder = tmp_path_factory.mktemp('texts') / 'some texts'
    folder.mkdir()
    for i, text in enumerate(DOCUMENTS):
        (folder / f'{i}.txt').write_bytes(text.encode())
    return folder


@pytest.fixture(scope='session')
def exports(tmp_path_factory, fork_server, texts) -> Project:
    """A project with the runs `feed` (the default one), `beef` (BERT) and `cafe` (RoBERTa), trained for a moment."""
    project = Project(tmp_path_factory.mktemp('exports'), fork_server)
    for uuid, values in _RUNS.items():
        given = {'epochs': 1, **SIZES, **values, 'text_path': texts}
        result = project.run(*(f'{name}={value}' for name, value in given.items()), env={'RUN_UUID': uuid})
        assert result.returncode == 0, result.stderr
    return project


@pytest.fixture(scope='session')
def make(tmp_path_factory, texts) -> Callable[..., Pretrained]:
    """Makes models whose every weight is random, gains of norms down to 0.09 and below zero among them."""
    def make(**values) -> Pretrained:
        lab, conf = lab_singleton(), MLMConfigs()
        before, lab.data_path = lab.data_path, tmp_path_factory.mktemp('data')
        with silent():
            conf._set_values({'text_path': str(texts), **SIZES, **values})
            conf.init()
            _ = conf.model, conf.valid_mlm, conf.batch_reader
        lab.data_path = before
        randomize(conf.model)
        return Pretrained(model=conf.model.eval(), tokenizer=conf.tokenizer, configs=conf, checkpoint=None,
                          about='a model')
    return make


@pytest.fixture(scope='session')
def models(make) -> dict[str, Pretrained]:
    """Models of all families, by name."""
    return {name: make(**values) for name, values in {**FAMILIES, **CUSTOM}.items()}


@torch.no_grad()
def randomize(model: nn.Module):
    """Random weights, of which none is as it was made."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            gain = module.weight
            gain.copy_(0.09 + torch.rand(gain.shape, generator=generator))
            gain *= 1 - 2 * (torch.rand(gain.shape, generator=generator) < 0.2)
            gain[0], gain[1] = 0.09, -0.09
    for name, parameter in model.named_parameters():
        if name.endswith('bias'):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        elif '.query.' in name or '.key.' in name:
            # Not nearly the same attention to all positions
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
