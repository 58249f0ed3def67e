import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.tokenization.token_file import TokenFile, TokenFileWriter


@given(st.lists(st.tuples(st.lists(st.integers(0, 299), max_size=9), st.booleans()), min_size=1, max_size=9),
       st.sampled_from([200, 256, 257, 65536, 65537]), st.booleans(), st.lists(st.integers(0, 90), max_size=9))
def test_read_returns_what_was_written(tmp_path_factory, documents, n_tokens, is_cut, cuts):
    folder = tmp_path_factory.mktemp('tokens')
    writer = TokenFileWriter(folder, n_tokens=n_tokens)
    assert np.iinfo(writer.dtype).max >= n_tokens - 1
    documents = [([token % n_tokens for token in document], is_valid) for document, is_valid in documents]
    tokens = np.array([token for document, _ in documents for token in document], np.int32)
    ends = np.cumsum([len(document) for document, _ in documents])
    # Cut anywhere; what ends there is in the first part
    n_ended, begin = 0, 0
    for end in sorted({*(cut for cut in cuts if cut < len(tokens)), len(tokens)}):
        n_more = int((ends <= end).sum()) - n_ended
        is_valid = [is_valid for _, is_valid in documents[n_ended:n_ended + n_more + 1]]
        is_valid += [False] * (end == len(tokens))
        writer.add(tokens[begin:end], ends=ends[n_ended:n_ended + n_more] - begin, is_valid=np.array(is_valid))
        n_ended, begin = n_ended + n_more, end
    writer.finish(folder / 'x.tokens', about={'mine': 1}, valid_fraction=0.25 if is_cut else None)
    read = TokenFile(folder / 'x.tokens')
    assert read.about == {'mine': 1} and read.train.dtype == writer.dtype
    train, valid = ([token for document, is_valid in documents if is_valid == part for token in document]
                    for part in (False, True))
    if is_cut and not any(is_valid for _, is_valid in documents):
        train, valid = train[:int(len(train) * 0.75)], train[int(len(train) * 0.75):]
    assert read.train.tolist() == train and read.valid.tolist() == valid
    if any(is_valid for _, is_valid in documents):
        for ends, part in ((read.train_ends, False), (read.valid_ends, True)):
            lengths = [len(document) for document, is_valid in documents if is_valid == part]
            assert ends.tolist() == np.cumsum(lengths, dtype=int).tolist()
    else:
        assert read.train_ends[-1] == len(train) and (np.diff(read.train_ends) >= 0).all()
    assert os.listdir(folder) == ['x.tokens']
