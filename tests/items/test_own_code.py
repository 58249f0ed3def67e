"""What a run needs its script for."""
import pytest
import torch
from labml.configs import option

from labml_mlm import ClassificationConfigs, MLMConfigs
from labml_mlm.items.own_code import own_code
from labml_mlm.model.attention import SDPA
from labml_mlm.model.transformer import MLMTransformerConfigs


def test_configs_of_ours_have_none(build):
    assert own_code(build()) == []
    assert own_code(build(recipe='char', optimizer='muon')) == []
    assert own_code(ClassificationConfigs()) == []


def test_values_are_none(build):
    class Configs(MLMConfigs):
        """With a docstring."""
        recipe = 'char'
        seq_len: int = 8
        prompt = ['the']

    assert own_code(build(Configs)) == []


def test_methods_items_and_attributes_are_listed(build):
    class Configs(MLMConfigs):
        size: int = 3
        _rates = {'mlm': 1.}

        def step(self, batch, batch_idx):
            super().step(batch, batch_idx)

    assert own_code(build(Configs)) == ['_rates', 'size', 'step']


def test_objects_are_listed(build):
    assert own_code(build(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.))) == ['optimizer']


@pytest.mark.parametrize('is_chosen', [True, False])
def test_options_count_if_they_are_chosen(build, is_chosen):
    class Configs(MLMConfigs):
        # Options of a class that only inherits the items would be those of all classes
        lr_schedule = 'constant'
        masking_schedule = 'constant'

    @option(Configs.lr_schedule, 'mine')
    def mine():
        return lambda step: 1.

    @option(Configs.masking_schedule, 'linear')
    def linear():
        return lambda fraction: 0.2

    values = {'lr_schedule': 'mine', 'masking_schedule': 'linear'} if is_chosen else {}
    with pytest.warns(Warning, match='Overriding option'):
        assert own_code(build(Configs, **values)) == sorted(values)


def test_options_of_nested_configs(build):
    class Transformer(MLMTransformerConfigs):
        encoder_attn = 'own'

    class Configs(MLMConfigs):
        transformer = 'mine'

    @option(Configs.transformer, 'mine')
    def mine(c) -> Transformer:
        conf = Transformer()
        conf.n_src_vocab = conf.n_tgt_vocab = c.n_tokens
        conf.d_model = c.d_model
        return conf

    @option(Transformer.encoder_attn, 'own')
    def own(c):
        return SDPA(c.n_heads, c.d_model)

    assert own_code(build(Configs)) == ['transformer', 'transformer.encoder_attn']
