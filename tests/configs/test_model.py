"""Parts of the model that are not trained."""
import pytest
import torch
from support.project import SMALL_VALUES

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.common.schema import config_items


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def is_frozen(name, freeze):
    n = int(freeze.partition(':')[2] or 0)
    return name.startswith(('src_embed.', *(f'encoder.layers.{i}.' for i in range(n))))


def assert_only_others_changed(before, model, freeze):
    after = weights(model)
    frozen = {name for name in before if is_frozen(name, freeze)}
    assert frozen and frozen < before.keys()
    for name in before:
        # A bias of keys has no gradient: a softmax does not see it
        if not name.endswith('key.linear.bias'):
            assert torch.equal(before[name], after[name]) == (name in frozen), name


@pytest.mark.parametrize('freeze', ['embeddings', 'layers:1', 'layers:2'])
@pytest.mark.parametrize('values', [
    {}, {'optimizer': 'muon'}, {'optimizer.optimizer': 'Adam', 'lr_schedule': 'constant'},
    {'gradient_accumulation_steps': 2, 'transformer.src_embed': 'learned_pos', 'transformer.encoder_attn': 'mha'}])
def test_frozen_weights_stay_as_they_are_and_others_are_trained(build, tracked, train_steps, freeze, values):
    conf = build(freeze=freeze, **{**values, 'transformer.n_layers': 3, 'optimizer.weight_decay': 0.1})
    before = weights(conf.model)
    train_steps(conf, 12)
    assert_only_others_changed(before, conf.model, freeze)
    trained = {id(p) for group in conf.optimizer.param_groups for p in group['params']}
    assert trained == {id(p) for name, p in conf.model.named_parameters() if not is_frozen(name, freeze)}


@pytest.mark.parametrize('transformer', ['bert', 'modernbert'])
def test_a_head_that_shares_the_embeddings_is_frozen_with_them(build, tracked, train_steps, transformer):
    conf = build(freeze='embeddings', **{**SMALL_VALUES, 'transformer': transformer, 'transformer.n_layers': 2})
    before = conf.model.generator.decoder.weight.detach().clone()
    dense = conf.model.generator.dense.weight.detach().clone()
    train_steps(conf, 3)
    assert torch.equal(conf.model.generator.decoder.weight, before)
    assert conf.model.src_embed.tokens.weight is conf.model.generator.decoder.weight
    assert not torch.equal(conf.model.generator.dense.weight, dense)


def test_muon_without_a_matrix_to_train_is_refused(build):
    with pytest.raises(UserError, match='optimizer=muon is for matrices of the encoder, and there are none to train'):
        build(freeze='layers:2', optimizer='muon', **{'transformer.n_layers': 2})


def test_parameters_that_a_model_has_frozen_itself_are_not_trained(build, tracked, train_steps):
    class Frozen(MLMConfigs):
        pass

    conf = Frozen()
    conf.set_default(Frozen.model, func=lambda: conf.parallel.parallelize(
        conf.transformer.transformer_mlm.requires_grad_(False), conf.device))
    conf._set_values({'text': 'to be or not to be ' * 100, **SMALL_VALUES})
    with pytest.raises(UserError, match='all parameters of the model are frozen: there is nothing to train'):
        conf.init()


def test_frozen_parts_may_not_change_on_resume():
    assert not config_items(MLMConfigs())['freeze'].declaration.may_change
