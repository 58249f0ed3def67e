r"""
# Tokenizers of graphemes and of patterns

* `grapheme`: a token for each extended grapheme cluster ([UAX #29](https://unicode.org/reports/tr29/)), what readers
  take for a letter: `ක්‍ෂ` and `é` are one, however they are encoded
* `pattern`: a token for each match of a regular expression, and for what is between two

A rare cluster or match is spelled by its code points, so that nothing is unknown. As a `tokenizer.json` both are BPE
without merges, where a word is one token if it is in the vocabulary, and else its code points.
"""
import re
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.hf_tokenizers import refuse_surrogates, rust_errors
from labml_mlm.tokenization.subword import SubwordTokenizer

# Regular expressions by name. Of molecules as SMILES: bracket atoms, atoms of two letters, ring bonds from 10 on,
# chirality. Of program code: parts of identifiers, by case and underscore
PATTERNS = {'smiles': r'\[[^\]]*\]|Br|Cl|%[0-9]{2}|@@|.',
            'code': r'\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{L}+|\p{N}+|_+|[^\S\n]+|\n+|.'}
# Consonants of Indic scripts, and what joins two: rule GB9c of UAX #29, which `tokenizers` does not have in its `\X`
_CONSONANT = (r'[\u0915-\u0939\u0958-\u095F\u0978-\u097F\u0995-\u09A8\u09AA-\u09B0\u09B2\u09B6-\u09B9\u09DC\u09DD\u09DF'
              r'\u09F0\u09F1\u0A95-\u0AA8\u0AAA-\u0AB0\u0AB2\u0AB3\u0AB5-\u0AB9\u0AF9\u0B15-\u0B28\u0B2A-\u0B30\u0B32\u0B33'
              r'\u0B35-\u0B39\u0B5C\u0B5D\u0B5F\u0B71\u0C15-\u0C28\u0C2A-\u0C39\u0C58-\u0C5A\u0D15-\u0D3A]')
_LINKER = r'[\u094D\u09CD\u0ACD\u0B4D\u0C4D\u0D4D]'
GRAPHEME = rf'(?:\X(?<={_LINKER}|{_LINKER}\u200D)(?={_CONSONANT}))*\X'
# Where a pattern could match the name of a special token
_SPECIAL_NAME = rf'\[(?=(?:{"|".join(name[1:-1] for name in SPECIAL_TOKENS)})\])'
_KMER = re.compile(r'kmer:([1-9]\d?)')


def token_pattern(pattern: str) -> str:
    """The regular expression that is meant: one by its name, or any. Raises `UserError` if it is not one."""
    if kmer := _KMER.fullmatch(pattern):
        # Not overlapping: the neighbours of a masked token would give it away
        return rf'\p{{L}}{{1,{kmer[1]}}}'
    try:
        if pattern.startswith('kmer:'):
            raise ValueError('K must be from 1 to 99')
        Regex(PATTERNS.get(pattern, pattern))
    except Exception as e:  # tokenizers raises nothing more special
        raise UserError(f'token_pattern={pattern}: it must be {", ".join(PATTERNS)}, kmer:K with a number K, or a '
                        f'regular expression: {e}') from None
    return PATTERNS.get(pattern, pattern)


def grapheme(texts: Iterable[str], *, vocab_size: int, characters: Iterable[str] = ()) -> SubwordTokenizer:
    """The most frequent extended grapheme clusters in texts, and all code points; raises what `pattern` does."""
    return pattern(texts, vocab_size=vocab_size, characters=characters, token_pattern=GRAPHEME)


def pattern(texts: Iterable[str], *, vocab_size: int, token_pattern: str,
            characters: Iterable[str] = ()) -> SubwordTokenizer:
    """
    The most frequent matches of `token_pattern` in texts, and all code points of texts and `characters`. Raises
    `UserError` if `vocab_size` has no room for the code points, and for lone surrogates.
    """
    splits = pre_tokenizers.Sequence(matches_of(token_pattern))
    counted = Tokenizer(models.WordLevel())
    counted.pre_tokenizer = splits
    code_points = set(characters)

    def noted() -> Iterator[str]:
        for text in refuse_surrogates(texts):
            code_points.update(text)
            yield text

    with rust_errors():
        counted.train_from_iterator(noted(), trainers.WordLevelTrainer(vocab_size=vocab_size, min_frequency=2,
                                                                       show_progress=False))
    if vocab_size < (n := len(code_points) + len(SPECIAL_TOKENS)):
        raise UserError(f'vocab_size={vocab_size}: there is a token for each of the {len(code_points):,} characters of '
                        f'this text, and {len(SPECIAL_TOKENS)} special ones; it must be at least {n:,}')
    # Most frequent first
    matches = sorted(counted.get_vocab().items(), key=lambda match_and_rank: match_and_rank[1])
    names = dict.fromkeys([*SPECIAL_TOKENS, *sorted(code_points), *(match for match, _ in matches)])
    vocabulary = {name: i for i, name in enumerate(list(names)[:vocab_size])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token='[UNK]', ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = splits, decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return with_enough_tokens(tokenizer)


def with_enough_tokens(tokenizer: Tokenizer) -> SubwordTokenizer:
    """Raises `UserError` if there is nothing to predict with it."""
    if (n := tokenizer.get_vocab_size() - len(SPECIAL_TOKENS)) < 2:
        raise UserError(f'the text has {n} distinct tokens: there must be at least 2 to predict, and a vocab_size of '
                        f'at least {len(SPECIAL_TOKENS) + 2}')
    return SubwordTokenizer(tokenizer)


def matches_of(token_pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    """Splits at matches of `token_pattern`, none of which is the name of a special token."""
    return [split(_SPECIAL_NAME), split(token_pattern)]


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Matches of a regular expression, and what is between them, each by itself."""
    return pre_tokenizers.Split(Regex(pattern), 'isolated')
