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
from labml_mlm.tokenization.subword import SubwordTokenizer, refuse_surrogates

# Regular expressions by name. Of molecules as SMILES: bracket atoms, atoms of two letters, ring bonds from 10 on,
# chirality. Of program code: parts of identifiers, by case and underscore
PATTERNS = {'smiles': r'\[[^\]]*\]|Br|Cl|%[0-9]{2}|@@|.',
            'code': r'\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{L}+|\p{N}+|_+|[^\S\n]+|\n+|.'}
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


def grapheme(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """The most frequent extended grapheme clusters in texts, and all code points; raises what `pattern` does."""
    return pattern(texts, vocab_size=vocab_size, token_pattern=r'\X')


def pattern(texts: Iterable[str], *, vocab_size: int, token_pattern: str) -> SubwordTokenizer:
    """
    The most frequent matches of `token_pattern` in texts, and all code points. Raises `UserError` if `vocab_size` has
    no room for the code points, and for lone surrogates.
    """
    counted = Tokenizer(models.WordLevel())
    counted.pre_tokenizer = split(token_pattern)
    code_points: set[str] = set()

    def noted() -> Iterator[str]:
        for text in refuse_surrogates(texts):
            code_points.update(text)
            yield text

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
    tokenizer.pre_tokenizer, tokenizer.decoder = split(token_pattern), decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return SubwordTokenizer(tokenizer)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Matches of a regular expression, and what is between them, each by itself."""
    return pre_tokenizers.Split(Regex(pattern), 'isolated')
