"""What of a model `modeling_labml_mlm.py` has, and what it lacks."""
import pytest
import torch
from labml_nn.transformers.mha import MultiHeadAttention
from labml_nn.transformers.models import EmbeddingsWithLearnedPositionalEncoding
from torch import nn

from labml_mlm import MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.export.custom_code import MODELING, custom_config, custom_weights
from labml_mlm.model.attention import SDPA
from labml_mlm.published.custom_code import CustomCodeFamily, items_of

SIZES = {'n_src_vocab': 20, 'n_tgt_vocab': 20, 'd_model': 32, 'n_heads': 4, 'n_layers': 2, 'padding_token': 3}


def make(**values):
    conf = MLMTransformerConfigs()
    conf._set_values({**SIZES, **values})
    return conf.transformer_mlm


class OwnAttention(MultiHeadAttention):
    """It would give the same results."""


class OwnLinear(nn.Linear):
    """Another class deep inside."""


def test_the_config_says_how_to_build_the_same_model():
    model = make(encoder_attn='relative', dropout=0.2, **{'ffn.d_ff': 50, 'ffn.glu_variant': 'SwiGLU'})
    config = custom_config(model)
    assert config['auto_map']['AutoModelForMaskedLM'] == 'modeling_labml_mlm.LabmlMLMForMaskedLM'
    assert (config['hidden_size'], config['intermediate_size'], config['pad_token_id']) == (32, 50, 3)
    assert (config['attention'], config['max_position_embeddings'], config['hidden_act']) == ('relative', 4096, 'silu')
    again = make(**items_of(config), seed=9)
    assert not torch.equal(again.generator.projection.weight, model.generator.projection.weight)
    again.load_state_dict(CustomCodeFamily().read(custom_weights(model), {})[0])
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    x = torch.randint(20, (7, 2))
    assert torch.equal(again.eval().predict(x), model.eval().predict(x))


def test_weights_are_copies_with_our_names():
    model = make()
    weights = custom_weights(model)
    assert {'generator.projection.weight', 'model.src_embed.weight', 'model.encoder.norm.bias'} <= weights.keys()
    weights['model.src_embed.weight'].zero_()
    assert model.src_embed.weight.any()


def test_building_a_config_has_no_side_effects(capsys):
    model, state = make(), torch.get_rng_state()
    capsys.readouterr()
    custom_config(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('values, message', [
    ({'encoder_attn': OwnAttention(4, 32)}, 'encoder_attn: it is of class OwnAttention, and must be SDPA or '),
    ({'generator': nn.Linear(32, 20)}, 'cannot represent generator: it is of class Linear, and must be Generator'),
    ({'src_embed': nn.Sequential(nn.Embedding(20, 32))}, 'cannot represent src_embed: it is of class Sequential'),
    ({'ffn.activation': nn.Tanh()}, 'cannot represent ffn.activation: it is of class Tanh'),
    ({'ffn.activation': nn.GELU(approximate='tanh')}, r'layers.0.feed_forward.activation.approximate: it is tanh'),
    ({'encoder_attn': SDPA(4, 32, window=5)}, r'encoder.layers.0.self_attn.window: it is 5, and .* None there'),
    ({'encoder_attn': SDPA(4, 32, rope_base=500., is_rotary=True)}, r'layers.0.self_attn.rope_base: it is 500'),
    ({'encoder_attn': SDPA(4, 32, 0.5)}, r'layers.0.self_attn.dropout.p: it is 0.5, and .* 0.0 there'),
    ({'src_embed': EmbeddingsWithLearnedPositionalEncoding(32, 20, 64)},
     r'the weight src_embed.positional_encodings: it is \[64, 1, 32\]'),
    ({'n_tgt_vocab': 21}, r'generator.projection.out_features: it is 21')])
def test_what_the_file_lacks_is_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        custom_config(make(**values))


def test_a_part_that_was_exchanged_is_refused_by_name():
    model = make()
    model.encoder.layers[1].feed_forward.layer2 = OwnLinear(64, 32)
    with pytest.raises(UserError, match=r'layers.1.feed_forward.layer2: it is .*OwnLinear, .*torch.*Linear there'):
        custom_config(model)
    model = make()
    model.encoder.layers[1].norm_ff.eps = 1e-3
    with pytest.raises(UserError, match=r'layers.1.norm_ff.eps: it is 0.001, and'):
        custom_config(model)


def test_a_config_that_does_not_fit_is_refused():
    config = custom_config(make())
    with pytest.raises(UserError, match='has no hidden_size, is_gated'):
        items_of({name: value for name, value in config.items() if name not in ('hidden_size', 'is_gated')})
    with pytest.raises(UserError, match='hidden_act=mish: it must be gelu or relu or'):
        items_of({**config, 'hidden_act': 'mish'})


def test_the_file_needs_torch_and_transformers_only():
    imports = [line.split()[1].split('.')[0] for line in MODELING.read_text().splitlines()
               if line.startswith(('import ', 'from '))]
    assert set(imports) == {'math', 'torch', 'transformers'}
