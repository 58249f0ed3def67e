"""Folders as Hugging Face has them: what is in them, and where they may be written."""
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.exports import CUSTOM, FAMILIES, NO_PYTHON

import labml_mlm
from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.export import folder as folder_module
from labml_mlm.export.folder import export_folder
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.published.esm import ESMFamily
from labml_mlm.published.start import PublishedEncoder

ALL = {**FAMILIES, **CUSTOM}
FILES = {'README.md', 'config.json', 'model.safetensors', 'special_tokens_map.json', 'tokenizer.json',
         'tokenizer_config.json'}


def export(trained: Pretrained, path: Path, **options) -> list[str]:
    return [*map(str, export_folder(trained, path, python=NO_PYTHON, **options))]


def config_of(folder: Path) -> dict:
    return json.loads((folder / 'config.json').read_text())


@pytest.mark.parametrize('name', ALL)
def test_a_folder_has_all_files_and_no_others(folders, name):
    more = {'modeling_labml_mlm.py'} if name in CUSTOM else {'modules.json', '1_Pooling', 'sentence_bert_config.json'}
    assert set(os.listdir(folders[name])) == FILES | more
    assert not [path for path in os.listdir(folders[name].parent) if path not in ALL]


@pytest.mark.parametrize('name', ALL)
def test_config_says_what_the_model_is(folders, models, name):
    config, model = config_of(folders[name]), models[name]
    kind = 'labml_mlm' if name in CUSTOM else name.split()[0]
    assert config['model_type'] == kind
    assert config['dtype'] == 'float32'
    assert (config['vocab_size'], config['hidden_size']) == (model.configs.n_tokens, 32)
    assert config['num_hidden_layers'] == len(model.model.encoder.layers)
    assert (config['pad_token_id'], config['mask_token_id']) == (model.configs.padding_token, model.configs.mask_token)
    assert config['tie_word_embeddings'] == (kind not in ('esm', 'labml_mlm'))
    if kind == 'esm':
        assert {'position_embedding_type': 'rotary', 'token_dropout': False, 'emb_layer_norm_before': False,
                'layer_norm_eps': 1e-5, 'architectures': ['EsmForMaskedLM']}.items() <= config.items()


@pytest.mark.parametrize('name', ALL)
def test_what_is_read_back_has_the_same_logits_to_the_bit(folders, models, logits, name):
    again = labml_mlm.load(folders[name])
    for found, expected in zip(logits(again), logits(models[name]), strict=True):
        assert torch.equal(found, expected)
    assert again.tokenizer.n_tokens == models[name].tokenizer.n_tokens
    assert again.configs._template == models[name].configs._template


@pytest.mark.parametrize('name', ALL)
def test_a_run_that_goes_on_begins_with_the_same_weights(folders, models, make, name):
    source = PublishedEncoder(folders[name])
    values = ALL[name] | {item: value for item, value in source.values.items() if item.startswith('transformer.')}
    new = make(**{item: value for item, value in values.items() if item != 'transformer.ffn.glu_variant'})
    state = {name: tensor.clone() for name, tensor in models[name].model.state_dict().items()}
    torch.nn.init.zeros_(next(new.model.parameters()))
    source.load_weights(new.model)
    for of_weight, tensor in state.items():
        assert torch.equal(new.model.state_dict()[of_weight], tensor)
    values = source.run_values({}, MLMConfigs())
    assert values['add_special_tokens'] == (models[name].configs._template.length > 0)


@pytest.mark.parametrize('name', ALL)
def test_the_export_of_an_export_is_the_same(folders, tmp_path, name):
    again = tmp_path / 'again'
    export(labml_mlm.load(folders[name]), again, is_custom=name in CUSTOM)
    before, after = load_file(folders[name] / 'model.safetensors'), load_file(again / 'model.safetensors')
    assert before.keys() == after.keys()
    for name_, tensor in before.items():
        assert torch.equal(after[name_], tensor)
    assert config_of(again) == config_of(folders[name])
    assert (again / 'tokenizer.json').read_text() == (folders[name] / 'tokenizer.json').read_text()


def test_weights_are_fp32_and_say_that_they_are_torchs(folders):
    for folder in folders.values():
        with safe_open(folder / 'model.safetensors', 'pt') as opened:
            assert opened.metadata() == {'format': 'pt'}
            assert {str(opened.get_tensor(name).dtype) for name in opened.keys()} == {'torch.float32'}  # noqa: SIM118


def test_more_embeddings_than_tokens_are_kept(folders, models):
    assert models['esm with words'].tokenizer.n_tokens < 100
    assert load_file(folders['esm with words'] / 'model.safetensors')['lm_head.decoder.weight'].shape == (100, 32)


def test_modes_are_those_of_any_file(run, tmp_path):
    before = os.umask(0o027)
    try:
        export(run, tmp_path / 'out', is_sentence_transformers=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'out').stat().st_mode) == 0o750
    for path in (tmp_path / 'out').rglob('*'):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def interrupt(*_, **__):
    raise KeyboardInterrupt


def fill_disk(*_, **__):
    raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('part', ['save_file', 'check_folder', 'model_card'])
@pytest.mark.parametrize('fail, error', [(interrupt, KeyboardInterrupt), (fill_disk, OSError)])
def test_nothing_is_left_behind(run, tmp_path, monkeypatch, part, fail, error):
    monkeypatch.setattr(folder_module, part, fail)
    with pytest.raises(error):
        export(run, tmp_path / 'out')
    assert os.listdir(tmp_path) == []


def test_a_full_disk(run, small_disk):
    (small_disk / 'other').write_bytes(bytes(450_000))
    with pytest.raises(OSError):
        export(run, small_disk / 'out')
    assert os.listdir(small_disk) == ['other']


def test_a_wrong_weight_leaves_nothing_behind(run, tmp_path, monkeypatch):
    write = ESMFamily.write

    def wrong(self, state, items):
        weights = write(self, state, items)
        altered = weights['esm.encoder.layer.1.output.dense.bias'] = state['encoder.norm.bias'].clone()
        altered[3] += 1e-3
        return weights

    monkeypatch.setattr(ESMFamily, 'write', wrong)
    with pytest.raises(UserError, match='read back has other logits than the model'):
        export(run, tmp_path / 'out')
    assert os.listdir(tmp_path) == []


def test_an_encoder_without_a_head_is_refused(models, tmp_path):
    trained = models['bert']
    alone = Pretrained(model=trained.model, tokenizer=trained.tokenizer, configs=trained.configs, checkpoint=None,
                       about='MiniLM', has_head=False)
    with pytest.raises(UserError, match='MiniLM has no head .* train one with init_from'):
        export(alone, tmp_path / 'out')


def test_what_hugging_face_cannot_represent_comes_with_code_of_its_own(models, tmp_path):
    notes = export(models['relative'], tmp_path / 'out')
    assert any('code of its own' in str(note) and 'RelativeMultiHeadAttention' in str(note) for note in notes)
    assert (tmp_path / 'out/modeling_labml_mlm.py').exists()
