"""Special tokens around sequences, in windows, packed documents and batches."""
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch, Template
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.packing import PackedDocuments, Windows
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo

SEP = 903
templates = st.builds(Template, st.sampled_from([(), (902,), (902, 901)]), st.sampled_from([(), (SEP,), (SEP, 904)]))


def ranks_of(size):
    return [Ranks(RankInfo(rank, size, rank, None)) for rank in range(size)]


def without(template, sequence):
    """The text of a sequence, with the template around it."""
    n, end = len(template.before), len(sequence) - len(template.after)
    assert tuple(sequence[:n]) == template.before and tuple(sequence[end:]) == template.after
    return sequence[n:end]


@given(templates, st.integers(1, 9), st.integers(1, 5), st.integers(0, 60))
def test_windows_have_the_text_in_order_with_the_template_around_each(template, length, batch_size, extra):
    tokens = np.arange(length + extra, dtype=np.uint8)
    seq_len = length + template.length
    found, n_tokens = [], 0
    for batch in ValidLoader(Windows(tokens, seq_len=seq_len, template=template), batch_size=batch_size):
        assert isinstance(batch, Batch) == bool(template.length)
        batch = batch if isinstance(batch, Batch) else Batch(batch)
        assert batch.tokens.dtype == torch.long and len(batch.tokens) == seq_len
        n_tokens += batch.n_tokens
        for window in batch.tokens.T.tolist():
            found += without(template, window)
    assert found == list(range(len(tokens) // length * length)) and n_tokens == len(found)


@st.composite
def documents(draw):
    """Tokens of documents, some of which end in `SEP` and some of which are empty, and their ends."""
    lengths = draw(st.lists(st.integers(0, 30), min_size=1, max_size=20))
    texts, token = [], 1
    for length in lengths:
        texts.append([*range(token, token + length), *[SEP] * draw(st.booleans())])
        token += length
    return texts, np.array(sum(texts, []), np.int32), np.cumsum([len(text) for text in texts], dtype=np.int64)


@given(documents(), templates, st.integers(1, 9), st.integers(1, 5))
def test_packed_documents_have_the_template_around_each_and_no_doubled_separator(found, template, length, batch_size):
    texts, tokens, ends = found
    seq_len = length + template.length
    windows = PackedDocuments(tokens, ends, seq_len=seq_len, padding_token=0, template=template)
    if template.after:
        texts = [[token for token in text if token != SEP] for text in texts]
    seen, numbers = [], np.arange(len(windows))
    for begin in range(0, len(windows), batch_size):
        of_batch = numbers[begin:begin + batch_size]
        batch = windows.batch(of_batch)
        assert torch.equal(batch.padding_mask, batch.document_ids == 0)
        parts = []
        for window, document_ids in zip(batch.tokens.T, batch.document_ids.T, strict=True):
            n = int((document_ids > 0).sum())
            # Documents are one after the other, padding after them
            assert document_ids[:n].tolist() == sorted(document_ids[:n].tolist()) and not document_ids[n:].any()
            parts += [without(template, window[document_ids == i].tolist())
                      for i in range(1, int(document_ids.max()) + 1)]
        assert all(parts)
        assert batch.n_tokens == sum(map(len, parts)) == windows.lengths(of_batch).sum()
        assert batch.n_special_tokens == len(parts) * template.length == windows.n_special_tokens(of_batch)
        assert (batch.key_padding is None) == (not batch.padding_mask.any())
        seen += parts
    # Each part is of one document, and every token of the text is in one
    assert sorted(sum(seen, [])) == sorted(sum(texts, []))
    assert all(any(part == text[i:i + len(part)] for text in texts for i in range(len(text))) for part in seen)


@given(documents(), templates, st.integers(1, 9), st.integers(2, 3), st.sampled_from(['stream', 'documents']))
def test_ranks_count_the_tokens_of_a_single_process(found, template, length, world_size, packing):
    _, tokens, ends = found
    seq_len = length + template.length
    windows = Windows(tokens, seq_len=seq_len, template=template) if packing == 'stream' else \
        PackedDocuments(tokens, ends, seq_len=seq_len, padding_token=0, template=template)
    if len(windows) < world_size:
        return
    whole = list(TrainLoader(windows, batch_size=world_size, seed=1).batches(0))
    for number, ranks in enumerate(ranks_of(world_size)):
        shards = list(TrainLoader(windows, batch_size=world_size, seed=1, ranks=ranks).batches(0))
        for batch, shard in zip(whole, shards, strict=True):
            batch = batch if isinstance(batch, Batch) else Batch(batch)
            for one in (shard, shard.to(torch.device('cpu')), batch.shard(ranks)):
                assert (one.n_tokens, one.n_special_tokens, one.n_positions) == \
                    (batch.n_tokens, batch.n_special_tokens, batch.n_positions)
                assert (one.key_padding is None) == (batch.key_padding is None)
            assert torch.equal(shard.tokens, batch.shard(ranks).tokens), number


def test_batch_with_special_tokens_counts_the_others():
    template = Template((2,), (3,))
    batch = template.batch(torch.tensor([[7, 8], [9, 5], [6, 6]]))
    assert batch.tokens.tolist() == [[2, 2], [7, 8], [9, 5], [6, 6], [3, 3]]
    padded = batch._replace(padding_mask=batch.tokens == 6)
    for one in (batch, batch.map(torch.clone), batch.to(torch.device('cpu')),
                batch._replace(padding_mask=batch.tokens < 0)):
        assert (one.n_tokens, one.n_special_tokens, one.key_padding) == (6, 4, None)
    assert padded.n_tokens == 4 and padded.key_padding is padded.padding_mask
    with pytest.raises(UserError, match='cannot be split into shorter ones'):
        batch.split(1, keep_all=True)


@pytest.mark.parametrize('make', [
    lambda **options: Windows(np.arange(9), **options),
    lambda **options: PackedDocuments(np.arange(9), [9], padding_token=0, **options)])
def test_seq_len_without_room_for_text_is_refused(make):
    with pytest.raises(UserError, match='seq_len=2 leaves no room for text: .* take 2. Use a longer seq_len, or'):
        make(seq_len=2, template=Template((2,), (3,)))
    assert len(make(seq_len=3, template=Template((2,), (3,)))) == 9
