"""
# More entries for WordPiece

WordPiece takes the longest entry of its vocabulary that the rest of a word begins with. So an entry that is a whole
word, or what several neighbouring pieces of words spell, is used wherever it is the longest. It saves the pieces that
it replaces, less one, each time.

The entry that saves most comes first, then the one that saves most beside it. What an entry saves is found by cutting
all words again that it may change: it may also be the beginning of another word, whose rest is then cut into more
pieces, or cannot be cut at all. The estimate to begin with is the sum over the words' present pieces.
"""
import bisect
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from labml_mlm.vocabulary.more_merges import MIN_COUNT, NewTokens

# Pieces that a new one replaces, except in a whole word
_MOST_REPLACED = 10
# Between two words; one with this character in it is cut like others
_BETWEEN = '\n'


def more_word_pieces(words: Sequence[Sequence[int]], counts: Sequence[int], *, names: Sequence[str], prefix: str = '',
                     n: int) -> NewTokens:
    """
    Up to `n` entries, those that save most tokens first; of equally good ones the longest.

    * `words` are distinct words as ids of tokens, and `counts` how often they occur
    * `names` are those of all tokens, by id
    * `prefix` is in front of the names of tokens that continue a word
    """
    found = _Words([[names[i] for i in word] for word in words], counts, names=names, prefix=prefix)
    ids = {name: i for i, name in enumerate(names)}
    new = NewTokens([], [], [], [])
    heap = [(-saved, -len(name), name) for name, saved in found.candidates().items()]
    heapq.heapify(heap)
    while heap and len(new.names) < n:
        estimate, length, name = heapq.heappop(heap)
        saved, cuts = found.try_out(name)
        if saved == -estimate:
            new.names.append(name)
            found.add(name, cuts)
        elif saved > 0:
            heapq.heappush(heap, (-saved, length, name))
    known = _Cutter(names, prefix)
    for name in new.names:
        new.pieces.append([ids[piece] for piece in known.cut_token(name)])
    return new._replace(lengths=found.lengths())


class _Cutter:
    """
    WordPiece.

    * `names` are the tokens, and `prefix` is in front of those that continue a word
    """

    def __init__(self, names: Sequence[str], prefix: str):
        self.names, self.prefix = set(names), prefix
        self.longest = max(map(len, names), default=0)

    def add(self, name: str):
        """Adds a token."""
        self.names.add(name)
        self.longest = max(self.longest, len(name))

    def cut(self, text: str, *, continues: bool = False) -> list[str] | None:
        """The tokens of a word, or of the rest of one; `None` if it cannot be cut."""
        found: list[str] = []
        begin = 0
        while begin < len(text):
            prefix = self.prefix if begin or continues else ''
            ends = range(min(len(text), begin + self.longest), begin, -1)
            end = next((end for end in ends if prefix + text[begin:end] in self.names), None)
            if end is None:
                return None
            found.append(prefix + text[begin:end])
            begin = end
        return found

    def cut_token(self, name: str) -> list[str] | None:
        """The tokens that a name of one is cut into."""
        continues = bool(self.prefix) and name.startswith(self.prefix)
        return self.cut(name.removeprefix(self.prefix) if continues else name, continues=continues)


class _Words:
    """
    Words as they are cut.

    * `words` are distinct words as names of tokens, and `counts` how often they occur
    * `names` are those of all tokens, and `prefix` is in front of those that continue a word
    """

    def __init__(self, words: Sequence[Sequence[str]], counts: Sequence[int], *, names: Sequence[str], prefix: str):
        self._cutter = _Cutter(names, prefix)
        self._known = set(names)
        self._all_lengths = [len(word) for word in words]
        self._texts, self._cuts, self._counts, self._indices = [], [], [], []
        for i, word in enumerate(words):
            text = word[0] + ''.join(piece.removeprefix(prefix) for piece in word[1:])
            # Parts of a word that is too long do not begin one, and a name with the prefix is that of a rest
            is_rest = bool(prefix) and text.startswith(prefix)
            if len(word) > 1 and not is_rest and self._cutter.cut(text) == list(word):
                self._texts.append(text)
                self._cuts.append(list(word))
                self._counts.append(counts[i])
                self._indices.append(i)
        # All words, and where each begins
        self._joined = _BETWEEN + _BETWEEN.join(self._texts)
        self._begins = [*itertools.accumulate((len(text) + 1 for text in self._texts[:-1]), initial=1)]

    def candidates(self) -> dict[str, int]:
        """What several pieces spell that occur at least twice, and how many tokens fewer there are with one instead."""
        saved: Counter[str] = Counter()
        occurrences: Counter[str] = Counter()
        prefix = self._cutter.prefix
        for cut, count in zip(self._cuts, self._counts, strict=True):
            for begin in range(len(cut) - 1):
                name = cut[begin]
                for end in range(begin + 1, len(cut)):
                    name += cut[end].removeprefix(prefix)
                    if end - begin < _MOST_REPLACED or end - begin == len(cut) - 1:
                        saved[name] += count * (end - begin)
                        occurrences[name] += count
        return {name: n for name, n in saved.items() if occurrences[name] >= MIN_COUNT and name not in self._known}

    def try_out(self, name: str) -> tuple[int, dict[int, list[str]]]:
        """
        How many tokens fewer there are with another one, and its words as they are cut then. None if it is of use less
        than twice, or a word could not be cut any more.
        """
        longest = self._cutter.longest
        self._cutter.add(name)
        cuts: dict[int, list[str]] = {}
        saved = n_used = 0
        for i in self._words_with(name):
            cut = self._cutter.cut(self._texts[i])
            if cut is None:
                saved = 0
                break
            cuts[i] = cut
            saved += self._counts[i] * (len(self._cuts[i]) - len(cut))
            n_used += self._counts[i] * cut.count(name)
        self._cutter.names.discard(name)
        self._cutter.longest = longest
        return (saved if n_used >= MIN_COUNT else 0), cuts

    def add(self, name: str, cuts: dict[int, list[str]]):
        """Adds a token, with what `try_out` says."""
        self._cutter.add(name)
        for i, cut in cuts.items():
            self._cuts[i] = cut

    def lengths(self) -> list[int]:
        """The number of tokens of each word."""
        lengths = list(self._all_lengths)
        for i, cut in zip(self._indices, self._cuts, strict=True):
            lengths[i] = len(cut)
        return lengths

    def _words_with(self, name: str) -> Iterator[int]:
        """The numbers of the words that another token may change: a shorter piece begins in its place."""
        prefix = self._cutter.prefix
        # Without a prefix it may be anywhere
        continues = name.startswith(prefix)
        text = name.removeprefix(prefix) if continues else _BETWEEN + name
        at, last = self._joined.find(text), -1
        while at >= 0:
            begin = at if continues else at + 1
            i = bisect.bisect_right(self._begins, begin) - 1
            if i != last and self._has_shorter_piece(i, begin - self._begins[i], name):
                yield i
                last = i
            at = self._joined.find(text, at + 1)

    def _has_shorter_piece(self, i: int, place: int, name: str) -> bool:
        prefix = self._cutter.prefix
        at = 0
        for j, piece in enumerate(self._cuts[i]):
            if at >= place:
                fits = not prefix or bool(j) == name.startswith(prefix)
                return fits and at == place and len(piece) < len(name)
            at += len(piece) - (len(prefix) if j else 0)
        return False
