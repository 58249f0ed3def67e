"""Attention over packed documents: by a kernel that knows of documents, as by a mask."""
import pytest
import torch
from support.gpu import no_waiting
from torch.nn.attention.flex_attention import create_mask

from labml_mlm import MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.model.bert import BERTConfigs
from labml_mlm.model.modernbert import ModernBERTConfigs
from labml_mlm.model.packed import DocumentMask, use_document_mask

N_TOKENS, PAD = 40, 0


def make_model(class_=MLMTransformerConfigs, **values):
    conf = class_()
    conf._set_values({'n_src_vocab': N_TOKENS, 'n_tgt_vocab': N_TOKENS, 'd_model': 64, 'n_heads': 2, 'n_layers': 2,
                      **values})
    return conf.transformer_mlm


def documents(seq_len, batch_size=3, *, seed=0):
    """Numbers of documents in a row, and 0 at the padding at the end, `[seq_len, batch_size]` each."""
    generator = torch.Generator().manual_seed(seed)
    begins = torch.rand(seq_len, batch_size, generator=generator) < 8 / seq_len
    ids = begins.cumsum(dim=0) + 1
    n_padded = torch.randint(0, seq_len // 3, (batch_size,), generator=generator)
    is_padding = torch.arange(seq_len)[:, None] >= seq_len - n_padded
    return ids.masked_fill(is_padding, 0), is_padding


def visible(document_ids, padding_mask, window):
    """Which position attends to which, one by one, `[batch_size, seq_len, seq_len]`."""
    n, batch_size = document_ids.shape
    return torch.tensor([[[document_ids[i, b] == document_ids[j, b] and padding_mask[i, b] == padding_mask[j, b]
                           and (window is None or abs(i - j) <= window) for j in range(n)] for i in range(n)]
                         for b in range(batch_size)])


@pytest.mark.parametrize('window', [None, 5])
def test_the_condition_is_that_of_documents_padding_and_window(window):
    document_ids, padding_mask = documents(24)
    # Padding with the number of the document before it
    document_ids[-2:], padding_mask[-2:] = document_ids[-3], True
    mask = DocumentMask(document_ids, padding_mask)
    expected = visible(document_ids, padding_mask, window)
    found = create_mask(mask.block_mask(window).mask_mod, 3, None, 24, 24, 'cpu')
    assert torch.equal(found[:, 0], expected)
    positions = torch.rand(24, 3, generator=torch.Generator().manual_seed(1)).argsort(dim=0)[:7]
    found = create_mask(mask.at(positions).block_mask(window).mask_mod, 3, None, 7, 24, 'cpu')
    assert torch.equal(found[:, 0], torch.stack([expected[b, positions[:, b]] for b in range(3)]))


@pytest.mark.parametrize('window', [None, 64, 200])
@pytest.mark.parametrize('seq_len', [100, 128, 512, 700])
def test_no_block_is_left_out_in_which_a_position_attends_to_another(seq_len, window):
    """And those without a condition have none that does not."""
    document_ids, padding_mask = documents(seq_len, seed=seq_len)
    # The first sequence is a single document
    document_ids[:, 0], padding_mask[:, 0] = 1, False
    mask = DocumentMask(document_ids, padding_mask)
    n_left_out = n_whole = 0
    for n, one in ((seq_len, mask), (90, mask.at(torch.rand(seq_len, 3).argsort(dim=0)[:90]))):
        block_mask = one.block_mask(window)
        n_blocks = -(-n // 128), -(-seq_len // 128)
        exact = create_mask(block_mask.mask_mod, 3, None, n, seq_len, 'cpu')[:, 0]
        for b in range(3):
            for i in range(n_blocks[0]):
                some, every = (set(indices[b, 0, i, :numbers[b, 0, i]].tolist()) for numbers, indices in (
                    (block_mask.kv_num_blocks, block_mask.kv_indices),
                    (block_mask.full_kv_num_blocks, block_mask.full_kv_indices)))
                assert not some & every
                for j in range(n_blocks[1]):
                    block = exact[b, 128 * i:128 * (i + 1), 128 * j:128 * (j + 1)]
                    assert j in some | every or not block.any()
                    assert j not in every or block.all() and block.shape == (128, 128)
                n_left_out += n_blocks[1] - len(some | every)
                n_whole += len(every)
    # A window on either side of 64 positions is no wider than a block
    assert (n_whole > 0) == (seq_len >= 128 and window != 64)
    assert n_left_out > 0 or seq_len <= 128


MODELS = {
    'rotary': (MLMTransformerConfigs, {}),
    'sdpa': (MLMTransformerConfigs, {'encoder_attn': 'sdpa'}),
    'bert': (BERTConfigs, {'dropout': 0., 'attn_dropout': 0.}),
    'modernbert': (ModernBERTConfigs, {'n_layers': 4, 'local_attention': 16}),
}


@pytest.mark.parametrize('class_, values', MODELS.values(), ids=MODELS)
def test_forward_equals_that_with_a_mask(class_, values):
    """Without gradients, which take a GPU; `tests/gpu` has them."""
    model = make_model(class_, **values).eval()
    document_ids, padding_mask = documents(150)
    x = torch.randint(5, N_TOKENS, document_ids.shape, generator=torch.Generator().manual_seed(1))
    labels = x.where((torch.arange(150) % 6 == 1)[:, None] & ~padding_mask, PAD)
    with torch.no_grad():
        masked = model(x, labels, padding_mask=padding_mask, document_ids=document_ids)
        states = model.encode(x, padding_mask, document_ids)
        use_document_mask(model, DocumentMask)
        output = model(x, labels, padding_mask=padding_mask, document_ids=document_ids)
        close = {'rtol': 1e-5, 'atol': 1e-5}
        torch.testing.assert_close(model.encode(x, padding_mask, document_ids)[~padding_mask], states[~padding_mask],
                                   **close)
    assert output.n_masked == masked.n_masked > 50
    torch.testing.assert_close(output.loss, masked.loss, **close)


def test_the_blocks_are_found_without_waiting():
    mask = DocumentMask(*documents(300))
    with no_waiting(torch.device('cpu')):
        mask.at(torch.arange(50)[:, None].expand(-1, 3)).block_mask(window=20)


def test_without_documents_nothing_changes():
    model = make_model().eval()
    x = torch.randint(5, N_TOKENS, (20, 3), generator=torch.Generator().manual_seed(1))
    before = model.predict(x)
    use_document_mask(model, DocumentMask)
    assert torch.equal(model.predict(x), before)


@pytest.mark.parametrize('values, message', [
    ({'encoder_attn': 'mha'}, r"it is for this package's attention \(sdpa, sdpa_rotary\), not for MultiHeadAttention"),
    ({'encoder_attn': 'relative'}, 'not for RelativeMultiHeadAttention'),
    ({'dropout': 0.1}, 'it has no dropout of attention weights, and that is 0.1'),
    ({'n_heads': 8}, 'heads must have at least 16 features, and these have 8')])
def test_what_it_cannot_do_is_refused(values, message):
    model = make_model(**values)
    with pytest.raises(UserError, match=f'packed_attention=flex: .*{message}.*Use packed_attention=masked'):
        use_document_mask(model, DocumentMask)
    assert model.document_mask is None
    use_document_mask(model, None)
