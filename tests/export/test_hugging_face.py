"""What transformers and sentence-transformers make of the folders of all families, without code of ours."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.exports import CUSTOM, FAMILIES, NO_PYTHON
from support.hugging_face import run_hugging_face

from labml_mlm import FillMask, load
from labml_mlm.export.folder import export_folder

LENGTHS = 1, 2, 40
TEXTS = ['the quick fox', 'over the dog, over the brown fox!', 'the fox\nover  the dog']
MASKED = 'the quick [MASK] fox'
ALL = [*FAMILIES, *CUSTOM]
SCRIPT = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline

folders, texts, masked = map(json.loads, sys.argv[1:4])
torch.set_grad_enabled(False)
for folder, is_custom in folders:
    options = {'trust_remote_code': is_custom}
    model, loading = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, **options)
    encoder, of_encoder = AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    inputs, outputs = load_file(f'{folder}.inputs'), {}
    for name, ids in inputs.items():
        if name.startswith('ids'):
            batch = {'input_ids': ids, 'attention_mask': inputs[name.replace('ids', 'mask')]}
            outputs[f'logits{name}'] = model.eval()(**batch).logits.contiguous()
            outputs[f'hidden{name}'] = encoder.eval()(**batch).last_hidden_state.contiguous()
    predictions = pipeline('fill-mask', folder, top_k=3, **options)(masked)
    said = {'missing': sorted(loading['missing_keys']), 'unexpected': sorted(loading['unexpected_keys']),
            'missing_of_encoder': sorted(of_encoder['missing_keys']),
            'tokens': [tokenizer(text).input_ids for text in texts],
            'top': [prediction['token'] for prediction in predictions], 'dtype': str(model.dtype),
            'scores': [prediction['score'] for prediction in predictions], 'mask': tokenizer.mask_token_id,
            'pad': tokenizer.pad_token_id, 'longest': tokenizer.model_max_length,
            'padded': tokenizer(texts, padding=True).input_ids}
    if not is_custom:
        from sentence_transformers import SentenceTransformer
        outputs['vectors'] = torch.from_numpy(SentenceTransformer(folder, device='cpu').encode(texts))
    save_file(outputs, f'{folder}.outputs')
    json.dump(said, open(f'{folder}.said', 'w'))
"""


@pytest.fixture(scope='module')
def said(folders, models, needs_transformers):
    """What is said of each folder, by name; outputs and inputs lie beside it."""
    for name, folder in folders.items():
        inputs, generator = {}, torch.Generator().manual_seed(3)
        for n in LENGTHS:
            # None is [PAD]
            ids = torch.randint(5, models[name].tokenizer.n_tokens, (2, n), generator=generator)
            mask = torch.ones_like(ids)
            ids[1, n // 2 + 1:], mask[1, n // 2 + 1:] = models[name].configs.padding_token, 0
            inputs |= {f'ids{n}': ids, f'mask{n}': mask}
        save_file(inputs, f'{folder}.inputs')
    run_hugging_face(SCRIPT, json.dumps([[str(folders[name]), name in CUSTOM] for name in ALL]), json.dumps(TEXTS),
                     json.dumps(MASKED))
    return {name: json.loads(folder.with_name(f'{name}.said').read_text()) for name, folder in folders.items()}


@pytest.mark.parametrize('name', ALL)
@torch.no_grad()
def test_logits_and_hidden_states_are_those_of_the_model(said, folders, models, name):
    model = models[name].model
    inputs, outputs = load_file(f'{folders[name]}.inputs'), load_file(f'{folders[name]}.outputs')
    for n in LENGTHS:
        # `[seq_len, batch_size]`
        ids, padding = inputs[f'ids{n}'].T, inputs[f'mask{n}'].T == 0
        of_text = ~padding.T
        hidden, logits = model.encode(ids, padding).transpose(0, 1), model.predict(ids, padding_mask=padding)
        torch.testing.assert_close(outputs[f'hiddenids{n}'][of_text], hidden[of_text], rtol=0, atol=1e-5)
        # The head of ESM is less exact
        tolerance = 1e-4 if name.startswith('esm') else 1e-5
        torch.testing.assert_close(outputs[f'logitsids{n}'][of_text], logits.transpose(0, 1)[of_text], rtol=0,
                                   atol=tolerance)
    assert said[name]['dtype'] == 'torch.float32'


@pytest.mark.parametrize('name', ALL)
def test_all_weights_are_there_and_used(said, name):
    assert said[name]['unexpected'] == said[name]['missing'] == []
    # `AutoModel` has one beside the encoder
    pooler = 'pooler.dense.weight', 'pooler.dense.bias'
    assert [weight for weight in said[name]['missing_of_encoder'] if not weight.endswith(pooler)] == []


@pytest.mark.parametrize('name', ALL)
def test_tokens_are_those_of_the_model(said, models, name):
    special = models[name].tokenizer.special
    template = models[name].configs._template
    assert said[name]['tokens'] == [template.around(torch.from_numpy(models[name].tokenizer.encode(text))).tolist()
                                    for text in TEXTS]
    assert (said[name]['mask'], said[name]['pad']) == (special.mask, special.pad)
    shortest = said[name]['padded'][0]
    assert len({*map(len, said[name]['padded'])}) == 1
    assert shortest == [*said[name]['tokens'][0], *[special.pad] * (len(shortest) - len(said[name]['tokens'][0]))]
    assert said[name]['longest'] == (4096 if name == 'relative' else 512)


@pytest.mark.parametrize('name', ALL)
@torch.no_grad()
def test_the_pipeline_predicts_what_we_do(said, models, name):
    trained = models[name]
    ids = trained.masked_ids(MASKED.split('[MASK]'))
    logits = trained.model.predict(ids[:, None])[(ids == trained.configs.mask_token).nonzero().item(), 0]
    expected = logits.softmax(-1).topk(3)
    assert said[name]['top'] == expected.indices.tolist()
    assert said[name]['scores'] == pytest.approx(expected.values.tolist(), abs=1e-5)


@pytest.mark.parametrize('name', FAMILIES)
def test_sentence_vectors_are_those_of_encode(said, models, folders, name):
    vectors = load_file(f'{folders[name]}.outputs')['vectors']
    torch.testing.assert_close(vectors, models[name].encode(TEXTS), rtol=0, atol=1e-5)


def test_a_trained_run_fills_in_the_same(exports, run, tmp_path, needs_transformers):
    export_folder(run, tmp_path / 'out', python=NO_PYTHON)
    text = 'the quick br[MASK]wn fox'
    script = ("import sys; from transformers import pipeline; "
              "print(pipeline('fill-mask', sys.argv[1])(sys.argv[2])[0]['token_str'], end='')")
    found = run_hugging_face(script, tmp_path / 'out', text).stdout
    assert found == FillMask(run)(text).masks[0][0].token


PAIRS = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining

folder, given, result = sys.argv[1:]
model, loading = BertForPreTraining.from_pretrained(folder, output_loading_info=True)
assert not loading['missing_keys'] and not loading['unexpected_keys']
with torch.no_grad():
    output = model.eval()(**load_file(given))
save_file({'logits': output.prediction_logits, 'pairs': output.seq_relationship_logits}, result)
"""


@pytest.mark.parametrize('kind, note', [('nsp', '0 means that the second text goes on, and 1 that it is another one'),
                                        ('sop', '0 means that it is right, and 1 that they are swapped')])
@pytest.mark.usefixtures('needs_transformers')
def test_both_heads_of_a_run_with_pairs_are_those_of_transformers(make, texts, tmp_path, kind, note):
    trained = make(**FAMILIES['bert'], sentence_pairs=kind, valid_path=str(texts))
    notes = export_folder(trained, tmp_path / 'out')
    assert any(note in str(one) for one in notes)
    assert json.loads((tmp_path / 'out/config.json').read_text())['architectures'] == ['BertForPreTraining']
    batch = next(iter(trained.configs.valid_loader))
    # `[batch_size, seq_len]`
    ids, mask, segments = (t.T.contiguous() for t in (batch.tokens, (~batch.padding_mask).long(), batch.segment_ids))
    save_file({'input_ids': ids, 'attention_mask': mask, 'token_type_ids': segments}, tmp_path / 'given')
    run_hugging_face(PAIRS, tmp_path / 'out', tmp_path / 'given', tmp_path / 'result')
    theirs = load_file(tmp_path / 'result')
    context = {'padding_mask': batch.padding_mask, 'segment_ids': batch.segment_ids}
    with torch.no_grad():
        logits = trained.model.predict(batch.tokens, **context)
        pairs = trained.model.predict_pairs(batch.tokens, **context)
    of_text = ~batch.padding_mask
    torch.testing.assert_close(theirs['logits'].transpose(0, 1)[of_text], logits[of_text], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs['pairs'], pairs, rtol=1e-5, atol=1e-5)
    # And read back
    again = load(tmp_path / 'out', device='cpu')
    with torch.no_grad():
        assert again.model.predict_pairs(batch.tokens, **context).equal(pairs)


@pytest.mark.parametrize('name', ['esm', 'roberta', 'gated'])
def test_head_for_pairs_is_left_out_where_there_is_none(make, tmp_path, name):
    trained = make(**{**FAMILIES, **CUSTOM}[name], sentence_pairs='sop')
    notes = export_folder(trained, tmp_path / 'out', python=NO_PYTHON)
    assert any('The head for pairs of sentences is left out: ' in str(note) for note in notes)
    assert not any('next_sentence' in weight or 'seq_relationship' in weight
                   for weight in load_file(tmp_path / 'out/model.safetensors'))
