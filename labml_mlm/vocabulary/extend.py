"""
# More tokens for a vocabulary

A published tokenizer cuts the words of another domain into many pieces: a window of tokens holds less text, and whole
word masking hides more of it. So the vocabulary gets the tokens that this text lacks most. They are entries of the
model like all others, not added tokens, for which a tokenizer searches each text, one by one:

* WordPiece takes the longest entry that matches, so a word or a part of one is enough (`more_word_pieces`)
* BPE gets them as merges after its own: its training goes on where it ended (`more_merges`)

All other tokens keep their ids. Where a new token does not apply, the text has the tokens that it had before.
"""
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer, models

from labml_mlm.common.errors import UserError
from labml_mlm.data.chunks import CHUNK, LONGEST_LINE, split_chunks
from labml_mlm.tokenization.hf_tokenizers import (
    cannot_encode,
    is_the_same_in_chunks,
    refuse_surrogates,
    rust_errors,
)
from labml_mlm.tokenization.subword import FILE, SubwordTokenizer
from labml_mlm.vocabulary.more_merges import more_merges
from labml_mlm.vocabulary.more_word_pieces import more_word_pieces

# Characters of a chunk where the beginning of a text changes its tokens, and of a batch of chunks
_LONG_CHUNK, _BATCH = 1 << 22, 1 << 20
# Pieces of what counts as one word, more than WordPiece has, and of all distinct words together
_LONGEST, _N_OF_WORDS = 1 << 10, 1 << 22
_N_GAINS = 10
# Of what it makes of a text
EXTENSION_VERSION = 1


class Extension(NamedTuple):
    """A vocabulary with more tokens."""
    # Of the new `tokenizer.json`
    content: str
    # For each new token, in the order of ids, the ids of the tokens that it was cut into before
    pieces: list[list[int]]
    # Before and after, for words between white space. With words left out, the latter is estimated from the others
    tokens_per_word: tuple[float, float]
    # Words with letters or digits that gain most: the word, how often it occurs, its tokens before and after
    gains: list[tuple[str, int, int, int]]
    # Of the new tokens
    first_id: int


def extend_vocabulary(content: str, texts: Iterable[str], *, n: int) -> Extension:
    """
    Adds the tokens that texts, which are read once, lack most.

    * `content` is that of a `tokenizer.json`
    * `n` is how many are added at most; fewer, if no more occur twice

    Memory is bounded: once the distinct words are too many, the rarest are left out. Raises `UserError` if the text has
    no words, and for a tokenizer that is neither BPE nor WordPiece.
    """
    if n < 1:
        raise UserError(f'{n} more tokens: it must be at least 1')
    tokenizer, about = SubwordTokenizer.from_json(content), json.loads(content)
    model = about['model']
    if not isinstance(tokenizer.tokenizer.model, models.BPE | models.WordPiece):
        raise UserError(f'tokens can be added to BPE and WordPiece, and this is '
                        f'{type(tokenizer.tokenizer.model).__name__}: keep its vocabulary as it is, or train another '
                        f'tokenizer on the text, with the embeddings that both have taken over')
    # It may have got a [PAD] or a [SEP]
    about['added_tokens'] = json.loads(tokenizer.files[FILE])['added_tokens']
    names = [tokenizer.tokenizer.id_to_token(i) or '' for i in range(tokenizer.n_tokens)]
    found, n_words, n_tokens = _count(tokenizer.tokenizer, texts, names, _stand_alone(tokenizer, model, names))
    if not n_words:
        raise UserError('the text has no words')
    words = [np.frombuffer(word, np.int32).tolist() for word in found]
    counts = np.array([*found.values()], int)
    prefix = model.get('continuing_subword_prefix') or ''
    extend = more_merges if isinstance(tokenizer.tokenizer.model, models.BPE) else more_word_pieces
    extended = extend(words, counts.tolist(), names=names, prefix=prefix, n=n)
    before, after = np.array([len(word) for word in words], int), np.array(extended.lengths, int)
    if model.get('ignore_merges'):
        new = set(extended.names)
        after = np.array([1 if ''.join(names[i] for i in word) in new else length
                          for word, length in zip(words, after.tolist(), strict=True)], int)
    _add_entries(about, names, extended.names, extended.merges)
    # Of all tokens, as of those in words that were not left out
    n_saved = int(counts @ (before - after)) * n_tokens / max(1, int(counts @ before))
    return Extension(json.dumps(about, indent=2, ensure_ascii=False), extended.pieces,
                     (n_tokens / n_words, (n_tokens - n_saved) / n_words),
                     _gains(tokenizer, words, counts=counts, before=before, after=after), len(names))


def _gains(tokenizer: SubwordTokenizer, words: Sequence[list[int]], *, counts: np.ndarray, before: np.ndarray,
           after: np.ndarray) -> list[tuple[str, int, int, int]]:
    """The words that gain most, by how often they occur and their numbers of tokens."""
    saved = counts * (before - after)
    # With and without a space before it, a word is cut in two ways
    gains: dict[str, tuple[str, int, int, int]] = {}
    for i in sorted(np.flatnonzero(saved).tolist(), key=lambda i: (-saved[i], words[i])):
        word = tokenizer.decode(words[i]).strip()
        if any(map(str.isalnum, word)):
            gains.setdefault(word, (word, int(counts[i]), int(before[i]), int(after[i])))
        if len(gains) == _N_GAINS:
            break
    return list(gains.values())


def _stand_alone(tokenizer: SubwordTokenizer, model: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """Which tokens are never part of a new one, `[n_tokens]`."""
    has_bytes, unknown, splits_merges = model.get('byte_fallback'), model.get('unk_token'), _has_merges_as_text(model)
    is_alone = np.array([name == unknown or (has_bytes and len(name) == 6 and name.startswith('<0x'))
                         or (splits_merges and ' ' in name) for name in names], bool)
    is_alone[[*tokenizer.tokenizer.get_added_tokens_decoder(), *tokenizer.special.all]] = True
    return is_alone


def _count(tokenizer: Tokenizer, texts: Iterable[str], names: Sequence[str],
           is_alone: np.ndarray) -> tuple[Counter[bytes], int, int]:
    """
    How often each word occurs, by its ids as `int32`; the number of words between white space, and of tokens. Where
    spaces do not end words of the tokenizer, `▁` begins one.
    """
    begins = np.array([name.startswith('▁') for name in names])
    ends = np.array([name.endswith('▁') for name in names])
    found: Counter[bytes] = Counter()
    n_words = n_tokens = 0

    def noted() -> Iterator[tuple[str, bool]]:
        nonlocal n_words
        for text in refuse_surrogates(texts):
            n_words += len(text.split())
            yield text, True

    for batch in _batches(tokenizer, noted()):
        for ids, of_words in _encode(tokenizer, batch):
            n_tokens += len(ids)
            left, right = ids[:-1], ids[1:]
            is_first = (of_words[1:] != of_words[:-1]) | is_alone[left] | is_alone[right] | begins[right] & ~ends[left]
            bounds = [0, *(np.flatnonzero(is_first) + 1).tolist(), len(ids)]
            data = ids.tobytes()
            found.update(data[4 * i:4 * min(i + _LONGEST, end)] for begin, end in itertools.pairwise(bounds)
                         for i in range(begin, end, _LONGEST))
        if sum(map(len, found)) // 4 > _N_OF_WORDS:
            found = _most_frequent(found)
    return found, n_words, n_tokens


def _most_frequent(found: Counter[bytes]) -> Counter[bytes]:
    """The most frequent words, with half of the pieces that there may be; of equally frequent ones the first."""
    kept: Counter[bytes] = Counter()
    n_pieces = 0
    for word, count in found.most_common():
        n_pieces += len(word) // 4
        if n_pieces > _N_OF_WORDS // 2:
            break
        kept[word] = count
    return kept


def _batches(tokenizer: Tokenizer, documents: Iterator[tuple[str, bool]]) -> Iterator[list[str]]:
    first = list(itertools.islice(documents, 1))
    with rust_errors():
        is_the_same = is_the_same_in_chunks(tokenizer, first[0][0][:LONGEST_LINE] if first else '')
    batch, size = [], 0
    for chunk, _ in split_chunks(itertools.chain(first, documents), CHUNK if is_the_same else _LONG_CHUNK):
        batch.append(chunk)
        size += len(chunk)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids of texts, each with the numbers of the words that they are of."""
    with rust_errors():
        try:
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        except Exception as e:  # tokenizers raises nothing more special
            raise cannot_encode(texts, e) from None
    for of_text in encoded:
        yield np.array(of_text.ids, np.int32), np.array(of_text.word_ids, np.int64)


def _add_entries(about: dict[str, Any], names: Sequence[str], new: Sequence[str], merges: Sequence[tuple[str, str]]):
    model = about['model']
    # `tokenizers` numbers added tokens after all entries of the model, unless they are among these
    model['vocab'] |= {token['content']: token['id'] for token in about['added_tokens']
                       if token['content'] not in model['vocab']}
    model['vocab'] |= {name: i for i, name in enumerate(new, len(names))}
    if merges:
        model['merges'] += [' '.join(merge) if _has_merges_as_text(model) else list(merge) for merge in merges]


def _has_merges_as_text(model: dict[str, Any]) -> bool:
    """Are merges as older versions of `tokenizers` write them, with a space between the two?"""
    return isinstance(next(iter(model.get('merges', [])), None), str)
