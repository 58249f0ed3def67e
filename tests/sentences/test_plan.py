"""The pairs of an epoch."""
import numpy as np
import pytest

from labml_mlm.sentences.pairs import find_sentences
from labml_mlm.sentences.plan import cut_chunks, make_plan

LENGTH = 60


def make_ends(sizes, *, mean=9, seed=0):
    """Ends of sentences of random lengths, in documents of so many, with empty ones behind these."""
    rng = np.random.default_rng(seed)
    return np.cumsum(np.concatenate([np.append(1 + rng.poisson(mean, n), 0) for n in sizes]))


def sentences_of(sizes, **how):
    return find_sentences(make_ends(sizes, **how), length=LENGTH)


MANY = np.random.default_rng(1).integers(2, 40, 120)


def document_of(sentences, tokens):
    """The document of each token."""
    return np.searchsorted(sentences.ends[sentences.lasts - 1], tokens, 'right')


def usage(sentences, plan):
    """How often each token comes."""
    n = np.zeros(sentences.ends[-1] + 1)
    for begins, lengths in (plan[:2], plan[2:4]):
        np.add.at(n, begins, 1)
        np.add.at(n, begins + lengths, -1)
    return n.cumsum()[:-1]


def test_second_span_is_the_next_one_or_of_another_document():
    sentences = sentences_of(MANY)
    for seed in range(5):
        begins, lengths, second_begins, second_lengths, labels = make_plan(sentences, 'nsp', length=LENGTH, seed=seed)
        first, second = (document_of(sentences, b) for b in (begins, second_begins))
        assert (first == document_of(sentences, begins + lengths - 1)).all()
        assert (second == document_of(sentences, second_begins + second_lengths - 1)).all()
        assert ((first != second) == (labels == 1)).all()
        assert (lengths > 0).all() and (second_lengths > 0).all() and (lengths + second_lengths <= LENGTH).all()
        is_next, is_whole = labels == 0, lengths + second_lengths < LENGTH
        assert (second_begins >= begins + lengths)[is_next].all()
        # What fits is not cut: the second begins where the first ends
        assert (second_begins == begins + lengths)[is_next & is_whole].all()
        assert np.isin((begins + lengths)[is_whole], sentences.ends).all()
        assert np.isin(second_begins[is_whole], [0, *sentences.ends]).all()


@pytest.mark.parametrize('kind', ['nsp', 'sop'])
def test_half_of_the_pairs_are_true(kind):
    sentences = sentences_of(MANY)
    labels = np.concatenate([make_plan(sentences, kind, length=LENGTH, seed=seed).labels for seed in range(10)])
    # Four standard deviations
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / len(labels) ** 0.5
    # In all parts of the text
    for part in np.array_split(np.stack([make_plan(sentences, kind, length=LENGTH, seed=seed).labels[:300]
                                         for seed in range(20)], axis=1), 6):
        assert abs(part.mean() - 0.5) < 4 * 0.5 / part.size ** 0.5


@pytest.mark.parametrize('kind', ['nsp', 'sop'])
def test_every_sentence_comes_about_equally_often(kind):
    sentences = sentences_of(MANY)
    n_epochs = 40
    plans = [make_plan(sentences, kind, length=LENGTH, seed=seed) for seed in range(n_epochs)]
    n = sum(usage(sentences, plan) for plan in plans) / n_epochs
    # Once an epoch, but for what is cut, and for what fills a second span
    of_sentence = np.add.reduceat(n, sentences.begins) / np.diff(sentences.ends, prepend=0)
    assert 0.85 < n.mean() < 1
    assert of_sentence.min() > 0.3 and of_sentence.max() < 1.4
    assert np.quantile(of_sentence, 0.01) > 0.6 and np.quantile(of_sentence, 0.99) < 1.2
    # In any one epoch, too: no token in more than the span that it is of, and one that it fills
    assert all(usage(sentences, plan).max() <= 3 for plan in plans)


def test_sop_swaps_the_spans_of_a_chunk():
    sentences = sentences_of(MANY)
    begins, lengths, second_begins, second_lengths, labels = make_plan(sentences, 'sop', length=LENGTH, seed=3)
    assert (document_of(sentences, begins) == document_of(sentences, second_begins)).all()
    assert ((second_begins < begins) == (labels == 1)).all()


def test_epochs_differ_and_seeds_repeat():
    sentences = sentences_of(MANY)
    one, same, other = (make_plan(sentences, 'nsp', length=LENGTH, seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert len(one.labels) != len(other.labels) or (one.first_lengths != other.first_lengths).any()


def test_chunks_are_whole_sentences_and_one_in_ten_is_shorter():
    sentences = sentences_of([4000])
    chunks = cut_chunks(sentences, length=LENGTH, rng=np.random.default_rng(0))
    # All of the document, in order
    assert (chunks.first[1:] == chunks.last[:-1]).all()
    assert (chunks.first[0], chunks.last[-1]) == (0, 4000)
    assert (chunks.last - chunks.first >= 2).all()
    is_short = chunks.target < LENGTH
    assert abs(is_short.mean() - 0.1) < 4 * (0.09 / len(is_short)) ** 0.5
    lengths = sentences.ends[chunks.last - 1] - sentences.begins[chunks.first]
    assert (lengths[:-1] >= chunks.target[:-1]).all()
    # And no more than it takes
    has_two = chunks.last - chunks.first == 2
    assert (has_two | (sentences.ends[chunks.last - 2] - sentences.begins[chunks.first] < chunks.target))[:-2].all()


def test_too_long_pairs_are_cut_from_the_longer_span_at_both_ends():
    # Three sentences of 30 tokens a document: spans of 30 and 60, for 60 tokens
    sentences = find_sentences(np.cumsum([30, 30, 30, 0] * 400), length=60)
    plan = make_plan(sentences, 'sop', length=60, seed=0)
    is_full = np.minimum(plan.first_lengths, plan.second_lengths) == 30
    assert is_full.mean() > 0.8
    for begins, lengths in (plan[:2], plan[2:4]):
        # Within the document, `[n]`
        at = begins % 90
        cut = is_full & (lengths == 30) & (at % 30 != 0)
        # Binomial, of 30 tokens
        in_front = at[cut] % 30
        assert cut.sum() > 20 and abs(in_front.mean() - 15) < 4 * 30 ** 0.5 / 2 / cut.sum() ** 0.5


def test_long_sentences_are_several():
    sentences = find_sentences(np.array([10, 110, 110, 113, 113]), length=60)
    assert sentences.ends.tolist() == [10, 35, 60, 85, 110, 113]
    assert (sentences.firsts.tolist(), sentences.lasts.tolist()) == ([0, 5], [5, 6])
    # Alone, if they do not fit
    assert find_sentences(np.array([60, 60, 70, 131, 131, 192, 192]), length=60).ends.tolist() == \
        [60, 70, 90, 110, 131, 151, 171, 192]


def test_documents_of_one_sentence_are_in_no_pair():
    sizes = [1, 5, 1, 1, 7, 30, 1]
    sentences = sentences_of(sizes, mean=4)
    for seed in range(10):
        plan = make_plan(sentences, 'nsp', length=LENGTH, seed=seed)
        n = np.add.reduceat(usage(sentences, plan), np.concatenate([[0], sentences.ends[sentences.lasts - 1][:-1]]))
        assert ((n > 0) == (np.array(sizes) > 1)).all()


def test_document_that_is_most_of_the_text_has_random_spans_of_the_others():
    sentences = sentences_of([2000, 20, 20, 20])
    plan = make_plan(sentences, 'nsp', length=LENGTH, seed=0)
    first, second = (document_of(sentences, begins) for begins in (plan.first_begins, plan.second_begins))
    assert abs(plan.labels.mean() - 0.5) < 0.01
    assert (first != second)[plan.labels == 1].all()
    # Each of the others, and not only one of them
    assert {1, 2, 3} <= set(second[(plan.labels == 1) & (first == 0)].tolist())


def test_lengths_do_not_tell_the_label():
    sentences = sentences_of(np.random.default_rng(2).integers(20, 90, 400))
    plan = make_plan(sentences, 'nsp', length=LENGTH, seed=0)
    for values in (plan.first_lengths, plan.second_lengths, plan.first_lengths + plan.second_lengths):
        true, other = values[plan.labels == 0], values[plan.labels == 1]
        spread = (true.var() / len(true) + other.var() / len(other)) ** 0.5
        assert abs(true.mean() - other.mean()) < max(4 * spread, 1)
