"""Hidden states of all layers, and one vector for a text."""
import pytest
import torch

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.model.pooling import check_layer, check_pooling, hidden_states_at, pool

OPTIONS = [{}, {'transformer.encoder_attn': 'relative'}, {'transformer': 'bert'}, {'transformer': 'modernbert'},
           {'transformer.encoder': 'default'}]


@pytest.mark.parametrize('values', OPTIONS)
@torch.no_grad()
def test_hidden_states_are_those_of_a_loop_over_the_layers(values):
    conf = MLMConfigs()
    conf._set_values({'n_tokens': 11, 'padding_token': 0, 'd_model': 16, 'transformer.n_layers': 3,
                      'transformer.n_heads': 2, **values})
    model = conf.transformer.transformer_mlm.eval()
    x = torch.randint(1, 11, (7, 4), generator=torch.Generator().manual_seed(0))
    padding_mask = torch.arange(7)[:, None] >= torch.tensor([7, 3, 5, 7])
    states = model.hidden_states(x, padding_mask)
    assert len(states) == 4
    expected = model.src_embed(x)
    for layer, state in zip(model.encoder.layers, states[:-1], strict=True):
        torch.testing.assert_close(state, expected)
        expected = layer(x=expected, mask=~padding_mask[None])
    torch.testing.assert_close(states[-1], model.encoder.norm(expected))
    assert torch.equal(states[-1], model.encode(x, padding_mask))
    for layer in range(-4, 4):
        assert torch.equal(hidden_states_at(model, layer, x, padding_mask), states[layer])
    # Nothing stays behind
    assert not any(module._forward_hooks for module in model.modules())


def test_pooling_leaves_padding_out():
    hidden = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    lengths = [5, 1, 3]
    padding_mask = torch.arange(5)[:, None] >= torch.tensor(lengths)
    hidden[padding_mask] = torch.nan
    expected = torch.stack([hidden[:n, i].mean(0) for i, n in enumerate(lengths)])
    torch.testing.assert_close(pool(hidden, padding_mask, pooling='mean'), expected)
    assert torch.equal(pool(hidden, padding_mask, pooling='cls'), hidden[0])
    torch.testing.assert_close(pool(hidden[:, :1], pooling='mean'), expected[:1])


def test_what_there_is_not_is_refused_by_name():
    with pytest.raises(UserError, match=r"pooling='meen': it must be mean or cls. Did you mean `mean`\?"):
        check_pooling('meen', has_cls=True)
    with pytest.raises(UserError, match='pooling=cls takes the vector of .CLS., and this model has no special token'):
        check_pooling('cls', has_cls=False)
    for layer in (-4, -1, 0, 3):
        check_layer(layer, 3)
    for layer in (-5, 4):
        with pytest.raises(UserError, match=f'layer={layer}: it must be from 0, the embeddings, to 3, .* -1 to -4'):
            check_layer(layer, 3)
