import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.data import documents
from labml_mlm.data.corpus import scan
from labml_mlm.data.documents import TextIterable

texts = st.lists(st.text(max_size=30), min_size=1, max_size=8)


@pytest.mark.parametrize('chunk', [1, 5, 1 << 22])
@given(texts)
def test_scan_finds_counts_characters_and_hash(chunk, docs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, '_CHUNK', chunk)
        corpus, is_valid = scan(TextIterable(docs), valid_fraction=0.1)
    assert corpus.n_documents == len(is_valid) == len(docs)
    assert corpus.n_characters == sum(map(len, docs))
    assert corpus.characters == ''.join(sorted(set(''.join(docs))))
    hashes = [hashlib.sha256(doc.encode('utf-8', 'surrogatepass')) for doc in docs]
    combined = hashlib.sha256(b''.join(one.digest() for one in hashes))
    assert corpus.sha256 == (hashes[0] if len(docs) == 1 else combined).hexdigest()


@given(texts)
def test_no_document_is_for_validation_without_a_fraction(docs):
    _, is_valid = scan(TextIterable(docs), valid_fraction=None)
    assert len(is_valid) == len(docs) and not is_valid.any()


@given(texts, st.floats(0, 1))
def test_neither_side_of_the_split_is_empty(docs, fraction):
    _, is_valid = scan(TextIterable(docs), valid_fraction=fraction)
    if len(set(docs)) > 1:
        assert is_valid.any() and not is_valid.all()
    else:
        assert not is_valid.any()
    # Copies are on the same side
    assert len({(doc, side) for doc, side in zip(docs, is_valid.tolist(), strict=True)}) == len(set(docs))


def test_a_document_stays_on_its_side_of_the_split():
    """Whatever the other documents, except for one or two that keep a side from being empty."""
    docs = [f'document {i}' for i in range(3000)]
    _, in_all = scan(TextIterable(docs), valid_fraction=0.1)
    assert in_all.mean() == pytest.approx(0.1, abs=0.02)
    _, in_some = scan(TextIterable(docs[1000:2000][::-1]), valid_fraction=0.1)
    assert (in_some[::-1] != in_all[1000:2000]).sum() <= 2
    # A larger fraction contains the documents of a smaller one
    _, larger = scan(TextIterable(docs), valid_fraction=0.3)
    assert (larger | in_all == larger).sum() >= 2999
    assert np.asarray(larger).mean() == pytest.approx(0.3, abs=0.03)
