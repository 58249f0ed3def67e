import pytest
import torch
from labml_nn.transformers.models import Encoder, TransformerLayer
from torch import nn

from labml_mlm import MLMTransformerConfigs
from labml_mlm.model.attention import SDPA
from labml_mlm.model.encoder import MLMEncoder, gather_positions

SEQ_LEN, BATCH_SIZE, D_MODEL = 9, 4, 16


def twins(**values):
    """labml_nn's encoder, and `MLMEncoder` with the same weights."""
    encoders = []
    for kind in ('default', 'mlm'):
        conf = MLMTransformerConfigs()
        conf._set_values({'d_model': D_MODEL, 'n_heads': 2, 'n_layers': 3, 'n_src_vocab': 20, 'n_tgt_vocab': 20,
                          'encoder': kind, **values})
        encoders.append(conf.transformer_mlm.encoder)
    reference, encoder = encoders
    assert type(reference) is Encoder and type(encoder) is MLMEncoder
    encoder.load_state_dict(reference.state_dict())
    return reference, encoder


def masks():
    some = torch.rand(SEQ_LEN, SEQ_LEN, BATCH_SIZE, generator=torch.Generator().manual_seed(1)) < 0.6
    some[:, 0] = True
    return {'none': None, 'full': some, 'keys': some[:1], 'shared': some[:, :, :1]}


def run(encoder, mask, positions):
    """Hidden states at `positions`, and gradients of the input and of all weights."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(SEQ_LEN, BATCH_SIZE, D_MODEL, generator=generator).requires_grad_()
    encoder.zero_grad()
    if isinstance(encoder, MLMEncoder):
        out = encoder(x, mask, positions)
    else:
        hidden = encoder(x, mask)
        out = torch.stack([torch.stack([hidden[position, b] for b, position in enumerate(row)]) for row in positions])
    (out * torch.randn(out.shape, generator=generator)).sum().backward()
    return [out, x.grad, *(p.grad.clone() for p in encoder.parameters())]


@pytest.mark.parametrize('mask', ['none', 'full', 'keys', 'shared'])
@pytest.mark.parametrize('attention', ['sdpa_rotary', 'sdpa', 'mha', 'relative'])
def test_selected_positions_equal_those_of_the_full_encoder(attention, mask):
    reference, encoder = twins(encoder_attn=attention)
    # Out of order, and one of them twice
    positions = torch.tensor([[3, 0, 8, 5], [1, 7, 2, 5]])
    for a, b in zip(run(reference, masks()[mask], positions), run(encoder, masks()[mask], positions), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_all_positions_are_the_default():
    reference, encoder = twins()
    x = torch.randn(SEQ_LEN, BATCH_SIZE, D_MODEL)
    assert torch.equal(reference(x, None), encoder(x, None))


class Neighbours(nn.Module):
    """A feed-forward layer that depends on the previous token."""

    def forward(self, x):
        return x.roll(1, dims=0)


class Doubling(TransformerLayer):
    """A layer that is not labml_nn's."""

    def forward(self, *, x, mask):
        return 2 * super().forward(x=x, mask=mask)


@pytest.mark.parametrize('is_other_layer', [True, False])
def test_custom_layers_are_computed_at_all_positions(is_other_layer):
    torch.manual_seed(0)
    kind, feed_forward = (Doubling, nn.Linear(D_MODEL, D_MODEL)) if is_other_layer else (TransformerLayer, Neighbours())
    encoder = MLMEncoder(kind(d_model=D_MODEL, self_attn=SDPA(2, D_MODEL), feed_forward=feed_forward, dropout_prob=0.),
                         2)
    x, positions = torch.randn(SEQ_LEN, BATCH_SIZE, D_MODEL), torch.tensor([[3, 0, 8, 5]])
    torch.testing.assert_close(encoder(x, None, positions), gather_positions(encoder(x, None), positions))


def test_last_layer_is_computed_at_selected_positions_only():
    _, encoder = twins()
    rows = []
    for layer in encoder.layers:
        layer.feed_forward.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[:2]))
        layer.self_attn.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[:2]))
    encoder(torch.randn(SEQ_LEN, BATCH_SIZE, D_MODEL), None, torch.tensor([[3, 0, 8, 5], [1, 7, 2, 4]]))
    assert rows == [(SEQ_LEN, BATCH_SIZE)] * 4 + [(2, BATCH_SIZE)] * 2
