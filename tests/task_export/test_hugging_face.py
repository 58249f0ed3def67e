"""What transformers makes of the folders of all fine-tuned models: logits, and the answers of its pipelines."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.fine_tuned import MODELS
from support.hugging_face import run_hugging_face

from labml_mlm.task_export.folder import export_task_folder

LENGTHS = 1, 5, 24
TEXTS = ['the excellent film number 3', 'the dull, tedious fox', 'a brilliant book']
PAIRS = [(text, 'what a song') for text in TEXTS]
SCRIPT = """
import json, sys
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import pipeline

torch.set_grad_enabled(False)
for folder, is_custom, is_tagger, is_of_pairs in json.loads(sys.argv[1]):
    options = {'trust_remote_code': is_custom}
    auto = 'AutoModelForTokenClassification' if is_tagger else 'AutoModelForSequenceClassification'
    model, loading = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True, **options)
    inputs, outputs = load_file(f'{folder}.inputs'), {}
    for name, ids in inputs.items():
        if name.startswith('ids'):
            batch = {'input_ids': ids, 'attention_mask': inputs[name.replace('ids', 'mask')]}
            outputs[name] = model.eval()(**batch).logits.contiguous()
    said = {'missing': sorted(loading['missing_keys']), 'unexpected': sorted(loading['unexpected_keys']),
            'labels': [model.config.id2label[i] for i in range(model.config.num_labels)]}
    if is_tagger:
        tag = pipeline('token-classification', folder, ignore_labels=[], **options)
        said['predicted'] = [[[token['index'], token['entity'], float(token['score'])] for token in tag(text)]
                             for text in json.loads(sys.argv[2])]
    else:
        classify = pipeline('text-classification', folder, top_k=None, truncation=True, **options)
        # Of a pair, it answers without a list around
        answers = [classify({'text': text, 'text_pair': pair}) if is_of_pairs else classify([text])[0]
                   for text, pair in json.loads(sys.argv[3])]
        said['predicted'] = [{part['label']: part['score'] for part in answer} for answer in answers]
        is_single = model.config.problem_type == 'single_label_classification'
        labels = torch.tensor([1, 0]) if is_single else torch.ones(2, model.config.num_labels)
        said['loss'] = model(inputs['ids24'], attention_mask=inputs['mask24'], labels=labels).loss.item()
    save_file(outputs, f'{folder}.outputs')
    json.dump(said, open(f'{folder}.said', 'w'))
"""


@pytest.fixture(scope='module')
def said(task_folders, fine_tuned, needs_transformers):
    """What is said of each folder, by name; outputs and inputs lie beside it."""
    for name, folder in task_folders.items():
        inputs, generator = {}, torch.Generator().manual_seed(3)
        for n in LENGTHS:
            ids = torch.randint(5, fine_tuned[name].tokenizer.n_tokens, (2, n), generator=generator)
            mask = torch.ones_like(ids)
            ids[1, n // 2 + 1:], mask[1, n // 2 + 1:] = fine_tuned[name].configs.padding_token, 0
            inputs |= {f'ids{n}': ids, f'mask{n}': mask}
        save_file(inputs, f'{folder}.inputs')
    folders = [[str(task_folders[name]), architecture.startswith('Labml'), name.endswith('tags'),
                name.endswith('pairs')] for name, (_, architecture) in MODELS.items()]
    run_hugging_face(SCRIPT, *map(json.dumps, (folders, TEXTS, PAIRS)))
    return {name: json.loads(folder.with_name(f'{name}.said').read_text()) for name, folder in task_folders.items()}


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_logits_are_those_of_the_model(said, task_folders, fine_tuned, name):
    trained = fine_tuned[name]
    inputs, outputs = load_file(f'{task_folders[name]}.inputs'), load_file(f'{task_folders[name]}.outputs')
    for n in LENGTHS:
        padding = inputs[f'mask{n}'].T == 0
        expected = trained.model.predict(inputs[f'ids{n}'].T, padding_mask=padding)
        found = outputs[f'ids{n}']
        if trained.kind == 'number':
            expected = trained.model.criterion.predicted(expected).T
        if trained.kind == 'tags':
            expected, found = expected.transpose(0, 1)[~padding.T], found[~padding.T]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', MODELS)
def test_all_weights_are_there_and_used(said, fine_tuned, name):
    assert said[name]['unexpected'] == said[name]['missing'] == []
    assert said[name]['labels'] == [*(fine_tuned[name].labels or ['rating'])]


@pytest.mark.parametrize('name', [name for name in MODELS if not name.endswith('tags')])
def test_the_pipeline_predicts_what_we_do(said, fine_tuned, name):
    trained = fine_tuned[name]
    for found, predicted in zip(said[name]['predicted'], trained.predict(PAIRS if trained.is_of_pairs else TEXTS),
                                strict=True):
        expected = {'rating': predicted.label} if trained.kind == 'number' else predicted.probabilities
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('name', [name for name in MODELS if name.endswith('tags')])
def test_the_pipeline_tags_as_we_do(said, fine_tuned, name):
    """At the first token of each word, where the model tags as it was trained."""
    trained = fine_tuned[name]
    for found, text in zip(said[name]['predicted'], TEXTS, strict=True):
        of_tokens = {index: (label, score) for index, label, score in found}
        examples = trained.configs._examples(trained.rows([text.split()]), labels=None)
        [predicted] = trained.predict([text.split()])
        for word, at in examples.first_tokens(0).items():
            label, score = of_tokens[at]
            assert label == predicted.label[word] and score == pytest.approx(predicted.probabilities[word], abs=1e-5)


@pytest.mark.parametrize('name', [name for name in MODELS if not name.endswith('tags')])
@torch.no_grad()
def test_it_can_be_trained_on(said, task_folders, fine_tuned, name):
    """The loss is that of the kind of labels."""
    inputs, model = load_file(f'{task_folders[name]}.inputs'), fine_tuned[name].model
    padding = inputs['mask24'].T == 0
    logits = model.plain_head()(model.encode(inputs['ids24'].T, padding), padding)
    kind, ones = fine_tuned[name].kind, torch.ones_like(logits)
    expected = {'single': lambda: torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0])),
                'multiple': lambda: torch.nn.functional.binary_cross_entropy_with_logits(logits, ones),
                'number': lambda: torch.nn.functional.mse_loss(logits, ones)}[kind]()
    assert said[name]['loss'] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize('name', ['bert, cls, pairs', 'bert, mean, pairs', 'roberta, tags', 'modernbert, tags'])
def test_it_is_checked_by_transformers(fine_tuned, tmp_path, needs_transformers, name):
    notes = [*map(str, export_task_folder(fine_tuned[name], tmp_path / 'out'))]
    assert any(note.endswith('padding, a text') for note in notes)
    assert any(note.startswith('transformers ') and 'has the same' in note for note in notes)


def test_without_trust_it_is_no_other_model(task_folders, needs_transformers):
    """Code of its own is never replaced by a class that has other weights, and draws them."""
    script = ("import sys; from transformers import AutoModelForSequenceClassification as M\n"
              "try: M.from_pretrained(sys.argv[1], trust_remote_code=False)\n"
              "except ValueError as e: print('trust_remote_code' in str(e))")
    assert run_hugging_face(script, task_folders['bert, mean, pairs']).stdout == 'True\n'
