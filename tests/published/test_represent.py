"""Which models are Hugging Face's, and the head of ESM that does nothing."""
import pytest
import torch
from support.exports import FAMILIES, randomize
from support.published import save
from torch import nn
from torch.nn import functional

from labml_mlm import MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.inference.loading import load
from labml_mlm.model.attention import SDPA
from labml_mlm.published.esm import MIN_GAIN, ESMFamily
from labml_mlm.published.represent import represent, token_ids

SIZES = {'n_tokens': 30, 'n_layers': 1, 'n_heads': 4, 'ffn.d_ff': 20, 'dropout': 0.}
NO_POSITIONS = {'transformer.src_embed': 'no_pos'}


def esm_logits(weights: dict[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """What the head of `EsmForMaskedLM` computes."""
    head = {name.removeprefix('lm_head.'): tensor for name, tensor in weights.items() if name.startswith('lm_head.')}
    x = functional.gelu(functional.linear(hidden, head['dense.weight'], head['dense.bias']))
    x = functional.layer_norm(x, x.shape[-1:], head['layer_norm.weight'], head['layer_norm.bias'], 1e-5)
    return functional.linear(x, head['decoder.weight'], head['bias'])


def make_transformer(d_model: int):
    conf = MLMTransformerConfigs()
    conf._set_values({'n_src_vocab': 30, 'n_tgt_vocab': 30, 'd_model': d_model, 'n_heads': 4, 'n_layers': 1,
                      'ffn.d_ff': 20})
    model = conf.transformer_mlm.eval()
    randomize(model)
    return model


@pytest.mark.parametrize('d_model', [16, 32, 64, 128])
@torch.no_grad()
def test_the_head_of_esm_gives_the_logits_of_a_linear_one(d_model):
    """With gains of 0.09 and below zero; even where one feature has all of the norm."""
    model = make_transformer(d_model)
    assert model.encoder.norm.weight.abs().min() == pytest.approx(0.09)
    weights = ESMFamily().write(model.state_dict(), SIZES | {'d_model': d_model})
    hidden = model.encode(torch.randint(30, (50, 4)))
    alone = torch.zeros(d_model)
    # The epsilon of the norm is nothing beside the variance of this
    alone[5] = 30
    hidden = torch.cat([hidden.flatten(0, 1), model.encoder.norm(torch.stack([alone, -alone]))])
    logits = model.generator(hidden)
    torch.testing.assert_close(esm_logits(weights, hidden), logits, rtol=0,
                               atol=1e-4 * max(1., logits.abs().max().item()))


@pytest.mark.parametrize('gain', [MIN_GAIN / 2, -MIN_GAIN / 2, 0.])
def test_a_gain_that_is_too_small_is_refused_with_the_way_out(make, gain):
    trained = make()
    trained.model.encoder.norm.weight.data[7] = gain
    with pytest.raises(UserError, match=r'a gain of the last norm is [05].0e.\d\d, .* below 0.001 .* --custom-code'):
        represent(trained.model, trained.configs)
    trained.model.encoder.norm.weight.data[7] = -MIN_GAIN * 1.01
    represent(trained.model, trained.configs)


@pytest.mark.parametrize('name', FAMILIES)
def test_every_weight_leaves(models, name):
    trained = models[name]
    shown = represent(trained.model, trained.configs)
    assert shown.family.model_type == name.split()[0]
    state, used = shown.family.read(shown.weights, shown.items)
    assert used >= shown.weights.keys()
    for parameter, tensor in trained.model.named_parameters():
        assert torch.equal(state[parameter], tensor)


def own_norm(model):
    class OwnNorm(nn.LayerNorm):
        """It would give the same results."""

    model.encoder.layers[1].norm_ff = OwnNorm(32)


@pytest.mark.parametrize('values, message', [
    ({'transformer.encoder_attn': 'relative'}, 'has RelativeMultiHeadAttention as it is here'),
    ({**NO_POSITIONS, 'transformer.encoder_attn': 'mha'}, 'has MultiHeadAttention as it is here'),
    ({**NO_POSITIONS, 'transformer.encoder_attn': 'sdpa'}, 'has this attention: ESM has rotary positions'),
    ({'transformer.encoder_attn': SDPA(4, 32, is_rotary=True, rope_base=500.)}, 'has this attention'),
    ({'transformer.src_embed': 'fixed_pos'}, 'has EmbeddingsWithPositionalEncoding as it is here'),
    ({'transformer.ffn.glu_variant': 'GEGLU'}, 'has this feed-forward layer: ESM has GELU, and no gate'),
    ({'transformer.ffn.activation': 'ReLU'}, 'has this feed-forward layer'),
    ({'transformer.ffn.activation': nn.GELU('tanh')}, 'has this feed-forward layer'),
    ({'transformer.ffn.activation': nn.Tanh()}, 'has Tanh as it is here'),
    ({'transformer.ffn.bias2': False}, 'has these linear layers: those of ESM have biases')])
def test_what_no_architecture_has_is_refused_by_name(make, values, message):
    trained = make(**values)
    with pytest.raises(UserError, match=f'no architecture of Hugging Face.s {message}'):
        represent(trained.model, trained.configs)


@pytest.mark.parametrize('name', ['esm', 'bert', 'modernbert'])
def test_a_part_of_ones_own_is_refused_by_name(make, name):
    trained = make(**FAMILIES[name])
    own_norm(trained.model)
    with pytest.raises(UserError, match='has OwnNorm as it is here'):
        represent(trained.model, trained.configs)


def test_positions_of_roberta_follow_the_padding(make):
    trained = make(**FAMILIES['roberta'], **{'transformer.first_position': 5})
    shown, positions = represent(trained.model, trained.configs), trained.model.src_embed.positions.weight
    # `[PAD]` is 0
    assert shown.items['first_position'] == 1
    written = shown.weights['roberta.embeddings.position_embeddings.weight']
    assert torch.equal(written[1:], positions[5:]) and len(written) == len(positions) - 4


def test_ids_of_special_tokens_have_their_names(models):
    assert token_ids(models['bert'].configs) == {'pad_token_id': 0, 'mask_token_id': 4, 'cls_token_id': 2,
                                                 'sep_token_id': 3, 'bos_token_id': 2, 'eos_token_id': 3}


@pytest.mark.parametrize('model_type', ['roberta', 'xlm-roberta', 'camembert'])
def test_what_is_roberta_but_for_its_name_keeps_the_name(tmp_path, model_type):
    trained = load(save(tmp_path / 'tiny', model_type=model_type))
    assert represent(trained.model, trained.configs).family.model_type == model_type
