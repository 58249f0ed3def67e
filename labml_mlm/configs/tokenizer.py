"""
# Configs of the tokenizer

How the text is tokenized.
"""
from typing import Annotated

from labml import monit
from labml.configs import option

from labml_mlm.common.declarations import Item, Range, at_least
from labml_mlm.common.errors import UserError
from labml_mlm.common.schema import chosen_value, is_given
from labml_mlm.configs.text import TextConfigs
from labml_mlm.data.sources import expand_path
from labml_mlm.distributed.process_group import ranks
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

# The kinds of tokenizers that read an item
_READ_BY = {'token_pattern': ('pattern', 'bpe', 'wordpiece'), 'max_token_length': ('bpe', 'unigram')}


class TokenizerConfigs(TextConfigs):
    """
    ## Configurations of the tokenizer
    """
    tokenizer: Annotated[Tokenizer, Item('Tokenizer')] = 'character'
    tokenizer_path: Annotated[str, Item('Path of a tokenizer.json, for tokenizer=file', may_change=True)] = ''
    token_pattern: Annotated[str, Item('What a token is, for tokenizer=pattern, or what no token spans, for bpe and '
                                       'wordpiece: a regular expression, or smiles, code or kmer:K')] = ''
    vocab_size: Annotated[int, Item('Vocabulary size of a tokenizer that is trained on the text, special tokens '
                                    'included', at_least(1))] = 8192
    max_token_length: Annotated[int, Item('Longest token that tokenizer=bpe (bytes) or unigram (characters) learns',
                                          Range(1, 512))] = 32
    tokenizer_sample: Annotated[int, Item('How much of the text, from all over it, such a tokenizer is trained on',
                                          at_least(1), unit='characters')] = 100_000_000

    vocab_extend: Annotated[int, Item('Add up to so many tokens, those that the text lacks most, to the tokenizer '
                                      'of `init_from`, which is BPE or WordPiece', at_least(0))] = 0

    # That of a resumed run, or of what a run goes on from; it is not trained again
    _saved_tokenizer = None


@option(TokenizerConfigs.tokenizer, 'character')
def _character(c: TokenizerConfigs):
    _refuse_others(c, 'character')
    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    return CharacterTokenizer.from_characters(c.corpus.characters)


@option(TokenizerConfigs.tokenizer, 'grapheme')
def _grapheme(c: TokenizerConfigs):
    return _trained_tokenizer(c, 'grapheme')


@option(TokenizerConfigs.tokenizer, 'pattern')
def _pattern(c: TokenizerConfigs):
    if not c.token_pattern:
        raise UserError('tokenizer=pattern needs a token_pattern: a regular expression, or smiles, code or kmer:K')
    return _trained_tokenizer(c, 'pattern')


@option(TokenizerConfigs.tokenizer, 'unigram')
def _unigram(c: TokenizerConfigs):
    return _trained_tokenizer(c, 'unigram')


@option(TokenizerConfigs.tokenizer, 'bpe')
def _bpe(c: TokenizerConfigs):
    return _trained_tokenizer(c, 'bpe')


@option(TokenizerConfigs.tokenizer, 'wordpiece')
def _wordpiece(c: TokenizerConfigs):
    return _trained_tokenizer(c, 'wordpiece')


@option(TokenizerConfigs.tokenizer, 'basic_english')
def _basic_english(c: TokenizerConfigs):
    return _trained_tokenizer(c, 'basic_english')


def _trained_tokenizer(c: TokenizerConfigs, kind: str) -> Tokenizer:
    """A tokenizer trained on the text, now or before."""
    from labml_mlm.tokenization import subword
    from labml_mlm.tokenization.patterns import token_pattern
    from labml_mlm.tokenization.train_tokenizer import TRAINERS, TRAINERS_VERSION

    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    _refuse_others(c, kind)
    given = {'vocab_size': c.vocab_size}
    if c.token_pattern:
        given['token_pattern'] = token_pattern(c.token_pattern)
    if kind in _READ_BY['max_token_length']:
        given['max_token_length'] = c.max_token_length
    corpus, train = c.corpus, TRAINERS[kind]
    key = [kind, *given.values()]
    if kind in ('grapheme', 'pattern'):
        # Of all of the text, not of a sample
        given['characters'] = corpus.characters
    with monit.section(f'Tokenizer {kind}', is_not_in_loop=True):
        text = ranks().main_first(lambda: c._token_cache.tokenizer_json(
            corpus, [key, TRAINERS_VERSION], sample=c.tokenizer_sample,
            train=lambda texts: train(texts, **given).files[subword.FILE]))
    return subword.SubwordTokenizer.from_json(text)


def _refuse_others(c: TokenizerConfigs, kind: str):
    """Raises `UserError` if an item is given that this kind of tokenizer does not read."""
    for name, kinds in _READ_BY.items():
        value = chosen_value(c, name)
        # A pattern is given wherever it stands, also in a class; a length has a default
        if kind not in kinds and value and (is_given(c, name) or isinstance(value, str)):
            *first, last = kinds
            raise UserError(f'{name}={value} is for tokenizer={", ".join(first)} or {last}, and this is {kind}')


@option(TokenizerConfigs.tokenizer, 'file')
def _file(c: TokenizerConfigs):
    from labml_mlm.tokenization.subword import SubwordTokenizer

    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    _refuse_others(c, 'file')
    if not c.tokenizer_path:
        raise UserError('tokenizer=file needs a tokenizer.json: tokenizer_path=PATH')
    return SubwordTokenizer.from_file(expand_path(c.tokenizer_path))
