from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.vocabulary.more_word_pieces import more_word_pieces

LETTERS = [prefix + letter for prefix in ('', '##') for letter in 'abcdxyz']
word_counts = st.dictionaries(st.text('abc', min_size=1, max_size=9), st.integers(1, 6), min_size=1, max_size=10)


def slow_cut(word, entries):
    """What WordPiece cuts a word into; nothing if it cannot."""
    cut, begin = [], 0
    while begin < len(word):
        ends = [end for end in range(begin + 1, len(word) + 1) if ('##' if begin else '') + word[begin:end] in entries]
        if not ends:
            return []
        cut.append(('##' if begin else '') + word[begin:max(ends)])
        begin = max(ends)
    return cut


def extended(words, names, *, n):
    return more_word_pieces([[names.index(piece) for piece in slow_cut(word, names)] for word in words],
                            list(words.values()), names=names, prefix='##', n=n)


@given(word_counts, st.integers(1, 6))
def test_words_are_cut_as_wordpiece_does(words, n):
    names = [*LETTERS, 'ab', '##bc', '##ca']
    found = extended(words, names, n=n)
    assert found.lengths == [len(slow_cut(word, [*names, *found.names])) for word in words]
    assert not set(found.names) & set(names) and len(set(found.names)) == len(found.names) <= n
    for name, pieces in zip(found.names, found.pieces, strict=True):
        first, *rest = (names[piece] for piece in pieces)
        assert first + ''.join(piece.removeprefix('##') for piece in rest) == name and rest


@given(word_counts, st.integers(1, 4))
def test_each_entry_saves_tokens(words, n):
    found = extended(words, LETTERS, n=n)
    totals = [sum(count * len(slow_cut(word, [*LETTERS, *found.names[:i]])) for word, count in words.items())
              for i in range(len(found.names) + 1)]
    assert totals == sorted(set(totals), reverse=True)


@pytest.mark.parametrize('seed', range(5))
def test_saves_about_as_much_as_trying_everything_each_time(seed):
    # Words that have parts in common
    words = Counter()
    for i in range(60):
        number = (i + 7 * seed) * 7919 % 1000
        first, middle, last = 'abc'[number % 3], ('bca', 'dab', 'xyz', 'cc')[number // 3 % 4], number // 12 % 4
        words[first + middle + ('', 'ab', 'da', 'zzy')[last]] += 1
    candidates = Counter()
    for word, count in words.items():
        for begin in range(len(word)):
            for end in range(begin + 2, len(word) + 1):
                candidates[('##' if begin else '') + word[begin:end]] += count

    def n_tokens(names):
        return sum(count * len(slow_cut(word, names)) for word, count in words.items())

    best = set(LETTERS)
    for _ in range(6):
        best = min((best | {name} for name in sorted(candidates) if candidates[name] > 1), key=n_tokens)
    ours = {*LETTERS, *extended(words, LETTERS, n=6).names}
    assert n_tokens(LETTERS) - n_tokens(ours) >= 0.95 * (n_tokens(LETTERS) - n_tokens(best)) > 0


def test_parts_of_words_come_first_where_they_save_more():
    found = extended({'xabcd': 5, 'yabcd': 5, 'zabcd': 5}, LETTERS, n=1)
    assert found.names == ['##abcd'] and found.lengths == [2, 2, 2] and len(found.pieces[0]) == 4
    assert extended({'xabcd': 5, 'yabcd': 1}, LETTERS, n=1).names == ['xabcd']


def test_no_word_becomes_unknown():
    # `ab` would be taken from `abc`, and its rest is no entry
    found = extended({'ab': 5, 'abc': 5}, ['a', '##b', '##bc'], n=5)
    assert found.names == ['abc', 'ab'] and found.lengths == [1, 1]
    assert extended({'ab': 5, 'abcx': 5}, ['a', '##b', '##bc', '##x'], n=1).names == ['abcx']
    assert extended({'ab': 5, 'abc': 1, 'abcc': 1}, ['a', '##b', '##bc', '##bcc'], n=5).names == []


def test_what_makes_other_words_longer_is_left_out():
    # With `ab`, `abcd` is `ab ##c ##d`
    names = ['a', '##b', '##c', '##d', '##bcd']
    assert extended({'ab': 5, 'abcd': 6}, names, n=5).names == ['abcd', 'ab']
    assert extended({'ab': 5, 'abcdx': 1, 'abcdy': 6}, [*names, '##x', '##y'], n=1).names == ['abcdy']


def test_nothing_is_added_for_what_occurs_once():
    assert extended({'abcd': 1, 'xyz': 1}, LETTERS, n=5).names == []
    assert extended({'abcd': 1, 'xyzabcd': 1, 'yabcd': 1}, LETTERS, n=5).names == ['##abcd']


def test_without_a_prefix():
    found = more_word_pieces([[0, 1, 2, 3], [3, 0, 1, 2]], [5, 5], names=list('abcd'), n=1)
    assert found.names == ['abc'] and found.pieces == [[0, 1, 2]] and found.lengths == [2, 2]


def test_parts_that_begin_no_word_stay():
    # Of a word that was too long to be counted as one
    names = ['a', '##b', '##c']
    found = more_word_pieces([[1, 2], [0, 1, 2]], [50, 2], names=names, prefix='##', n=5)
    assert found.names == ['abc'] and found.lengths == [2, 1]
