"""The layer with a short convolution, against loops over positions, offsets and sequences."""
import pytest
import torch
from labml_nn.transformers.models import TransformerLayer
from torch import nn

from labml_mlm import MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.model.conv import ConvLayer, LocalConvolution, convolve_image, convolve_sequences
from labml_mlm.model.encoder import MLMEncoder, gather_positions
from labml_mlm.model.packed import DocumentMask
from labml_mlm.optim.optimizer import weight_matrices

SEQ_LEN, BATCH_SIZE, D_MODEL = 11, 3, 8
DOCUMENTS = torch.tensor([[0, 0, 5], [0, 0, 5], [0, 1, 6], [1, 1, 6], [1, 1, 6], [1, 1, 7], [1, 1, 8], [2, 1, 8],
                          [2, 1, 8], [3, 1, 8], [3, 1, 8]])
PADDING = torch.zeros(SEQ_LEN, BATCH_SIZE, dtype=torch.bool)
PADDING[7:, 1] = PADDING[2:, 2] = True


def convolution(radius=2):
    module = LocalConvolution(D_MODEL, radius)
    nn.init.normal_(module.taps, generator=torch.Generator().manual_seed(1))
    return module


def inputs(seq_len=SEQ_LEN):
    return torch.randn(seq_len, BATCH_SIZE, D_MODEL, generator=torch.Generator().manual_seed(2)).requires_grad_()


def slow_twin(module, z, sees):
    """`sees(t, u, b)` says whether, in sequence b, position t sees position u."""
    rows = []
    for t in range(len(z)):
        for b in range(z.shape[1]):
            seen = [module.taps[u - t + module.radius] * z[u, b] for u in range(len(z))
                    if abs(u - t) <= module.radius and sees(t, u, b)]
            rows.append(z[t, b] + sum(seen, torch.zeros(D_MODEL)))
    return torch.stack(rows).view(z.shape)


MASKS = {
    'none': (None, lambda t, u, b: True),
    'padding': (~PADDING[None], lambda t, u, b: not PADDING[u, b]),
    'documents': (DOCUMENTS[:, None] == DOCUMENTS[None], lambda t, u, b: DOCUMENTS[t, b] == DOCUMENTS[u, b]),
    'shared by the batch': ((DOCUMENTS[:, None] == DOCUMENTS[None])[:, :, :1],
                            lambda t, u, b: DOCUMENTS[t, 0] == DOCUMENTS[u, 0]),
    'by a kernel': (DocumentMask(DOCUMENTS), lambda t, u, b: DOCUMENTS[t, b] == DOCUMENTS[u, b]),
    'by a kernel, with padding': (DocumentMask(DOCUMENTS, PADDING),
                                  lambda t, u, b: (DOCUMENTS[t, b], PADDING[t, b]) == (DOCUMENTS[u, b], PADDING[u, b])),
}


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('radius', [1, 2, 4])
def test_equals_its_slow_twin(mask, radius):
    module, (mask, sees) = convolution(radius), MASKS[mask]
    found = []
    for call in (lambda z: module(z, mask), lambda z: slow_twin(module, z, sees)):
        z = inputs()
        out = call(z)
        module.zero_grad()
        out.square().sum().backward()
        found.append((out, z.grad, module.taps.grad.clone()))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_sequences_shorter_than_the_convolution():
    module = convolution(4)
    z = inputs(2)
    torch.testing.assert_close(module(z), slow_twin(module, z, MASKS['none'][1]))


def test_a_convolution_of_sequences_is_the_same():
    z, taps = inputs(), convolution().taps
    torch.testing.assert_close(convolve_sequences(z, taps), convolve_image(z, taps))


def layers(radius=2, **values):
    conf = MLMTransformerConfigs()
    conf._set_values({'d_model': D_MODEL, 'n_heads': 2, 'n_layers': 3, 'n_src_vocab': 20, 'n_tgt_vocab': 20,
                      'encoder_layer': 'conv', 'conv_radius': radius, **values})
    return conf.transformer_mlm


def random_taps(model):
    for module in model.modules():
        if isinstance(module, LocalConvolution):
            nn.init.normal_(module.taps, std=0.3, generator=torch.Generator().manual_seed(3))
    return model


@pytest.mark.parametrize('mask', MASKS)
def test_zero_weights_are_the_layer_of_labml_nn_to_the_bit(mask):
    layer = layers().encoder.layers[0]
    assert type(layer) is ConvLayer and not layer.local.taps.any()
    twin = TransformerLayer(d_model=D_MODEL, self_attn=layer.self_attn, feed_forward=layer.feed_forward,
                            dropout_prob=0.)
    twin.load_state_dict({name: tensor for name, tensor in layer.state_dict().items() if 'local' not in name})
    x, mask = inputs(), MASKS[mask][0]
    if not isinstance(mask, DocumentMask):
        assert torch.equal(layer(x=x, mask=mask), twin(x=x, mask=mask))
    z = layer.norm_self_attn(x)
    assert torch.equal(layer.local(z, mask), z)


@pytest.mark.parametrize('mask', ['none', 'padding', 'documents', 'shared by the batch'])
@pytest.mark.parametrize('attention', ['sdpa_rotary', 'mha'])
def test_selected_positions_equal_those_of_all(attention, mask):
    encoder, mask = random_taps(layers(encoder_attn=attention)).encoder, MASKS[mask][0]
    assert type(encoder) is MLMEncoder
    positions = torch.tensor([[3, 0, 8], [1, 7, 2]])
    found = []
    for call in (lambda x: encoder(x, mask, positions), lambda x: gather_positions(encoder(x, mask), positions)):
        x = inputs()
        encoder.zero_grad()
        out = call(x)
        out.square().sum().backward()
        found.append([out, x.grad, *(p.grad.clone() for p in encoder.parameters())])
    for some, every in zip(*found, strict=True):
        torch.testing.assert_close(some, every, rtol=1e-4, atol=1e-5)


def test_a_feed_forward_layer_of_ones_own_sees_all_positions():
    class Mixed(nn.Module):
        def forward(self, x):
            return x.cumsum(dim=0)

    encoder = layers().encoder
    for layer in encoder.layers:
        layer.feed_forward = Mixed()
    x, positions = inputs(), torch.tensor([[3, 0, 8]])
    torch.testing.assert_close(encoder(x, None, positions), gather_positions(encoder(x, None), positions))


def test_documents_do_not_see_each_other():
    model = random_taps(layers()).eval()
    x = torch.randint(20, (SEQ_LEN, BATCH_SIZE), generator=torch.Generator().manual_seed(4))
    other = torch.where(DOCUMENTS == 1, x, (x + 1) % 20)
    found, changed = (model.predict(tokens, document_ids=DOCUMENTS) for tokens in (x, other))
    torch.testing.assert_close(found[DOCUMENTS == 1], changed[DOCUMENTS == 1])
    assert not torch.allclose(model.predict(x)[DOCUMENTS == 1], model.predict(other)[DOCUMENTS == 1])


def test_padding_is_not_seen():
    model = random_taps(layers()).eval()
    x = torch.randint(20, (SEQ_LEN, BATCH_SIZE), generator=torch.Generator().manual_seed(4))
    found = model.predict(x, padding_mask=PADDING)
    other = model.predict(torch.where(PADDING, 7, x), padding_mask=PADDING)
    torch.testing.assert_close(found[~PADDING], other[~PADDING])
    # As if it were not there
    torch.testing.assert_close(found[:7, 1], model.predict(x[:7])[:, 1])


def test_a_compiled_model_is_the_same():
    model = random_taps(layers())
    x = torch.randint(20, (SEQ_LEN, BATCH_SIZE), generator=torch.Generator().manual_seed(4))
    labels = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.3, x, 0)
    compiled = torch.compile(model, backend='aot_eager')
    for arguments in ({}, {'document_ids': DOCUMENTS}, {'padding_mask': PADDING}):
        torch.testing.assert_close(compiled(x, labels, **arguments).loss, model(x, labels, **arguments).loss)


def test_its_weights_do_not_decay():
    model = layers()
    matrices = {id(matrix) for matrix in weight_matrices(model)}
    assert not any(id(layer.local.taps) in matrices for layer in model.encoder.layers)


@pytest.mark.parametrize(('overrides', 'message'), [
    (['encoder_layer=conv', 'conv_radius=0'], 'conv_radius'),
    (['encoder_layer=convolution'], 'conv'),
])
def test_wrong_values(overrides, message):
    with pytest.raises(UserError, match=message):
        parse_overrides(MLMTransformerConfigs(), overrides)
