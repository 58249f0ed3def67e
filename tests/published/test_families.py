"""Families of published encoders: which a folder is of, its items, and its weights in both directions."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.published import SIZES, VOCABULARY, edit_config, items_of, load_model, make, randomize, save

from labml_mlm import MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.published.esm import ESMFamily
from labml_mlm.published.families import FAMILIES, family_of
from labml_mlm.published.folder import PublishedFolder
from labml_mlm.published.start import PublishedEncoder

OF_BERT = ['bert', 'roberta', 'xlm-roberta', 'camembert']


def edit_weights(folder, change):
    """Replaces the weights by what `change` makes of them, a dictionary."""
    weights = load_file(folder / 'model.safetensors')
    save_file(change(weights), folder / 'model.safetensors')


@pytest.mark.parametrize('model_type', [*OF_BERT, 'modernbert'])
def test_a_folder_gives_items_and_weights_back(tmp_path, model_type):
    items = {'activation': 'relu', 'norm_eps': 1e-3, 'dropout': 0.25, 'attn_dropout': 0.125, 'd_ff': 20}
    if model_type == 'bert':
        items |= {'n_segments': 3, 'has_pooler': True, 'has_next_sentence': True}
    if model_type == 'modernbert':
        items |= {'global_every': 2, 'norm_bias': True, 'attn_bias': True, 'ffn_bias': True, 'head_bias': True,
                  'embed_dropout': 0.5, 'local_attention': 10, 'global_rope_base': 5e4, 'local_rope_base': 200.}
    option = FAMILIES[model_type].option
    model = make(option, **{**SIZES, **items})
    folder = save(tmp_path / 'tiny', model, model_type=model_type, **items)
    source = PublishedEncoder(folder)
    read = items_of(source)
    assert source.values['transformer'] == option
    assert {name: read[name] for name in [*SIZES, *items]} == {**SIZES, **items}
    assert read['n_tokens'] == len(VOCABULARY)
    assert set(read) == set(source.family.item_names)

    loaded = load_model(source)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    assert source.load_weights(loaded).unused == []
    x = torch.arange(5, 25)[:, None]
    assert torch.equal(loaded.predict(x), model.predict(x))


def test_positions_of_roberta_are_without_those_of_padding(tmp_path):
    folder = save(tmp_path / 'tiny', model_type='roberta')
    assert json.loads((folder / 'config.json').read_text())['max_position_embeddings'] == 33
    assert PublishedEncoder(folder).max_seq_len == 32
    edit_config(folder, pad_token_id=3)
    source = PublishedEncoder(folder)
    assert (source.values['transformer.first_position'], source.max_seq_len) == (4, 29)


@pytest.mark.parametrize('model_type, option', [('bert', 'bert'), ('roberta', 'roberta')])
def test_config_without_model_type_is_known_by_its_weights(tmp_path, model_type, option):
    folder = save(tmp_path / 'tiny', model_type=model_type)
    edit_config(folder, model_type=...)
    assert PublishedEncoder(folder).values['transformer'] == option


def test_encoder_alone_without_model_type_is_of_bert(tmp_path):
    folder = save(tmp_path / 'tiny', has_head=False)
    edit_config(folder, model_type=...)
    assert family_of(PublishedFolder(folder)) is FAMILIES['bert']


def test_old_config_has_the_defaults_of_its_time(folder):
    """As the first releases wrote it."""
    names = ['vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size',
             'max_position_embeddings']
    config = json.loads((folder / 'config.json').read_text())
    edit_config(folder, **{name: config[name] if name in names else ... for name in config})
    items = items_of(PublishedEncoder(folder))
    assert {name: items[name] for name in ('activation', 'norm_eps', 'dropout', 'attn_dropout', 'n_segments')} == \
        {'activation': 'gelu', 'norm_eps': 1e-12, 'dropout': 0.1, 'attn_dropout': 0.1, 'n_segments': 2}


@pytest.mark.parametrize('model_type, message', [
    ('albert', 'its layers share their weights'), ('deberta', 'it attends by relative positions'),
    ('deberta-v2', 'it attends by relative positions'), ('distilbert', 'its names and its layers are others'),
    ('electra', 'it has a discriminator'), ('gpt2', 'it is not a masked language model'), ('nomic_bert', 'nomic_bert'),
    (['bert'], "of type ['bert']"), ('', 'of type unknown')])
def test_unknown_architecture_is_refused_with_its_reason(folder, model_type, message):
    edit_config(folder, model_type=model_type)
    with pytest.raises(UserError) as e:
        PublishedEncoder(folder)
    assert message in str(e.value)
    assert 'it must be one of bert, roberta, xlm-roberta, camembert, modernbert, esm' in str(e.value)


def test_unknown_weights_without_model_type_are_refused(folder):
    edit_config(folder, model_type=...)
    edit_weights(folder, lambda weights: {f'transformer.{name}': tensor for name, tensor in weights.items()})
    with pytest.raises(UserError, match='of type unknown: it must be one of bert'):
        PublishedEncoder(folder)


@pytest.mark.parametrize('model_type, values, message', [
    *[(kind, {'position_embedding_type': position}, f'position_embedding_type={position} is not supported: it must be '
       'absolute') for kind in ('bert', 'roberta') for position in ('relative_key', 'relative_key_query')],
    ('bert', {'is_decoder': True}, 'is_decoder=True is not supported: it must be False'),
    ('bert', {'add_cross_attention': True}, 'add_cross_attention=True is not supported'),
    ('bert', {'embedding_size': 128}, 'embedding_size=128 is not supported'),
    ('bert', {'hidden_act': 'silu'}, 'hidden_act=silu is not supported: it must be gelu or gelu_new or relu'),
    ('bert', {'hidden_size': ..., 'num_hidden_layers': ...}, 'config.json has no hidden_size, num_hidden_layers'),
    ('bert', {'hidden_size': '16'}, 'hidden_size'), ('bert', {'hidden_size': None}, 'hidden_size'),
    ('bert', {'vocab_size': 10 ** 400}, f'vocab_size=1{"0" * 59} is not supported: it must be an integer'),
    ('bert', {'layer_norm_eps': float('inf')}, 'layer_norm_eps=inf is not supported: it must be a number, above 0'),
    ('bert', {'num_hidden_layers': 0}, 'num_hidden_layers=0 is not supported: it must be an integer, at least 1'),
    ('bert', {'hidden_dropout_prob': 2}, 'hidden_dropout_prob'),
    ('bert', {'layer_norm_eps': [1]}, 'layer_norm_eps'), ('roberta', {'pad_token_id': None}, 'pad_token_id'),
    ('roberta', {'pad_token_id': 'x'}, 'pad_token_id'),
    ('modernbert', {'hidden_activation': 'silu'}, 'hidden_activation=silu is not supported'),
    ('modernbert', {'classifier_activation': 'relu'}, 'classifier_activation=relu is not supported: it must be gelu'),
    ('modernbert', {'decoder_bias': False}, 'decoder_bias=False is not supported'),
    ('modernbert', {'tie_word_embeddings': False}, 'tie_word_embeddings=False is not supported'),
    ('modernbert', {'layer_types': ['sliding_attention', 'full_attention']}, 'layer_types is not supported'),
    ('modernbert', {'layer_types': 'full_attention'}, 'layer_types is not supported'),
    ('modernbert', {'layer_types': ['full_attention']}, 'layer_types'),
    ('modernbert', {'rope_parameters': {'full_attention': {'rope_type': 'yarn'}}},
     'rope_type=yarn is not supported: it must be default'),
    ('modernbert', {'rope_parameters': {'rope_theta': 1e4}}, 'rope_parameters'),
    ('modernbert', {'norm_bias': 'yes'}, 'norm_bias'),
    ('modernbert', {'rope_scaling': {'rope_type': 'yarn', 'factor': 2.}}, 'rope_scaling'),
    ('modernbert', {'global_attn_every_n_layers': 'x', 'layer_types': ...}, 'global_attn_every_n_layers'),
])
def test_what_cannot_be_represented_is_refused_by_name(tmp_path, model_type, values, message):
    folder = save(tmp_path / 'tiny', model_type=model_type)
    edit_config(folder, **values)
    with pytest.raises(UserError) as e:
        PublishedEncoder(folder)
    assert message in str(e.value)
    assert str(folder) in str(e.value)


def test_decoder_of_its_own_is_refused(folder):
    def decoder(weights):
        embeddings = weights['bert.embeddings.word_embeddings.weight']
        return {**weights, 'cls.predictions.decoder.weight': embeddings + change}

    change = 0.
    edit_weights(folder, decoder)
    # As older releases write it, twice the same
    assert PublishedEncoder(folder).values['transformer'] == 'bert'
    change = 1e-3
    edit_weights(folder, decoder)
    with pytest.raises(UserError, match='its decoder has weights of its own'):
        PublishedEncoder(folder)


@pytest.mark.parametrize('config, every', [
    ({'layer_types': ['full_attention', 'sliding_attention', 'full_attention', 'sliding_attention']}, 2),
    ({'layer_types': ['full_attention'] * 4}, 1),
    ({'layer_types': ['full_attention', *['sliding_attention'] * 3]}, 4),
    ({'layer_types': ..., 'global_attn_every_n_layers': 3}, 3),
    ({'layer_types': ..., 'global_attn_every_n_layers': ...}, 3),
])
def test_layers_of_modernbert_are_listed_or_counted(tmp_path, config, every):
    folder = save(tmp_path / 'tiny', model_type='modernbert', n_layers=4)
    edit_config(folder, **config)
    assert items_of(PublishedEncoder(folder))['global_every'] == every


@pytest.mark.parametrize('config, bases', [
    ({'global_rope_theta': 5000., 'local_rope_theta': 300.}, (5000., 300.)),
    ({'global_rope_theta': 5000., 'local_rope_theta': None}, (5000., 5000.)),
    ({'global_rope_theta': ..., 'local_rope_theta': ...}, (160_000., 10_000.)),
])
def test_bases_of_older_folders_of_modernbert(tmp_path, config, bases):
    folder = save(tmp_path / 'tiny', model_type='modernbert')
    edit_config(folder, rope_parameters=..., **config)
    items = items_of(PublishedEncoder(folder))
    assert (items['global_rope_base'], items['local_rope_base']) == bases


@pytest.fixture
def esm(tmp_path):
    """The default encoder, as ESM: its folder, and the model."""
    items = {'d_model': 16, 'n_layers': 2, 'n_heads': 2}
    conf = MLMTransformerConfigs()
    conf._set_values({**items, 'n_src_vocab': 20, 'n_tgt_vocab': 20})
    model = randomize(conf.transformer_mlm.eval())
    items |= {'n_tokens': 20, 'ffn.d_ff': 32, 'dropout': 0.}
    save_file(ESMFamily().write(model.state_dict(), items), tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'esm', **ESMFamily().config(items)}))
    return tmp_path, model


def test_default_encoder_comes_back_from_esm(esm):
    folder, model = esm
    source = PublishedEncoder(folder)
    conf = MLMTransformerConfigs()
    conf._set_values({'n_src_vocab': 20, 'n_tgt_vocab': 20, **{
        name.removeprefix('transformer.'): value for name, value in source.values.items()
        if name not in ('transformer', 'n_tokens')}})
    loaded = conf.transformer_mlm.eval()
    assert source.load_weights(loaded)[:2] == (True, [])
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_trained_head_of_esm_is_refused(esm):
    folder, _ = esm

    def trained(weights):
        weights['lm_head.dense.weight'][0, 1] += 1e-4
        return weights

    edit_weights(folder, trained)
    with pytest.raises(UserError, match='its head has a trained linear layer and norm, which is not supported'):
        PublishedEncoder(folder)


@pytest.mark.parametrize('values, message', [
    ({'token_dropout': True}, 'token_dropout=True'), ({'position_embedding_type': 'absolute'}, 'must be rotary'),
    ({'emb_layer_norm_before': True}, 'emb_layer_norm_before=True'), ({'layer_norm_eps': 1e-12}, 'layer_norm_eps'),
    ({'tie_word_embeddings': True}, 'tie_word_embeddings=True'), ({'is_folding_model': True}, 'is_folding_model=True')])
def test_other_esm_is_refused(esm, values, message):
    folder, _ = esm
    edit_config(folder, **values)
    with pytest.raises(UserError, match=message):
        PublishedEncoder(folder)


def test_small_gain_of_the_last_norm_cannot_be_written_as_esm(esm):
    _, model = esm
    state = model.state_dict()
    state['encoder.norm.weight'][3] = 5e-4
    with pytest.raises(UserError, match=r'a gain of the last norm is 5.0e-04.*use --custom-code'):
        ESMFamily().write(state, {'n_layers': 2})
