"""Folders with `modeling_labml_mlm.py`, where transformers can be imported and labml and this package cannot."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hugging_face import run_hugging_face
from torch import nn
from torch.nn import functional

from labml_mlm import MLMTransformerConfigs
from labml_mlm.export.custom_code import MODELING, custom_config, custom_weights
from labml_mlm.published.custom_code import CustomCodeFamily, items_of

N_TOKENS = 20
LENGTHS = [1, 2, 33, 127]
VARIANTS = {
    'default': {},
    'sdpa': {'encoder_attn': 'sdpa'},
    'mha': {'encoder_attn': 'mha', 'dropout': 0.1, 'encoder': 'default', 'ffn': 'default', 'ffn.d_ff': 48},
    'learned positions': {'encoder_attn': 'sdpa', 'src_embed': 'learned_pos', 'ffn.activation': 'ReLU'},
    'both kinds of positions': {'src_embed': 'fixed_pos', 'dropout': 0.3, 'ffn.dropout': 0.2},
    'no positions': {'encoder_attn': 'sdpa', 'src_embed': 'no_pos'},
    'relative': {'encoder_attn': 'relative', 'dropout': 0.25},
    'relative and learned positions': {'encoder_attn': 'relative', 'src_embed': 'learned_pos'},
    'gated': {'ffn.is_gated': True, 'ffn.bias_gate': True},
    'no biases': {'ffn.bias1': False, 'ffn.bias2': False},
    **{variant: {'ffn.glu_variant': variant} for variant in ('GLU', 'Bilinear', 'ReGLU', 'GEGLU', 'SwiGLU')},
    'own GLU': {'ffn.glu_variant': 'SwiGLU', 'ffn.bias1': True, 'ffn.is_gated': False},
}

HUGGING_FACE = """
import copy, json, sys
from pathlib import Path
# Whether they are there or not, none of them is needed
sys.modules |= dict.fromkeys(['labml', 'labml_helpers', 'labml_nn', 'labml_mlm'])
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

for folder in map(Path, json.loads(sys.argv[1])):
    model, loading = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(loading.values()), loading
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
    rounded = copy.deepcopy(model).bfloat16()
    outputs, inputs = {}, load_file(folder / 'inputs.safetensors')
    with torch.no_grad():
        for n in json.loads(sys.argv[2]):
            batch = {'input_ids': inputs[f'input_ids.{n}'], 'attention_mask': inputs[f'attention_mask.{n}']}
            output = model(**batch, labels=inputs[f'labels.{n}'], output_hidden_states=True)
            outputs |= {f'logits.{n}': output.logits, f'loss.{n}': output.loss,
                        f'embedded.{n}': output.hidden_states[0].clone(),
                        f'hidden.{n}': encoder(**batch).last_hidden_state,
                        f'last.{n}': output.hidden_states[-1].clone()}
            outputs[f'unmasked.{n}'] = model(batch['input_ids']).logits
            outputs[f'rounded.{n}'] = rounded(**batch).logits.float()
    model.save_pretrained(folder / 'saved')
    save_file(outputs, folder / 'outputs.safetensors')
    probabilities = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    probabilities |= {layer.self_attn.dropout_prob for layer in model.model.encoder.layers}
    (folder / 'said.json').write_text(json.dumps({
        'dropout': sorted(probabilities), 'length': len(model.model.encoder.layers),
        'auto': type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__}))
    longest = model.config.max_position_embeddings
    if longest:
        try:
            model(torch.zeros(1, longest + 1, dtype=torch.long))
            raise AssertionError('too long a sequence')
        except ValueError as e:
            assert f'{longest} positions' in str(e), e
"""


def make(**values):
    """A small model whose every weight is random."""
    conf = MLMTransformerConfigs()
    conf._set_values({'n_src_vocab': N_TOKENS, 'n_tgt_vocab': N_TOKENS, 'd_model': 32, 'n_heads': 4, 'n_layers': 2,
                      **values})
    model, generator = conf.transformer_mlm.eval(), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.std() == 0 or parameter.dim() == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.3, generator=generator)
    return model


def make_inputs():
    """Batches of three by length; padding is at the end of the second, and all of the third."""
    inputs, generator = {}, torch.Generator().manual_seed(0)
    for n in LENGTHS:
        mask = torch.ones(3, n, dtype=torch.long)
        mask[1, n // 2 + 1:], mask[2] = 0, 0
        inputs[f'input_ids.{n}'] = torch.randint(N_TOKENS, (3, n), generator=generator)
        inputs[f'attention_mask.{n}'] = mask
        inputs[f'labels.{n}'] = torch.randint(N_TOKENS, (3, n), generator=generator)
        inputs[f'labels.{n}'][:, 1::2] = -100
    return inputs


@pytest.fixture(scope='module')
def exported(tmp_path_factory, needs_transformers):
    """Folders of all variants, with what Hugging Face said to them, and the models."""
    path, inputs, models = tmp_path_factory.mktemp('exported'), make_inputs(), {}
    for name, values in VARIANTS.items():
        folder, model = path / name.replace(' ', '_'), make(**values)
        folder.mkdir()
        (folder / 'config.json').write_text(json.dumps(custom_config(model)))
        save_file(custom_weights(model), folder / 'model.safetensors', metadata={'format': 'pt'})
        save_file(inputs, folder / 'inputs.safetensors')
        shutil.copy(MODELING, folder)
        models[name] = folder, model
    run_hugging_face(HUGGING_FACE, json.dumps([str(folder) for folder, _ in models.values()]), json.dumps(LENGTHS))
    return models


@pytest.mark.parametrize('variant', VARIANTS)
@torch.no_grad()
def test_hugging_face_has_our_logits(exported, variant):
    folder, model = exported[variant]
    inputs, outputs = load_file(folder / 'inputs.safetensors'), load_file(folder / 'outputs.safetensors')
    for n in LENGTHS:
        # `[seq_len, batch_size]`
        x, padding_mask = inputs[f'input_ids.{n}'].T, inputs[f'attention_mask.{n}'].T == 0
        logits, hidden = model.predict(x, padding_mask=padding_mask), model.encode(x, padding_mask)
        loss = functional.cross_entropy(logits.transpose(0, 1).flatten(0, 1), inputs[f'labels.{n}'].flatten())
        expected = {'logits': logits.transpose(0, 1), 'hidden': hidden.transpose(0, 1), 'loss': loss,
                    'last': hidden.transpose(0, 1), 'embedded': model.src_embed(x).transpose(0, 1),
                    'unmasked': model.predict(x).transpose(0, 1)}
        for name, tensor in expected.items():
            torch.testing.assert_close(outputs[f'{name}.{n}'], tensor, rtol=0, atol=1e-5)
        # 16 bits work, with the accuracy that they have
        torch.testing.assert_close(outputs[f'rounded.{n}'], logits.transpose(0, 1), rtol=0.1, atol=0.25)


@pytest.mark.parametrize('variant', VARIANTS)
def test_what_hugging_face_saves_is_the_same_model(exported, variant):
    folder, model = exported[variant]
    said = json.loads((folder / 'said.json').read_text())
    dropout = {VARIANTS[variant].get('dropout', 0.)}
    assert said == {'length': 2, 'auto': 'LabmlMLMConfig',
                    'dropout': sorted({VARIANTS[variant].get('ffn.dropout', *dropout), *dropout})}
    again = make(**items_of(json.loads((folder / 'saved/config.json').read_text())))
    again.load_state_dict(CustomCodeFamily().read(load_file(folder / 'saved/model.safetensors'), {})[0])
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert custom_config(again) == custom_config(model)
