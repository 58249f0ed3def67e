"""Folders of fine-tuned models: their files, and that nothing else is written."""
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.exports import NO_PYTHON
from support.fine_tuned import MODELS

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.task_export import folder as folder_module
from labml_mlm.task_export.folder import export_task_folder

FILES = {'README.md', 'config.json', 'model.safetensors', 'special_tokens_map.json', 'tokenizer.json',
         'tokenizer_config.json'}
CODE = {'modeling_labml_mlm.py', 'modeling_labml_mlm_head.py'}


@pytest.mark.parametrize('name', MODELS)
def test_a_folder_has_all_files_and_the_encoder_is_read_again(task_folders, fine_tuned, name):
    folder = task_folders[name]
    assert set(os.listdir(folder)) == FILES | (CODE if MODELS[name][1].startswith('Labml') else set())
    again, trained = labml_mlm.load(folder), fine_tuned[name]
    # Not only the encoder: its tokens, too
    assert torch.equal(again.encode(['the dull fox'], pooling='none')[0],
                       labml_mlm.inference.pretrained.Pretrained.encode(trained, ['the dull fox'], pooling='none')[0])
    with pytest.raises(UserError, match='has no head for masked language modelling'):
        again.require_head()


def test_texts_are_cut_where_they_were_in_training(task_folders):
    config = json.loads((task_folders['bert, cls'] / 'tokenizer_config.json').read_text())
    assert config['model_max_length'] == 24


@pytest.mark.parametrize('name', ['bert, cls', 'bert, mean, pairs'])
def test_a_wrong_weight_leaves_nothing_behind(fine_tuned, tmp_path, monkeypatch, name):
    write = folder_module.write_files

    def wrong(folder, files):
        write(folder, files)
        weights = load_file(folder / 'model.safetensors')
        weights['classifier.bias' if name == 'bert, cls' else 'output.bias'][0] += 1e-3
        save_file(weights, folder / 'model.safetensors')

    monkeypatch.setattr(folder_module, 'write_files', wrong)
    with pytest.raises(UserError, match='read back has other logits than the model'):
        export_task_folder(fine_tuned[name], tmp_path / 'out', python=NO_PYTHON)
    assert os.listdir(tmp_path) == []


def test_what_an_export_wrote_can_be_replaced(fine_tuned, tmp_path):
    for name, is_forced in (('bert, mean, pairs', False), ('bert, cls', True)):
        export_task_folder(fine_tuned[name], tmp_path / 'out', is_forced=is_forced, python=NO_PYTHON)
    assert set(os.listdir(tmp_path / 'out')) == FILES
    with pytest.raises(UserError, match='exists: --force replaces it'):
        export_task_folder(fine_tuned['bert, cls'], tmp_path / 'out', python=NO_PYTHON)


def test_the_card_says_what_it_predicts(task_folders):
    cards = {name: (task_folders[name] / 'README.md').read_text() for name in MODELS}
    card = cards['bert, mean, pairs']
    assert '\npipeline_tag: text-classification\n' in card and 'A classifier of texts, trained with labml_mlm.' in card
    assert '| Labels | bad, good |' in card and '| Field of the second text | pair |' in card
    assert "pipeline('text-classification', 'path/to/this/folder', trust_remote_code=True)" in card
    assert "classify({'text': 'A text', 'text_pair': 'and another.'}" in card
    assert "pipeline('token-classification', 'path/to/this/folder', aggregation_strategy='first')" \
        in cards['bert, tags'] and 'A tagger of words' in cards['bert, tags']
    assert 'A model that predicts a number for a text' in cards['own, cls, number']


def test_a_trained_run_has_its_figures_in_the_card(fine_tuned_runs, tmp_path):
    run = labml_mlm.load(fine_tuned_runs.path / 'logs/labels/abba')
    notes = [*map(str, export_task_folder(run, tmp_path / 'out', python=NO_PYTHON))]
    assert 'Read back with equal logits: 1, 2, 17, 32 tokens, padding, a text' in notes
    card = (tmp_path / 'out/README.md').read_text()
    assert '| loss | accuracy | f1_macro | matthews |' in card and '| Went on from | encoder |' in card
    assert f'| {run.checkpoint.valid["loss"]:.4f} | {run.checkpoint.valid["accuracy"]:.4f} |' in card
    assert '| Text | rows.jsonl |' in card and str(fine_tuned_runs.path) not in card
