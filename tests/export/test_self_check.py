"""What was written is compared with the model, here and in transformers."""
import json
import os
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.exports import NO_PYTHON

from labml_mlm.common.errors import UserError
from labml_mlm.export import folder as folder_module
from labml_mlm.export.folder import export_folder
from labml_mlm.export.self_check import PYTHON, check_folder, compare_bf16, make_sequences
from labml_mlm.export.sentence import Sentence, masked_sentence
from labml_mlm.published.bert import BERTFamily
from labml_mlm.published.represent import represent

# How a Python says what it has
STUB = '#!/bin/sh\n'


@pytest.fixture
def out(folders, tmp_path):
    """A copy of an export, to be altered."""
    def out(name: str):
        return shutil.copytree(folders[name], tmp_path / name)
    return out


@pytest.fixture
def stub(tmp_path):
    """A Python that does what a line of the shell says."""
    def stub(line: str) -> str:
        path = tmp_path / 'python'
        path.write_text(STUB + line)
        path.chmod(0o755)
        return str(path)
    return stub


@pytest.mark.parametrize('name', ['esm', 'bert', 'roberta', 'modernbert'])
def test_one_other_weight_is_found(out, models, name):
    folder = out(name)
    weights = load_file(folder / 'model.safetensors')
    inner = next(weight for weight in weights if '.0.' in weight and weight.endswith('weight'))
    weights[inner].view(-1)[5] += 1e-3
    save_file(weights, folder / 'model.safetensors')
    with pytest.raises(UserError, match='what was written and read back has other logits than the model'):
        check_folder(folder, models[name], sentence=None, python=NO_PYTHON)


def alter(folder, **values):
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | values))


@pytest.mark.parametrize('name, values', [('bert', {'num_attention_heads': 8}), ('roberta', {'layer_norm_eps': 0.01})])
def test_what_our_reader_overlooks_is_found_by_transformers(out, models, needs_transformers, monkeypatch, name, values):
    """Both our writer and our reader have it wrong: as if they read the items of the model, not the file."""
    folder, items = out(name), BERTFamily.items
    right = json.loads((folder / 'config.json').read_text())
    alter(folder, **values)
    monkeypatch.setattr(BERTFamily, 'items', lambda self, config, weights: items(self, right, weights))
    with pytest.raises(UserError, match=r'in transformers, logits are off by \d\.\de[-+]\d\d of the largest'):
        check_folder(folder, models[name], sentence=None)


def test_a_folder_that_transformers_cannot_load(out, models, needs_transformers):
    folder = out('bert')
    # Ours does without
    (folder / 'tokenizer_config.json').write_text('{')
    with pytest.raises(UserError, match='transformers cannot load what was written: .*Error'):
        check_folder(folder, models['bert'], sentence=None)


def test_both_say_what_was_compared(run, tmp_path, needs_transformers):
    notes = [str(note) for note in export_folder(run, tmp_path / 'out')]
    assert 'Read back with equal logits: 1, 2, 17, 127, 512 tokens, padding, a sentence' in notes
    [line] = [note for note in notes if note.startswith('transformers ')]
    assert re.fullmatch(r'transformers \d+\.\S+ has the same, to \d\.\de-\d\d of the largest logit', line)
    assert all(len(note) <= 80 for note in notes), notes


def test_other_tokens_of_the_sentence_are_found(out, models, needs_transformers):
    trained, folder = models['bert'], out('bert')
    content = json.loads((folder / 'tokenizer.json').read_text())
    content['normalizer']['lowercase'] = True
    (folder / 'tokenizer.json').write_text(json.dumps(content))
    text, ids = 'Naïve [MASK] fox', trained.masked_ids(['Naïve ', ' fox'])
    with pytest.raises(UserError, match=r"transformers gives 'Naïve \[MASK\] fox' the tokens \[2, .* in place of "):
        check_folder(folder, trained, sentence=Sentence(text, ids))


@pytest.mark.parametrize('line, why', [
    ('echo "ImportError: libtorch.so"; exit 3', 'ImportError: libtorch.so'), ('kill -9 $$', 'it was ended by signal 9'),
    ('sleep 9', 'it took more than 0.3 s')])
def test_without_transformers_it_says_why(out, models, stub, monkeypatch, line, why):
    monkeypatch.setattr('labml_mlm.export.self_check._TIMEOUT', 0.3 if 'sleep' in line else 60)
    notes = check_folder(out('bert'), models['bert'], sentence=None, python=stub(line.replace('sleep', 'exec sleep')))
    assert [*map(str, notes)][1:] == [f'Not compared with transformers: {why}',
                                      f'{PYTHON}=PATH names another Python, which has it']


def test_the_environment_names_the_python(out, models, monkeypatch):
    folder = out('bert')
    monkeypatch.setenv(PYTHON, '/no/python')
    assert str(check_folder(folder, models['bert'], sentence=None)[1]) == \
        'Not compared with transformers: /no/python: No such file or directory'
    # This one has none
    monkeypatch.setenv(PYTHON, '')
    monkeypatch.setattr(sys, 'executable', NO_PYTHON)
    assert f'{NO_PYTHON}: No such file' in str(check_folder(folder, models['bert'], sentence=None)[1])


def test_an_architecture_that_transformers_lacks_is_no_error(out, models, needs_transformers, monkeypatch):
    folder = out('bert')
    alter(folder, model_type='bert2')
    monkeypatch.setattr('labml_mlm.export.self_check.load', lambda *_, **__: models['bert'])
    assert re.search(r'Not compared with transformers: ImportError: transformers \S+ has no bert2',
                     str(check_folder(folder, models['bert'], sentence=None)[1]))


def test_files_of_the_current_folder_are_not_imported(out, models, needs_transformers, tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here/transformers.py').write_text('raise SystemExit("wrong")')
    folder = out('bert')
    monkeypatch.chdir(tmp_path / 'here')
    assert 'has the same' in str(check_folder(folder, models['bert'], sentence=None)[1])


def test_positions_bound_the_lengths(make):
    trained = make(transformer='bert', add_special_tokens=True, **{'transformer.max_positions': 40})
    assert [given.ids.shape[1] for given in make_sequences(trained, None)] == [1, 2, 17, 40, 40]


@pytest.mark.parametrize('name', ['roberta', 'esm'])
def test_sequences_have_padding_at_the_end_of_one_alone(models, name):
    padding = models[name].configs.padding_token
    *others, last = make_sequences(models[name], None)
    assert all(given.mask.all() and (given.ids != padding).all() for given in others)
    assert last.mask[0].all() and 0 < last.mask[1].sum() < len(last.mask[1])
    assert torch.equal(last.ids == padding, last.mask == 0)


def test_what_bf16_loses_is_said_of_esm_alone(models, run, tmp_path):
    notes = {name: ' '.join(map(str, export_folder(models[name], tmp_path / name, python=NO_PYTHON)))
             for name in ('esm', 'bert')}
    assert 'bf16' not in notes['bert']
    found = re.search(r'In bf16: logits off by ([\d.]+) \(a linear head: ([\d.]+)\), ([\d.]+)% of predictions equal',
                      notes['esm'])
    folded, plain, same = map(float, found.groups())
    assert 0 < plain < folded and 50 < same <= 100
    assert 'use it in fp32; for 16 bits, export with --custom-code' in notes['esm']
    custom = export_folder(run, tmp_path / 'custom', is_custom=True, python=NO_PYTHON)
    assert 'bf16' not in ' '.join(map(str, custom))


def test_bf16_of_a_head_that_does_not_fold_is_found(models):
    """The figure is computed from the weights of the folder."""
    weights = represent(models['esm'].model, models['esm'].configs).weights
    right = str(compare_bf16(models['esm'], weights)[0])
    wrong = weights | {'lm_head.dense.weight': torch.zeros_like(weights['lm_head.dense.weight'])}
    same = [float(re.search(r'([\d.]+)% of', text)[1]) for text in (right, str(compare_bf16(models['esm'], wrong)[0]))]
    assert same[0] > same[1]


def test_no_network_and_no_cache_of_hugging_face(out, models, stub, tmp_path):
    told = tmp_path / 'told'
    python = stub(f'env > {told}; pwd >> {told}; exit 3')
    os.environ['PYTHONSTARTUP'] = 'none'
    try:
        check_folder(out('bert'), models['bert'], sentence=None, python=python)
    finally:
        del os.environ['PYTHONSTARTUP']
    lines = told.read_text().splitlines()
    exchange = lines[-1]
    assert {'HF_HUB_OFFLINE=1', f'HF_MODULES_CACHE={exchange}/modules'} <= set(lines)
    assert not [line for line in lines if line.startswith('PYTHON')]
    assert not os.path.exists(exchange)


def test_the_sentence_has_a_mask_in_place_of_a_word(run):
    sentence = masked_sentence(run)
    assert sentence.text.count('[MASK]') == 1
    before, after = sentence.text.split('[MASK]')
    assert torch.equal(sentence.ids, run.masked_ids([before, after]))
    assert before.endswith(' ') and after.startswith(' ')


def test_no_sentence_without_the_text(own_run, exports, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, 'masked_sentence', raise_gone)
    notes = [*map(str, export_folder(own_run, tmp_path / 'out', python=NO_PYTHON))]
    assert 'No sentence of the validation text was compared: it is gone' in notes
    assert 'Read back with equal logits: 1, 2, 17, 127, 512 tokens, padding' in notes
    card = (tmp_path / 'out/README.md').read_text()
    assert '* No sentence of the validation text was compared\n' in card and 'it is gone' not in card


def raise_gone(_):
    raise UserError('it is gone')
