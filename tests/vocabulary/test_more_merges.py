import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.vocabulary.more_merges import more_merges

LETTERS = ['a', 'b', 'c', 'ab', 'bca']
word_counts = st.dictionaries(st.lists(st.integers(0, 4), min_size=1, max_size=12).map(tuple), st.integers(1, 5),
                              max_size=12)


def slow_merges(words, n):
    """A slow twin: counts all pairs each time. Returns names, merges, and each word as it is cut in the end."""
    names, merges, cuts = list(LETTERS), [], {word: word for word in words}
    while len(merges) < n:
        pairs = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(cuts[word]):
                pairs[pair] += count
        allowed = [pair for pair, count in pairs.items() if count > 1 and names[pair[0]] + names[pair[1]] not in names]
        if not allowed:
            break
        pair = min(allowed, key=lambda pair: (-pairs[pair], pair))
        for word, cut in cuts.items():
            new = []
            while cut:
                is_pair = cut[:2] == pair
                new.append(len(names) if is_pair else cut[0])
                cut = cut[1 + is_pair:]
            cuts[word] = tuple(new)
        merges.append((names[pair[0]], names[pair[1]]))
        names.append(''.join(merges[-1]))
    return names[len(LETTERS):], merges, cuts


@given(word_counts, st.integers(0, 8))
def test_merges_are_those_of_counting_all_pairs_each_time(words, n):
    found = more_merges(list(words), list(words.values()), names=LETTERS, n=n)
    names, merges, cuts = slow_merges(words, n)
    assert found.names == names and found.merges == merges
    assert found.lengths == [len(cuts[word]) for word in words]
    assert all(''.join(LETTERS[i] for i in pieces) == name for name, pieces in zip(names, found.pieces, strict=True))


def test_runs_of_one_letter_are_merged_from_the_left():
    found = more_merges([[0] * 5], [3], names=['a'], n=1)
    assert found.names == ['aa'] and found.lengths == [3]
    # `aa aa a`, where the first pair has the smaller ids
    assert more_merges([[0] * 5], [3], names=['a'], n=2).merges[1] == ('aa', 'a')


def test_a_token_is_never_added_twice():
    # a+bc and ab+c would both be `abc`
    found = more_merges([[0, 1], [2, 3]], [5, 4], names=['a', 'bc', 'ab', 'c'], n=5)
    assert found.names == ['abc'] and found.lengths == [1, 2]
    assert more_merges([[0, 1]], [5], names=['a', 'b', 'ab'], n=5).names == []


def test_prefix_is_only_in_front():
    found = more_merges([[0, 1, 2], [1, 2]], [2, 2], names=['a', '##b', '##c'], prefix='##', n=2)
    assert found.names == ['##bc', 'abc'] and found.merges == [('##b', '##c'), ('a', '##bc')]
    assert found.pieces == [[1, 2], [0, 1, 2]] and found.lengths == [1, 1]


def test_tokens_have_32_characters_at_most():
    names = more_merges([[0] * 100], [2], names=['a'], n=50).names
    assert max(map(len, names)) == 32
