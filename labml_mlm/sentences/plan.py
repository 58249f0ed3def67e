r"""
# Which spans an epoch has

A *chunk* is a span of a document: whole sentences, until there are $T$ tokens ([Devlin et al.
2019](https://arxiv.org/abs/1810.04805), appendix A.2). For one chunk in ten, $T$ is not what fits into a sequence but
less, drawn anew, as texts are shorter in later use. A chunk is cut in two at one of its sentences, drawn as well.

**Next sentence prediction.** For half of the chunks the second span is the rest of the chunk. BERT gives the others one
from anywhere in the text, so that by chance some sentences come often, and others never. Here the other half exchange
their second spans, two by two: chunks $i$ and $j$, of different documents, become $A_i B_j$ and $A_j B_i$. Every
sentence comes once then. Chunk $i$ is cut anywhere, and $j$ where $B_j$ fills what $A_i$ leaves, so $B_i$ fills the
other one; if one of them is shorter than $T$, as its document ended, both are cut anywhere. Where a second span is
still too short, its document goes on, as in BERT.

Which two: with the chunks in order of documents, documents in random order, each of the first half goes with the one
half of them further on. No two are of one document then, unless one document has more than half of them. Of that one,
those that are left take a second span from any other document, which comes more than once then.

**Sentence order prediction** ([Lan et al. 2020](https://arxiv.org/abs/1909.11942), section 3.1). All have their own
second spans, and half of the time the two are swapped.

**Too long.** A chunk ends after the sentence that reaches $T$. Tokens are cut from the longer span, one by one, each
from its front or its end at random.
"""
from typing import NamedTuple

import numpy as np

# Of chunks that are shorter than what fits
_SHORT = 0.1


class Sentences(NamedTuple):
    """Sentences of a text; the tokens of one begin where the one before ends."""
    # Where their tokens end, `[n]`
    ends: np.ndarray
    # The number of the first sentence of each document, and of the first one after it; `[n_documents]` each
    firsts: np.ndarray
    lasts: np.ndarray

    @property
    def begins(self) -> np.ndarray:
        """Where their tokens begin, `[n]`."""
        return np.concatenate([[0], self.ends[:-1]])


class Plan(NamedTuple):
    """The pairs of an epoch; `[n]` each."""
    # First tokens of both spans, and their numbers of tokens
    first_begins: np.ndarray
    first_lengths: np.ndarray
    second_begins: np.ndarray
    second_lengths: np.ndarray
    # 0 if the second is the next one, 1 if it is of another document, or comes before
    labels: np.ndarray


class Chunks(NamedTuple):
    """Spans of whole sentences; `[n]` each."""
    # Their first sentences, and the first ones after them
    first: np.ndarray
    last: np.ndarray
    document: np.ndarray
    # How many tokens were wanted
    target: np.ndarray


def cut_chunks(sentences: Sentences, *, length: int, rng: np.random.Generator) -> Chunks:
    """
    The chunks of a text, of at least two sentences each.

    * `length` is the number of tokens that fit

    Documents of one sentence are left out.
    """
    n = len(sentences.ends)
    # Should a chunk begin there, of each sentence
    targets = np.where(rng.random(n) < _SHORT, rng.integers(2, length + 1, n), length)
    last = np.repeat(sentences.lasts, sentences.lasts - sentences.firsts)
    number = np.arange(n)
    following = np.searchsorted(sentences.ends, sentences.begins + targets) + 1
    following = np.minimum(np.maximum(following, number + 2), last)
    # A single sentence is no pair: it gets another one of this chunk, or becomes part of it
    is_single = following == last - 1
    following = np.where(is_single, np.where(following - number > 2, following - 1, last), following)
    firsts = _follow(following)
    lasts = following[firsts]
    is_pair = lasts - firsts > 1
    firsts, lasts = firsts[is_pair], lasts[is_pair]
    document = np.searchsorted(sentences.firsts, firsts, 'right') - 1
    return Chunks(firsts, lasts, document, targets[firsts])


def _follow(following: np.ndarray) -> np.ndarray:
    """0, `following[0]`, and so on until the end."""
    found = np.zeros(len(following), bool)
    # Its items are numbers of Python's, made one by one
    items, at = memoryview(following), 0
    while at < len(items):
        found[at] = True
        at = items[at]
    return np.flatnonzero(found)


def make_plan(sentences: Sentences, kind: str, *, length: int, seed: int) -> Plan:
    """
    The pairs of an epoch.

    * `kind` is `nsp` or `sop`
    * `length` is the number of tokens of both spans that fit
    * `seed` decides which pairs
    """
    rng = np.random.default_rng(seed)
    chunks = cut_chunks(sentences, length=length, rng=rng)
    n = len(chunks.first)
    # Where each is cut in two
    cuts = rng.integers(chunks.first + 1, chunks.last)
    # Where the second span begins, and of which chunk it is
    second, other = cuts, np.arange(n)
    if kind == 'nsp':
        other, cuts, second = _exchange(sentences, chunks, cuts, rng)
    begins = sentences.begins
    first_begins, second_begins = begins[chunks.first], begins[second]
    first_lengths = begins[cuts] - first_begins
    is_other = other != np.arange(n)
    # The first sentence at which there are enough tokens, or the last one of the document
    filled = np.searchsorted(sentences.ends, second_begins + np.maximum(chunks.target - first_lengths, 1)) + 1
    last = np.where(is_other, np.minimum(filled, sentences.lasts[chunks.document[other]]), chunks.last)
    second_lengths = sentences.ends[last - 1] - second_begins
    spans = [[first_begins, first_lengths], [second_begins, second_lengths]]
    labels = is_other
    if kind == 'sop':
        labels = rng.random(n) < 0.5
        spans = [[np.where(labels, theirs, ours) for ours, theirs in zip(one, another, strict=True)]
                 for one, another in (spans, spans[::-1])]
    (first_begins, first_lengths), (second_begins, second_lengths) = spans
    # One by one from the longer, and from the second if both are equal
    kept = np.minimum(second_lengths, np.maximum(length - first_lengths, length // 2))
    kept = [np.minimum(first_lengths, length - kept), kept]
    in_front = [rng.binomial(whole - part, 0.5) for whole, part in
                zip((first_lengths, second_lengths), kept, strict=True)]
    return Plan(first_begins + in_front[0], kept[0], second_begins + in_front[1], kept[1], labels.astype(np.int64))


def _exchange(sentences: Sentences, chunks: Chunks, cuts: np.ndarray, rng: np.random.Generator) \
        -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Half of the chunks exchange their second spans. Returns of which chunk each has its second span, where each is cut,
    and the sentence at which its second span begins; `[n]` each.
    """
    n, cuts = len(cuts), cuts.copy()
    other, second = np.arange(n), cuts.copy()
    n_exchanges = (n + 2) // 4
    drawn = rng.permutation(n)[:2 * n_exchanges]
    # By documents, in random order
    order = rng.permutation(len(sentences.firsts))[chunks.document[drawn]]
    one, another = drawn[np.argsort(order, kind='stable')].reshape(2, n_exchanges)
    is_apart = chunks.document[one] != chunks.document[another]
    i, j = one[is_apart], another[is_apart]
    cuts[j] = _fitting_cuts(sentences, chunks, i, j, cuts)
    other[i], other[j], second[i], second[j] = j, i, cuts[j], cuts[i]
    # All are of one document
    rest = np.concatenate([one[~is_apart], another[~is_apart]])
    if len(rest):
        of_others = np.flatnonzero(chunks.document != chunks.document[rest[0]])
        other[rest] = rng.choice(of_others, len(rest))
        second[rest] = _fitting_cuts(sentences, chunks, rest, other[rest], cuts)
    return other, cuts, second


def _fitting_cuts(sentences: Sentences, chunks: Chunks, i: np.ndarray, j: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """
    Where to cut chunks `j` so that their second spans fill what the first ones of `i` leave; where they were cut, if
    one of them is too short. `[n]` each.
    """
    begins = sentences.begins
    ends = sentences.ends[chunks.last - 1]
    is_full = ends - begins[chunks.first] >= chunks.target
    left = chunks.target[i] - (begins[cuts[i]] - begins[chunks.first[i]])
    wanted = np.searchsorted(sentences.ends, ends[j] - np.maximum(left, 1), 'right')
    return np.where(is_full[i] & is_full[j], wanted.clip(chunks.first[j] + 1, chunks.last[j] - 1), cuts[j])
