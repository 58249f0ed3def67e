"""
# Configs of the tokenizer

How the text is tokenized.
"""
from typing import Annotated, Any

from labml.configs import option

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import how_to_download
from labml_mlm.configs.text import TextConfigs
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import Item, Range, at_least
from labml_mlm.items.schema import chosen_value, is_given, is_own
from labml_mlm.reading.files import expand_path
from labml_mlm.screen.long_work import interruptible, long_work
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer

_TRAINED = 'grapheme', 'pattern', 'unigram', 'bpe', 'wordpiece', 'basic_english'
# The kinds of tokenizers that read an item
_READ_BY = {'token_pattern': ('pattern', 'bpe', 'wordpiece'), 'max_token_length': ('bpe', 'unigram'),
            'tokenizer_path': ('file',), 'vocab_size': _TRAINED, 'tokenizer_sample': _TRAINED}
_OF_TRAINED = f'tokenizer={", ".join(_TRAINED[:-1])} and {_TRAINED[-1]}'


class TokenizerConfigs(TextConfigs):
    """
    ## Configurations of the tokenizer
    """
    tokenizer: Annotated[Tokenizer, Item('Tokenizer; with a tokenizer_path it is `file`')] = 'character'
    tokenizer_path: Annotated[str, Item('Path of a tokenizer.json, or of a folder with a tokenizer, as '
                                        '`save_pretrained` writes it, for tokenizer=file', may_change=True,
                                        belongs_to='tokenizer=file')] = ''
    token_pattern: Annotated[str, Item('What a token is, for tokenizer=pattern, or what no token spans, for bpe and '
                                       'wordpiece: a regular expression, or smiles, code or kmer:K',
                                       belongs_to='tokenizer=pattern, bpe and wordpiece')] = ''
    vocab_size: Annotated[int, Item('Vocabulary size of a tokenizer that is trained on the text, special tokens '
                                    'included', at_least(1), belongs_to=_OF_TRAINED)] = 8192
    max_token_length: Annotated[int, Item('Longest token that tokenizer=bpe (bytes) or unigram (characters) learns',
                                          Range(1, 512), belongs_to='tokenizer=bpe and unigram')] = 32
    tokenizer_sample: Annotated[int, Item('How much of the text, from all over it, such a tokenizer is trained on',
                                          at_least(1), unit='characters', belongs_to=_OF_TRAINED)] = 100_000_000

    vocab_extend: Annotated[int, Item('Add up to so many tokens, those that the text lacks most, to the tokenizer '
                                      'of `init_from`, which is BPE or WordPiece', at_least(0))] = 0

    # That of a resumed run, or of what a run goes on from; it is not trained again
    _saved_tokenizer = None

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.set_default(TokenizerConfigs.tokenizer, func=self._implied_tokenizer)

    def _implied_tokenizer(self) -> str:
        """`file` with a `tokenizer_path`, unless it is for an option of the user's; otherwise labml goes on looking."""
        default, options = chosen_value(self, 'tokenizer'), self._Configs__options['tokenizer']
        is_built_in = isinstance(default, str) and default in options and not is_own(options[default].func)
        # Where a class has both, they must agree
        is_free = is_given(self, 'tokenizer_path') or default == 'character'
        return 'file' if chosen_value(self, 'tokenizer_path') and is_built_in and is_free else '__aggregate__'


@option(TokenizerConfigs.tokenizer, 'character')
def _character(c: TokenizerConfigs):
    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    _refuse_others(c, 'character')
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
    with long_work(f'Training the tokenizer, {kind}'):
        text = ranks().main_first(lambda: c._token_cache.tokenizer_json(
            corpus, [key, TRAINERS_VERSION], sample=c.tokenizer_sample,
            train=lambda texts: interruptible(lambda: train(texts, **given)).files[subword.FILE]))
    return subword.SubwordTokenizer.from_json(text)


def _refuse_others(c: TokenizerConfigs, kind: str):
    """Raises `UserError` if an item is given that this kind of tokenizer does not read."""
    for name, kinds in _READ_BY.items():
        value = chosen_value(c, name)
        # What stands in a class is for the tokenizer of the class; numbers have a default
        is_meant = is_given(c, name) or isinstance(value, str) and value and not is_given(c, 'tokenizer')
        if kind not in kinds and is_meant:
            *first, last = kinds
            allowed = f'{", ".join(first)} or {last}' if first else last
            raise UserError(f'{name}={value} is for tokenizer={allowed}, and this is {kind}')


@option(TokenizerConfigs.tokenizer, 'file')
def _file(c: TokenizerConfigs):
    from labml_mlm.tokenization.subword import FILE, SubwordTokenizer
    from labml_mlm.vocabulary.folder_tokenizer import PARTS, folder_tokenizer

    # Read, also where it is not needed
    given = c.tokenizer_path
    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    _refuse_others(c, 'file')
    if not given:
        raise UserError('tokenizer=file needs a tokenizer.json, or a folder with a tokenizer: tokenizer_path=PATH')
    path = expand_path(given)
    if path.is_dir():
        if (found := folder_tokenizer(path)) is None:
            raise UserError(f'tokenizer_path={given}: the folder has no tokenizer: neither {FILE}, '
                            'vocab.txt, nor vocab.json and merges.txt')
        return found
    if not path.exists():
        raise UserError(f'tokenizer_path={given}: there is no such file or folder'
                        f'{how_to_download(given, "tokenizer_path")}')
    if path.name in PARTS:
        raise UserError(f'tokenizer_path={given} is a part of a tokenizer: give the folder that it is in')
    return SubwordTokenizer.from_file(path)
