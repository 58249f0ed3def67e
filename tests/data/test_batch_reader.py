"""Batches of loaders of one's own: every container, type and order gives the same batch, or is refused."""
import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.data import Batch, BatchReader
from labml_mlm.data.batch import Columns

PAD, N_TOKENS, SEQ_LEN = 0, 20, 6


def make(**options):
    return BatchReader(**{'padding_token': PAD, 'n_tokens': N_TOKENS, 'seq_len': SEQ_LEN, 'max_seq_len': 8, **options})


def tokens(seq_len=SEQ_LEN, batch_size=4):
    return torch.randint(1, N_TOKENS, (seq_len, batch_size), generator=torch.Generator().manual_seed(0))


def padding(x):
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[4:, 1] = True
    return mask


def assert_same(batch, x, padding_mask=None, labels=None):
    for one, other in ((batch.tokens, x), (batch.padding_mask, padding_mask), (batch.labels, labels)):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_of_any_type(dtype):
    x = tokens()
    assert_same(make()(x.to(dtype)), x)
    assert_same(make()(x.to(dtype).numpy()), x)
    assert_same(make()([x.to(dtype)]), x)
    assert_same(make()(Batch(x, document_ids=torch.ones_like(x, dtype=dtype))), x)


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int64])
def test_padding_masks_of_any_type(dtype):
    x, mask = tokens(), padding(tokens())
    expected = x.masked_fill(mask, PAD)
    assert_same(make()((x, mask.to(dtype))), expected, mask)
    assert_same(make()(Batch(x, mask.to(dtype))), expected, mask)
    # Ids below padding are never looked up
    assert_same(make()((x.masked_fill(mask, -1), mask)), expected, mask)
    # With the padding token in place of a mask
    assert_same(make(is_padded=True)(expected), expected, mask)
    assert_same(make()(expected, is_padded=True), expected, mask)
    assert_same(make()(expected), expected)


def test_batch_first():
    x, mask = tokens(), padding(tokens())
    expected = x.masked_fill(mask, PAD)
    assert_same(make(batch_first=True)((x.T, mask.T)), expected, mask)
    assert_same(make()(Batch(x.T, mask.T, batch_first=True)), expected, mask)
    assert_same(make(batch_first=True)(Batch(x, mask, batch_first=False)), expected, mask)
    documents = torch.arange(SEQ_LEN)[:, None].expand_as(x)
    batch = make(batch_first=True)(Batch(x.T, document_ids=documents.T))
    assert torch.equal(batch.document_ids, documents) and batch.batch_first is None
    # The built-in loaders are not asked
    assert_same(make(batch_first=True)(x, is_own=False), x)


def test_the_other_order_is_refused():
    with pytest.raises(UserError, match=r'shape \[4, 6\], where seq_len=6: .*use batch_first=true'):
        make()(tokens().T)
    with pytest.raises(UserError, match=r'shape \[6, 4\], where seq_len=6: .*use batch_first=false'):
        make(batch_first=True)(tokens())
    # Shorter sequences: six of them
    short = tokens(seq_len=4, batch_size=6)
    assert_same(make()(Batch(short, batch_first=False)), short)
    assert_same(make()(short, is_own=False), short)


def test_a_square_batch_is_taken_as_the_item_says_and_that_is_said_once(capsys):
    x = tokens(batch_size=SEQ_LEN)
    for batch_first, expected in ((False, x), (True, x.T)):
        reader = make(batch_first=batch_first)
        for _ in range(2):
            assert_same(reader(x), expected)
        assert capsys.readouterr().out.count(f'batch_first={str(batch_first).lower()}') == 1
    make()(x, is_own=False)
    assert not capsys.readouterr().out


def test_batches_of_hugging_face():
    x, mask = tokens(), padding(tokens())
    expected = x.masked_fill(mask, PAD)
    batch = {'input_ids': x.T.int(), 'attention_mask': (~mask).T.int(), 'token_type_ids': torch.zeros_like(x.T)}
    for batch_first in (False, True):
        assert_same(make(batch_first=batch_first)(batch), expected, mask)
    # Even if it looks like the other order
    assert_same(make()({'input_ids': tokens(4, 6).T}), tokens(4, 6))
    labels = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8, -100)
    masked = torch.where(labels == -100, x, 4)
    read = make()({'input_ids': masked.T, 'labels': labels.T})
    assert_same(read, masked, labels=labels.masked_fill(labels == -100, PAD))
    assert torch.equal(read.unmasked(PAD), x)
    assert_same(make()(Batch(masked, labels=labels)), masked, labels=labels.masked_fill(labels == -100, PAD))


def test_labels_at_padding_do_not_count():
    x, mask = tokens(), padding(tokens())
    read = make()(Batch(x, mask, labels=x))
    assert torch.equal(read.labels, x.masked_fill(mask, PAD))


X = tokens()


@pytest.mark.parametrize('batch, message', [
    (X.float(), 'the loader gives token ids of type torch.float32: they must be integers'),
    (X > 3, 'token ids of type torch.bool'),
    (X + 15, 'token ids from 16 to 34: they must be from 0 to 19, as n_tokens=20'),
    (-X, 'token ids from -19 to -1'),
    (X[0], r'has shape \[4\]: it must be \[seq_len, batch_size\]'),
    (X[None], r'has shape \[1, 6, 4\]'),
    (tokens(9), 'sequences of 9 tokens, and the position embeddings of this model end at 8'),
    ((X, X), r'a `padding_mask` of type torch.int64 that is not 0 or 1. Labels go by name'),
    ((X, X.float()), 'a `padding_mask` of type torch.float32'),
    ((X, padding(X).T), r'tokens of shape \[6, 4\] and `padding_mask` of shape \[4, 6\]'),
    ((X, X, X), 'the loader gives a tuple of 3: a batch is a tensor of token ids'),
    ((), 'a tuple of 0'),
    (['a text'], 'a list of 1'),
    ('a text', 'the loader gives a str'),
    (None, 'the loader gives a NoneType'),
    ({}, 'a mapping of nothing'),
    ({'tokens': X}, 'a mapping of tokens: its token ids must be named `input_ids`'),
    ({'input_ids': X.tolist()}, 'token ids as a list of 6: they must be a tensor'),
    ({'input_ids': X.T, 'position_ids': X.T}, '`position_ids`, which nothing reads: remove it'),
    ({'input_ids': X.T, 'special_tokens_mask': X.T}, 'special tokens as no_mask_tokens'),
    ({'input_ids': X.T, 'token_type_ids': X.T}, r'`token_type_ids`[)] other than 0'),
    ({'input_ids': X.T, 'attention_mask': X.T}, 'a `attention_mask` of type torch.int64 that is not 0 or 1$'),
    ({'input_ids': X.T, 'labels': X.T + 15}, 'labels from 16 to 34'),
    ({'input_ids': X.T, 'labels': X.T.float()}, 'labels of type torch.float32'),
    (Batch(X, document_ids=X.float()), 'document_ids of type torch.float32')])
def test_anything_else_is_refused(batch, message):
    with pytest.raises(UserError, match=message):
        make()(batch)


def test_the_other_order_of_shorter_batches_is_known_by_the_batch_size():
    x = tokens(5, 4)
    with pytest.raises(UserError, match=r'shape \[4, 5\], where seq_len=6 and batch_size=4 or 7: if that'):
        make(batch_sizes={4, 7})(x.T)
    with pytest.raises(UserError, match=r'shape \[5, 4\], where .*if that is .seq_len.*use batch_first=false'):
        make(batch_sizes={4}, batch_first=True)(x)
    assert_same(make(batch_sizes={4})(x), x)
    assert_same(make(batch_sizes={4}, batch_first=True)(x.T), x)
    assert_same(make(batch_sizes={4})(Batch(x.T, batch_first=True)), x)
    # What says nothing about the order
    for shape in (4, 4), (3, 5), (5, 3):
        x = tokens(*shape)
        assert_same(make(batch_sizes={4})(x), x)


def test_a_mask_without_padding_is_not_attended_to():
    x, mask = tokens(), padding(tokens())
    assert make()((x, torch.zeros_like(x))).key_padding is None
    assert make()({'input_ids': x.T, 'attention_mask': torch.ones_like(x.T)}).key_padding is None
    assert torch.equal(make()((x, mask)).key_padding, mask)
    # As the whole batch has padding, at each rank
    assert torch.equal(make()((x, mask)).map(lambda part: part[:, 2:])._replace(
        columns=Columns(2, 4), n_global_tokens=22).key_padding, mask[:, 2:])


def test_segments_of_hugging_face_reach_models_that_have_some():
    types = torch.zeros_like(X.T)
    types[:, 3:] = 1
    mask = torch.ones_like(X.T)
    mask[0, -1] = 0
    batch = make(n_segments=2)({'input_ids': X.T, 'token_type_ids': types, 'attention_mask': mask})
    # Those of padding do not matter
    assert batch.segment_ids.T.equal(types * mask)
    with pytest.raises(UserError, match='segment ids from 0 to 2: they must be from 0 to 1, as transformer.n_segments'):
        make(n_segments=2)({'input_ids': X.T, 'token_type_ids': 2 * types})
