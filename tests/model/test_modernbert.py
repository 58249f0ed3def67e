"""ModernBERT; what it has in common with BERT is in `test_bert`."""
import pytest
import torch
from support.published import make
from torch import nn

from labml_mlm.common.errors import UserError

SIZES = {'n_tokens': 20, 'd_model': 32, 'n_heads': 4, 'd_ff': 40}


@pytest.mark.parametrize('name', ['modernbert', 'modernbert-biases', 'modernbert-attention-bias', 'modernbert-every-2',
                                  'modernbert-all-global', 'modernbert-first-global'])
def test_equal_to_transformers(assert_equal_to_published, name):
    assert_equal_to_published(name)


def test_local_layers_see_half_the_window_on_either_side():
    # The first layer is global: nothing but its values at the position itself may go on
    model = make('modernbert', **SIZES, n_layers=2, local_attention=6)
    local = model.encoder.layers[1]
    assert (model.encoder.layers[0].self_attn.window, local.self_attn.window) == (None, 3)
    x = torch.randn(20, 1, 32, requires_grad=True, generator=torch.Generator().manual_seed(1))
    local(x=x, mask=None)[10].sum().backward()
    seen = x.grad.abs().sum(dim=(1, 2)).nonzero().flatten().tolist()
    assert seen == list(range(7, 14))


@pytest.mark.parametrize('every, n_layers, expected', [(3, 7, [0, 3, 6]), (1, 3, [0, 1, 2]), (5, 4, [0])])
def test_every_so_many_layers_are_global_with_a_base_of_their_own(every, n_layers, expected):
    model = make('modernbert', **SIZES, n_layers=n_layers, global_every=every, global_rope_base=1e4,
                 local_rope_base=100.)
    attentions = [layer.self_attn for layer in model.encoder.layers]
    assert [i for i, attention in enumerate(attentions) if attention.window is None] == expected
    assert [i for i, attention in enumerate(attentions) if attention.rope_base == 1e4] == expected
    assert {attention.rope_base for attention in attentions} <= {1e4, 100.}


def test_first_layer_has_no_norm_before_its_attention():
    model = make('modernbert', **SIZES, n_layers=3)
    norms = [type(layer.norm_self_attn) for layer in model.encoder.layers]
    assert norms == [nn.Identity, nn.LayerNorm, nn.LayerNorm]


def test_biases_are_there_only_if_wanted():
    def biased(**items):
        return {name for name, _ in make('modernbert', **SIZES, n_layers=2, **items).named_parameters()
                if name.endswith('bias')}

    assert biased() == {'generator.decoder.bias'}
    assert biased(ffn_bias=True) - biased() == {f'encoder.layers.{i}.feed_forward.{part}.bias' for i in range(2)
                                                for part in ('inner', 'outer')}
    assert biased(head_bias=True) - biased() == {'generator.dense.bias'}
    assert len(biased(attn_bias=True) - biased()) == 8
    assert 'encoder.norm.bias' in biased(norm_bias=True)


def test_odd_size_of_a_head_is_refused():
    with pytest.raises(UserError, match='must be even'):
        make('modernbert', **{**SIZES, 'd_model': 12})
