from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.data.chunks import split_chunks

sentences = st.lists(st.sampled_from(['The', 'quick', "fox's", "isn't", ' ', '  ', '\n', '\n\n', ' \n ', '\t', '你',
                                      '.', ',', 'zebra', '<br />', '\u3000', 'é'])).map(''.join)


@given(st.lists(st.lists(sentences, min_size=1, max_size=4), max_size=4), st.integers(1, 20))
def test_chunks_add_up_to_the_documents(documents, size):
    pieces = [(piece, i == len(document) - 1) for document in documents for i, piece in enumerate(document)]
    found, text = [], ''
    for chunk, is_last in split_chunks(pieces, size):
        text += chunk
        if is_last:
            found, text = [*found, text], ''
    assert found == [''.join(document) for document in documents]


def test_chunks_have_at_most_the_size():
    pieces = [('some words\n' * 100, False), ('and more\n' * 100, True)]
    lengths = [len(chunk) for chunk, _ in split_chunks(pieces, 50)]
    assert max(lengths) <= 50 and len(lengths) < 60


def test_very_long_lines_are_cut_at_spaces_or_between_graphemes():
    words = 'word  ' * 30_000
    chunks = [chunk for chunk, _ in split_chunks([(words[:100_000], False), (words[100_000:], True)], 1000)]
    assert ''.join(chunks) == words
    assert max(map(len, chunks)) <= 65_520
    assert all(chunk.startswith('  word') and chunk.endswith('word') for chunk in chunks[1:-1])
    for cluster in 'ACGTA', 'e\u0301', '👨\u200d👩\u200d👧', 'ක්\u200dෂ':
        text = cluster * 50_000
        chunks = [chunk for chunk, _ in split_chunks([(text, True)], 1000)]
        assert chunks == [chunk for chunk, _ in split_chunks([(text, True)], 1 << 22)]
        assert ''.join(chunks) == text
        assert max(map(len, chunks)) <= 65_520 and len(chunks) == -(-len(text) // 65_520)
        assert all(len(chunk) % len(cluster) == 0 for chunk in chunks)


def test_tokens_of_one_length_go_on_after_a_cut():
    text = '>name\n' + 'ACGTAC' * 50_000
    chunks = [chunk.lstrip('\n') for chunk, _ in split_chunks([(text, True)])]
    assert chunks[0] == '>name' and all(len(chunk) % 6 == 0 for chunk in chunks[1:])


def test_millions_of_blank_lines_take_linear_time():
    """Quadratic time would be hours here."""
    text = 'one\n' + '\n' * 3_000_000 + 'two\n' + ' \n' * 100_000
    chunks = [chunk for chunk, _ in split_chunks([(text, True)], 1000)]
    assert ''.join(chunks) == text
