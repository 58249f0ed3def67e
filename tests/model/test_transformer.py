import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from labml_mlm import MLM, MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.model.attention import SDPA
from labml_mlm.model.embeddings import document_positions

ATTENTIONS = ['mha', 'relative', 'sdpa', 'sdpa_rotary']
N_TOKENS, PAD = 20, 0


def make(**values):
    conf = MLMTransformerConfigs()
    conf._set_values({'n_src_vocab': N_TOKENS, 'n_tgt_vocab': N_TOKENS, 'd_model': 32, 'n_heads': 4, 'n_layers': 2,
                      **values})
    return conf.transformer_mlm


def batch(seq_len=12, batch_size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(5, N_TOKENS, (seq_len, batch_size), generator=generator)
    return MLM(padding_token=PAD, mask_token=4, no_mask_tokens=[1, 2, 3], n_tokens=N_TOKENS, masking_prob=0.3,
               generator=generator)(x)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_loss_at_masked_positions_equals_that_of_all_logits(attention):
    model = make(encoder_attn=attention).train()
    masked, labels = batch()
    output = model(masked, labels)
    logits = model.predict(masked)
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients(model, output.loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    selected = labels != PAD
    assert output.n_masked == selected.sum()
    assert output.n_correct == (logits.argmax(-1) == labels)[selected].sum()
    torch.testing.assert_close(output.loss_sum, output.loss * output.n_masked)


def test_sdpa_model_equals_mha_model():
    mha, sdpa = make(encoder_attn='mha'), make(encoder_attn='sdpa')
    sdpa.load_state_dict(mha.state_dict())
    masked, labels = batch()
    losses = [model(masked, labels).loss for model in (mha, sdpa)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(mha, losses[0]), gradients(sdpa, losses[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_nothing_masked_gives_zero_loss_and_gradients(attention):
    model = make(encoder_attn=attention)
    masked, _ = batch()
    output = model(masked, torch.full_like(masked, PAD))
    assert output.loss == 0
    assert output.n_masked == 0
    assert all((gradient == 0).all() for gradient in gradients(model, output.loss))


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_padding_is_never_attended_to(attention):
    model = make(encoder_attn=attention)
    masked, labels = batch()
    padding_mask = torch.zeros_like(masked, dtype=torch.bool)
    padding_mask[7:, 1] = padding_mask[3:, 2] = True
    labels[padding_mask] = PAD
    results = []
    for content in (PAD, 13):
        x = masked.masked_fill(padding_mask, content)
        output = model(x, labels, padding_mask=padding_mask)
        logits = model.predict(x, padding_mask=padding_mask)[~padding_mask]
        results.append([output.loss, logits])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    # Without the padding mask it is
    logits = model.predict(masked.masked_fill(padding_mask, PAD))[~padding_mask]
    assert not torch.allclose(logits, results[0][1], atol=1e-3)


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_packed_documents_do_not_attend_to_each_other(attention):
    model = make(encoder_attn=attention).eval()
    masked, labels = batch()
    # `[seq_len, batch_size]`: three documents in the first sequence, two and padding in the second, one in the others
    document_ids = torch.ones_like(masked)
    document_ids[4:, 0], document_ids[9:, 0], document_ids[5:, 1], document_ids[8:, 1] = 2, 3, 2, 0
    padding_mask = document_ids == 0
    before = model.predict(masked, padding_mask=padding_mask, document_ids=document_ids)
    for column, number in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 0)]:
        changed = masked.clone()
        in_document = document_ids[:, column] == number
        changed[in_document, column] = 5 + (changed[in_document, column] + 3) % 15
        after = model.predict(changed, padding_mask=padding_mask, document_ids=document_ids)
        is_other = torch.ones_like(padding_mask)
        is_other[in_document, column] = False
        is_other &= ~padding_mask
        assert torch.equal(after[is_other], before[is_other])
        if number:
            assert not torch.allclose(after[~is_other & ~padding_mask], before[~is_other & ~padding_mask], atol=1e-3)
    # Without document ids they do
    assert not torch.allclose(model.predict(masked)[:, 0], before[:, 0], atol=1e-3)
    output = model(masked, labels, padding_mask=padding_mask, document_ids=document_ids)
    assert all(gradient.isfinite().all() for gradient in gradients(model, output.loss))


class OwnPositions(nn.Module):
    """Embeddings of one's own with absolute positions."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(N_TOKENS, 32), nn.Embedding(50, 32)

    def forward(self, x, positions=None):
        return self.tokens(x) + self.places(torch.arange(len(x))[:, None] if positions is None else positions)


@pytest.mark.parametrize('attention, src_embed', [
    *((attention, 'by_attention') for attention in ATTENTIONS), ('sdpa', 'fixed_pos'), ('sdpa', 'learned_pos'),
    ('sdpa', 'no_pos'), ('sdpa', OwnPositions)])
def test_a_packed_document_has_the_logits_of_the_document_alone(attention, src_embed):
    own = not isinstance(src_embed, str)
    model = make(encoder_attn=attention, src_embed=src_embed() if own else src_embed).eval()
    if src_embed == 'learned_pos':
        nn.init.normal_(model.src_embed.positional_encodings)
    masked, _ = batch()
    document_ids = torch.ones_like(masked)
    # Three documents in the first sequence, two in the others
    document_ids[5:], document_ids[8:, 0] = 2, 3
    packed = model.predict(masked, document_ids=document_ids)
    first, second = model.predict(masked[:5]), model.predict(masked[5:])
    second[:, 0] = torch.cat([model.predict(masked[5:8])[:, 0], model.predict(masked[8:])[:, 0]])
    torch.testing.assert_close(packed, torch.cat([first, second]), rtol=1e-5, atol=1e-5)


def test_embeddings_that_take_no_positions_are_refused_for_packed_documents():
    model = make(src_embed=nn.Sequential(nn.Embedding(N_TOKENS, 32), nn.Linear(32, 32)))
    masked, _ = batch()
    model.predict(masked)
    with pytest.raises(UserError, match='the `forward` of `src_embed`, Sequential, must take them'):
        model.predict(masked, document_ids=torch.ones_like(masked))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_positions_begin_anew_in_each_document(lengths):
    ids = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    positions = document_positions(ids[:, None].expand(-1, 2))
    assert positions.T.tolist() == [[i for length in lengths for i in range(length)]] * 2


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_a_fully_padded_sequence_has_finite_loss_and_gradients(attention):
    model = make(encoder_attn=attention)
    masked, labels = batch()
    padding_mask = torch.zeros_like(masked, dtype=torch.bool)
    padding_mask[:, 1] = True
    labels[:, 1] = PAD
    output = model(masked, labels, padding_mask=padding_mask)
    assert output.loss.isfinite()
    assert model.predict(masked, padding_mask=padding_mask).isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model, output.loss))


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_logits_depend_on_the_order_of_tokens(attention):
    model = make(encoder_attn=attention)
    for module in model.modules():
        if hasattr(module, 'key_pos_bias'):
            torch.nn.init.normal_(module.key_pos_bias)  # initialized with 0
    masked, _ = batch()
    assert not torch.allclose(model.predict(masked).flip(0), model.predict(masked.flip(0)), atol=1e-3)


@pytest.mark.parametrize('attention', ATTENTIONS)
@pytest.mark.parametrize('src_embed', ['fixed_pos', 'learned_pos', 'no_pos', 'by_attention'])
@pytest.mark.parametrize('glu_variant', ['none', 'GLU', 'SwiGLU'])
def test_attentions_embeddings_and_feed_forward_layers_combine(attention, src_embed, glu_variant):
    model = make(**{'encoder_attn': attention, 'src_embed': src_embed, 'ffn.glu_variant': glu_variant, 'dropout': 0.1})
    output = model.train()(*batch())
    assert all(gradient.isfinite().all() for gradient in gradients(model, output.loss))
    feed_forward = model.encoder.layers[0].feed_forward
    activation = {'none': torch.nn.GELU, 'GLU': torch.nn.Sigmoid, 'SwiGLU': torch.nn.SiLU}[glu_variant]
    assert isinstance(feed_forward.activation, activation)
    assert feed_forward.is_gated == (glu_variant != 'none')


def test_layers_are_initialized_independently_by_the_seed():
    model, same, other = make(), make(), make(seed=2)
    first, second = (layer.feed_forward.layer1.weight for layer in model.encoder.layers)
    assert not torch.equal(first, second)
    for a, b in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first, other.encoder.layers[0].feed_forward.layer1.weight)


@pytest.mark.parametrize('src_embed', ['fixed_pos', 'learned_pos', 'no_pos'])
def test_embeddings_are_initialized_with_unit_variance(src_embed):
    embed = make(src_embed=src_embed, d_model=256).src_embed
    x = torch.arange(N_TOKENS)[None]
    positions = getattr(embed, 'positional_encodings', torch.zeros(1, 1, 256))[:1]
    assert (embed(x) - positions).std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_dropout_applies_to_every_attention(attention):
    assert make(encoder_attn=attention).encoder.layers[1].self_attn.dropout.p == 0
    assert make(encoder_attn=attention, dropout=0.2).encoder.layers[1].self_attn.dropout.p == 0.2


@pytest.mark.parametrize('values, expected', [
    ({}, float('inf')), ({'encoder_attn': 'sdpa'}, 5000), ({'encoder_attn': 'relative'}, 4096),
    ({'src_embed': 'learned_pos'}, 5000),
])
def test_longest_sequence_by_position_embeddings(values, expected):
    assert make(**values).max_seq_len == expected


def test_relative_attention_takes_its_longest_sequence():
    model = make(encoder_attn='relative', n_layers=1)
    attention = model.encoder.layers[0].self_attn
    # Fewer positions, for speed: 2P embeddings allow P tokens
    attention.P = 8
    attention.key_pos_embeddings.data = attention.key_pos_embeddings.data[:16]
    attention.key_pos_bias.data = attention.key_pos_bias.data[:16]
    assert model.max_seq_len == 8
    assert model.predict(torch.full((8, 1), 7)).isfinite().all()


@pytest.mark.parametrize('values, message', [
    ({'d_model': 30}, 'd_model=30 is not divisible by n_heads=4'),
    ({'d_model': 3, 'n_heads': 3}, 'd_model=3 is odd'),
    ({'d_model': 12}, 'must be even'),
])
def test_invalid_sizes_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        make(**values)


class Wrapper(nn.Module):
    """torch's attention, called as a layer does; without `dropout`."""

    def __init__(self, d_model):
        super().__init__()
        self.attention = nn.MultiheadAttention(d_model, 4, dropout=0.3)

    def forward(self, *, query, key, value, mask):
        blocked = None
        if mask is not None:
            blocked = ~mask.expand(len(query), -1, -1).permute(2, 0, 1).repeat_interleave(4, dim=0)
        return self.attention(query, key, value, attn_mask=blocked, need_weights=False)[0]


class LikeLabml(SDPA):
    """Has labml_nn's signature: it takes no `positions`."""

    def forward(self, *, query, key, value, mask=None):
        return super().forward(query=query, key=key, value=value, mask=mask)


@pytest.mark.parametrize('attention', [Wrapper(32), LikeLabml(4, 32, is_rotary=True), LikeLabml(4, 32)])
def test_attention_of_ones_own(attention):
    model = make(encoder_attn=attention, dropout=0.2).eval()
    assert model.encoder.layers[0].self_attn is not model.encoder.layers[1].self_attn
    masked, labels = batch()
    document_ids = torch.ones_like(masked)
    document_ids[5:], document_ids[9:, 1] = 2, 0
    padding_mask = document_ids == 0
    for context in ({}, {'padding_mask': padding_mask}, {'padding_mask': padding_mask, 'document_ids': document_ids}):
        # At masked positions only, and at all of them
        hidden = model.encode(masked, **context)
        positions = torch.tensor([[1] * 5, [7] * 5])
        at_positions = model.encode(masked, **context, positions=positions)
        torch.testing.assert_close(at_positions, torch.stack([hidden[1], hidden[7]]), rtol=1e-5, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients(model, model(masked, labels).loss))


def test_attention_of_ones_own_keeps_its_dropout():
    model = make(encoder_attn=Wrapper(32), dropout=0.2)
    assert model.encoder.layers[0].self_attn.attention.dropout == 0.3
    own = SDPA(4, 32, 0.4)
    assert make(encoder_attn=own, dropout=0.2).encoder.layers[1].self_attn.dropout.p == 0.4
    for name in ('mha', 'relative', 'sdpa'):
        assert make(encoder_attn=name, dropout=0.2).encoder.layers[1].self_attn.dropout.p == 0.2


class NoMask(nn.Module):
    def forward(self, *, query, key, value):
        return query


class Transposed(nn.Module):
    def forward(self, *, query, key, value, mask):
        return query.transpose(0, 1)


@pytest.mark.parametrize('attention, message', [
    (nn.MultiheadAttention(32, 4), "MultiheadAttention, fails when it is called .* TypeError: .* 'mask'"),
    (NoMask(), "NoMask, fails when it is called with a query of shape .* and no mask: TypeError: .* 'mask'"),
    (Transposed(), r'Transposed, returns shape \[2, 3, 32\]: it must return a tensor of the shape of the query')])
def test_attention_that_cannot_be_called_as_a_layer_does_is_refused(attention, message):
    with pytest.raises(UserError, match=message):
        make(encoder_attn=attention)


@pytest.mark.parametrize('attention', ['sdpa', 'sdpa_rotary'])
@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad])
def test_training_goes_on_after_inference(attention, mode):
    masked, labels = batch()
    fresh = make(encoder_attn=attention)
    expected = gradients(fresh, fresh(masked, labels).loss)
    model = make(encoder_attn=attention)
    with mode():
        model.encode(torch.cat([masked, masked]))
    for a, b in zip(gradients(model, model(masked, labels).loss), expected, strict=True):
        assert torch.equal(a, b)


def test_copies_and_casts_of_a_model():
    masked, labels = batch()
    model = make().eval()
    logits = model.predict(masked)
    assert torch.equal(copy.deepcopy(model).predict(masked), logits)
    assert torch.equal(pickle.loads(pickle.dumps(model)).predict(masked), logits)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float64, 1e-4)):
        cast = copy.deepcopy(model).to(dtype)
        torch.testing.assert_close(cast.predict(masked).float(), logits, rtol=0, atol=tolerance)
        # Longer than before
        assert cast.predict(torch.cat([masked, masked])).dtype == dtype
    meta = copy.deepcopy(model).to('meta')
    assert meta.predict(masked.to('meta')).shape == logits.shape
    assert meta(masked.to('meta'), labels.to('meta'), n_positions=4).loss.shape == ()


def test_a_model_can_be_exported():
    masked, _ = batch()
    model = make().eval()
    logits = model.predict(masked)

    class Predict(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.predict(x)

    exported = torch.export.export(Predict(), (masked,))
    torch.testing.assert_close(exported.module()(masked), logits, rtol=1e-5, atol=1e-5)


def test_a_model_in_several_threads():
    model = make().eval()
    texts = [torch.randint(5, N_TOKENS, (length, 3)) for length in (3, 40, 7, 90, 5, 120, 2, 60) * 4]
    expected = [make().eval().predict(x) for x in texts]
    with ThreadPoolExecutor(8) as pool:
        for result, logits in zip(pool.map(model.predict, texts), expected, strict=True):
            torch.testing.assert_close(result, logits, rtol=1e-5, atol=1e-5)
