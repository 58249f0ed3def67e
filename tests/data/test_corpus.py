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
def test_what_is_known_of_a_text(chunk, docs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, '_CHUNK', chunk)
        corpus, is_valid = scan(TextIterable(docs), valid_fraction=0.1)
    assert corpus.n_documents == len(is_valid) == len(docs)
    assert corpus.n_characters == sum(map(len, docs))
    assert corpus.characters == ''.join(sorted(set(''.join(docs))))
    hashes = [hashlib.sha256(doc.encode('utf-8', 'surrogatepass')) for doc in docs]
    of_all = hashlib.sha256(b''.join(one.digest() for one in hashes))
    assert corpus.sha256 == (hashes[0] if len(docs) == 1 else of_all).hexdigest()


@given(texts)
def test_none_is_for_validation(docs):
    _, is_valid = scan(TextIterable(docs), valid_fraction=None)
    assert len(is_valid) == len(docs) and not is_valid.any()


@given(texts, st.floats(0, 1))
def test_neither_side_is_empty(docs, share):
    _, is_valid = scan(TextIterable(docs), valid_fraction=share)
    if len(set(docs)) > 1:
        assert is_valid.any() and not is_valid.all()
    else:
        assert not is_valid.any()
    # Copies are on one side
    assert len({(doc, side) for doc, side in zip(docs, is_valid.tolist(), strict=True)}) == len(set(docs))


def test_a_document_stays_on_its_side():
    """Whatever else there is, but for the one or two that keep a side from being empty."""
    docs = [f'document {i}' for i in range(3000)]
    _, all_of_them = scan(TextIterable(docs), valid_fraction=0.1)
    assert all_of_them.mean() == pytest.approx(0.1, abs=0.02)
    _, some = scan(TextIterable(docs[1000:2000][::-1]), valid_fraction=0.1)
    assert (some[::-1] != all_of_them[1000:2000]).sum() <= 2
    # A larger share has those of a smaller one
    _, more = scan(TextIterable(docs), valid_fraction=0.3)
    assert (more | all_of_them == more).sum() >= 2999
    assert np.asarray(more).mean() == pytest.approx(0.3, abs=0.03)
