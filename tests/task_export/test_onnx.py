"""Fine-tuned models in ONNX: logits of labels, with the pooling in the file."""
import json

import pytest
import torch
from support.fine_tuned import MODELS

from labml_mlm.export.onnx import export_onnx

onnx = pytest.importorskip('onnx', reason="the extra `onnx` is not installed: pip install 'labml_mlm[onnx]'")
onnxruntime = pytest.importorskip('onnxruntime', reason="the extra `onnx` is not installed")
pytest.importorskip('onnxscript', reason="the extra `onnx` is not installed")

TEXTS = ['the excellent film number 3', 'the dull, tedious fox', 'a book']


@pytest.mark.parametrize('name', ['bert, mean, pairs', 'roberta, cls, several', 'own, cls, number', 'bert, tags',
                                  'modernbert, mean, number'])
def test_the_file_predicts_what_the_model_does(fine_tuned, tmp_path, name):
    trained, path = fine_tuned[name], tmp_path / 'model.onnx'
    lines = export_onnx(trained, path)
    assert all(': logits of onnxruntime' in line for line in lines)
    texts = [(text, 'what a song') for text in TEXTS] if trained.is_of_pairs else \
        [text.split() for text in TEXTS] if trained.kind == 'tags' else TEXTS
    examples = trained.configs._examples(trained.rows(texts), labels=None)
    batch = examples.batch(examples.rows)
    given = {'input_ids': batch.tokens.T.numpy(), 'attention_mask': (~batch.padding_mask).long().T.numpy()}
    if trained.is_of_pairs:
        given['token_type_ids'] = batch.segment_ids.T.numpy()
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    assert {part.name for part in session.get_inputs()} == set(given)
    logits = torch.from_numpy(session.run(['logits'], given)[0])
    for i, predicted in enumerate(trained.predict(texts)):
        if trained.kind == 'tags':
            of_words = logits[i, [*examples.first_tokens(i).values()]].softmax(-1).max(-1)
            assert [trained.labels[label] for label in of_words.indices] == predicted.label
        elif trained.kind == 'number':
            assert logits[i].tolist() == pytest.approx([predicted.label], abs=1e-5)
        else:
            found = logits[i].softmax(-1) if trained.kind == 'single' else logits[i].sigmoid()
            assert found.tolist() == pytest.approx([*predicted.probabilities.values()], abs=1e-5)
    says = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert says['kind'] == trained.kind and tuple(json.loads(says['labels'])) == trained.labels


def test_the_encoder_of_a_fine_tuned_model(make_fine_tuned, tmp_path):
    trained = make_fine_tuned(**MODELS['bert, mean, pairs'][0])
    lines = export_onnx(trained, tmp_path / 'encoder.onnx', is_encoder=True)
    assert all(': last_hidden_state of onnxruntime' in line for line in lines)
