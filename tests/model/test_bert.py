"""BERT and RoBERTa."""
import pytest
import torch
from support.published import make
from torch.nn import functional

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.model.encoder import gather_positions

OPTIONS = ['bert', 'roberta', 'modernbert']
SIZES = {'n_tokens': 20, 'd_model': 32, 'n_heads': 4, 'n_layers': 3, 'd_ff': 40, 'max_positions': 64}


def tiny(option='bert', **items):
    # A window that is smaller than the sequences
    return make(option, **SIZES, **({'local_attention': 6} if option == 'modernbert' else {}), **items)


def batch(seq_len=20, batch_size=4):
    """Token ids, `[seq_len, batch_size]`."""
    return torch.randint(5, 20, (seq_len, batch_size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', ['bert-gelu', 'bert-gelu_new', 'bert-relu', 'bert-pretraining', 'roberta',
                                  'xlm-roberta', 'roberta-padding-3'])
def test_equal_to_transformers(assert_equal_to_published, name):
    assert_equal_to_published(name)


@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('is_packed', [False, True])
def test_last_layer_at_some_positions_equals_that_at_all(option, is_packed):
    model, x = tiny(option), batch()
    document_ids = 1 + (torch.arange(20)[:, None] >= torch.tensor([4, 9, 13, 20])).long() if is_packed else None
    padding_mask = torch.zeros_like(x, dtype=torch.bool)
    padding_mask[17:, 1] = True
    positions = torch.tensor([[0, 3, 16], [2, 9, 11], [4, 12, 13], [0, 1, 19]]).T
    everywhere = model.encode(x, padding_mask, document_ids)
    there = model.encode(x, padding_mask, document_ids, positions)
    torch.testing.assert_close(there, gather_positions(everywhere, positions), rtol=1e-5, atol=1e-6)

    labels = torch.zeros_like(x).scatter(0, positions, x.gather(0, positions))
    output = model(x, labels, padding_mask=padding_mask, document_ids=document_ids)
    expected = functional.cross_entropy(model.generator(everywhere).flatten(0, 1), labels.flatten(), ignore_index=0)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)


def test_segments_are_embedded():
    model, x = tiny(), batch()
    segment_ids = (torch.arange(20)[:, None] >= 9).long().expand_as(x)
    assert model.encode(x, segment_ids=torch.zeros_like(x)).equal(model.encode(x))
    with_segments = model.encode(x, segment_ids=segment_ids)
    assert (with_segments - model.encode(x)).abs().max() > 1e-3
    embeddings = model.src_embed
    expected = embeddings.norm(embeddings.tokens(x) + embeddings.segments(segment_ids)
                               + embeddings.positions.weight[:20, None])
    torch.testing.assert_close(embeddings(x, segment_ids=segment_ids), expected)


@pytest.mark.parametrize('option', OPTIONS)
def test_packed_documents_equal_each_alone(option):
    model, x = tiny(option), batch(batch_size=1)
    lengths = [3, 9, 1, 7]
    document_ids = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[:, None]
    packed = model.encode(x, document_ids=document_ids)
    alone = torch.cat([model.encode(document) for document in x.split(lengths)])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('option', OPTIONS)
def test_padding_changes_nothing(option):
    model, x = tiny(option), batch(12)
    padded = torch.cat([x, torch.zeros(5, 4, dtype=torch.long)])
    hidden = model.encode(padded, torch.arange(17)[:, None].expand(-1, 4) >= 12)
    torch.testing.assert_close(hidden[:12], model.encode(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('option, item', [
    *[('bert', item) for item in ('dropout', 'attn_dropout')], ('roberta', 'dropout'),
    *[('modernbert', item) for item in ('dropout', 'attn_dropout', 'embed_dropout')]])
def test_dropout_is_active_in_training_alone(option, item):
    off = {'dropout': 0., 'attn_dropout': 0.}
    model, plain, x = tiny(option, **{**off, item: 0.5}), tiny(option, **off), batch()
    assert torch.equal(model.encode(x), plain.encode(x))
    plain.train()
    assert torch.equal(plain.encode(x), plain.encode(x))
    model.train()
    assert not torch.allclose(model.encode(x), model.encode(x), atol=1e-2)


def test_dropout_of_bert_is_on_embeddings_and_on_what_layers_add():
    model = tiny(dropout=1., attn_dropout=0.).train()
    # Nothing is left of the embeddings, and layers only normalise: every token has the bias of the last norm
    hidden = model.encode(batch())
    assert torch.equal(model.src_embed(batch()), torch.zeros_like(hidden))
    norms = torch.zeros(32)
    for layer in model.encoder.layers:
        norms = layer.norm_ff(layer.norm_self_attn(norms))
    torch.testing.assert_close(hidden, norms.expand_as(hidden))


def test_positions_of_roberta_begin_behind_padding():
    model = make('roberta', **SIZES, padding_token=3)
    assert model.src_embed.first_position == 4
    assert len(model.src_embed.positions.weight) == 68
    assert model.max_seq_len == 64
    with torch.no_grad():
        before = model.encode(batch())
        # Rows that no position has
        model.src_embed.positions.weight[:4].neg_()
        assert torch.equal(model.encode(batch()), before)
        model.src_embed.positions.weight[4].neg_()
        assert not torch.allclose(model.encode(batch()), before, atol=1e-3)
    assert tiny('bert').src_embed.first_position == 0


def test_pooler_and_next_sentence_head_are_kept_but_not_trained():
    model = tiny(has_pooler=True, has_next_sentence=True)
    assert (model.pooler.weight.shape, model.next_sentence.weight.shape) == ((32, 32), (2, 32))
    x = batch()
    model(x, x).loss.backward()
    frozen = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert frozen == {f'{module}.{kind}' for module in ('pooler', 'next_sentence') for kind in ('weight', 'bias')}


@pytest.mark.parametrize('option', OPTIONS)
def test_decoder_shares_the_embeddings(option):
    model = tiny(option)
    assert model.generator.decoder.weight is model.src_embed.tokens.weight
    assert sum(name.endswith(('decoder.weight', 'tokens.weight')) for name, _ in model.named_parameters()) == 1


def test_initial_weights_depend_on_the_seed_and_differ_between_layers(build):
    def weights(seed):
        model = build(transformer='bert', seed=seed, **{'transformer.max_positions': 16}).model
        return [layer.feed_forward[0].weight for layer in model.encoder.layers]

    first, again, other = (weights(seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    two = build(transformer='bert', **{'transformer.max_positions': 16, 'transformer.n_layers': 2}).model.encoder.layers
    assert not torch.equal(two[0].feed_forward[0].weight, two[1].feed_forward[0].weight)
    assert 0.015 < first[0].std() < 0.02 and first[0].abs().max() <= 0.04


@pytest.mark.parametrize('option', OPTIONS)
def test_items_of_a_transformer_are_known_in_any_order(option):
    arguments = [f'transformer={option}', 'transformer.max_positions=64', 'transformer.attn_dropout=0.2']
    for given in (arguments, arguments[::-1]):
        values = parse_overrides(MLMConfigs(), given)
        assert values == {'transformer': option, 'transformer.max_positions': 64, 'transformer.attn_dropout': 0.2}


@pytest.mark.parametrize('arguments, message', [
    (['transformer.max_positions=64'], '`transformer.max_positions`: there is no such item'),
    (['transformer=mlm', 'transformer.attn_dropout=0.1'], '`transformer.attn_dropout`: there is no such item'),
    (['transformer=bert', 'transformer.local_attention=64'], '`transformer.local_attention`: there is no such item'),
    (['transformer=brt'], 'Did you mean `bert`?'),
    *[([f'transformer={option}', f'transformer.{item}'], '`transformer.' + item.partition('=')[0] + '` cannot be set: '
       'the parts of this architecture are fixed; `transformer=mlm` has others')
      for option in OPTIONS for item in ('encoder_attn=mha', 'ffn=default', 'generator=default', 'src_embed=no_pos')],
    (['transformer=bert', 'transformer.ffn.d_ff=64'], '`transformer.ffn.d_ff`: there is no such item'),
    (['transformer=bert', 'transformer.norm_eps=2'], 'it must be from 0 to 1'),
])
def test_items_that_an_architecture_does_not_have_are_refused(arguments, message):
    with pytest.raises(UserError) as e:
        parse_overrides(MLMConfigs(), arguments)
    assert message in str(e.value)


@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('items, message', [
    ({'activation': 'tanh'}, 'transformer.activation=tanh: it must be gelu, gelu_new, relu'),
    ({'n_heads': 5}, 'd_model=32 is not divisible by n_heads=5'),
])
def test_impossible_sizes_are_refused(option, items, message):
    with pytest.raises(UserError, match=message):
        make(option, **{**SIZES, **items})


def test_seq_len_above_the_positions_is_refused(build):
    with pytest.raises(UserError, match='seq_len=16 is longer than the position embeddings of this model: 8'):
        build(transformer='bert', **{'transformer.max_positions': 8})
