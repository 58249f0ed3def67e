"""
# Configs of tokens and batches

The tokens of the text, and how they become batches.
"""
import functools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from labml import logger
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml.logger import Text
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.configs.tokenizer import TokenizerConfigs
from labml_mlm.data.batch import NO_TEMPLATE, PairTemplate, Template
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.packing import PackedDocuments, Windows, WindowSource
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import INEXACT, Item, at_least
from labml_mlm.items.schema import chosen_value, is_given
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.screen.console import warn
from labml_mlm.screen.long_work import long_work
from labml_mlm.sentences.boundaries import SentenceRule
from labml_mlm.sentences.pairs import KINDS, SentencePairs
from labml_mlm.tokenization.base import tokenizer_template

# What is as by default with sentence_pairs
_OF_PAIRS = {'packing': 'stream', 'seq_len_schedule': '', 'old_path': [], 'replay_path': []}
_NOT_OWN = {'train_loader': 'shuffled_windows', 'valid_loader': 'all_windows', 'tokens': 'encoded',
            'train_tokens': 'of_tokens', 'valid_tokens': 'of_tokens', 'train_document_ends': 'of_tokens',
            'valid_document_ends': 'of_tokens'}
_WITHOUT_PAIRS = 'runs without sentence_pairs'
# The options with which training tokens are those of the text
_TOKENIZED = {'tokens': 'encoded', 'train_tokens': 'of_tokens', 'train_loader': 'shuffled_windows'}


class Tokens(NamedTuple):
    """Token ids of both texts, `[n]` each, of any integer type, and the ends of documents, `[n_documents]` each."""
    train: Tensor
    valid: Tensor
    train_document_ends: Tensor
    valid_document_ends: Tensor


class TokenConfigs(TokenizerConfigs):
    """
    ## Configurations of tokens and batches
    """
    n_tokens: Annotated[int, Item('Vocabulary size of the model, special tokens included', at_least(1))] \
        = 'from_tokenizer'
    padding_token: Annotated[int, Item('Id of `[PAD]`', at_least(0))] = 'from_tokenizer'
    mask_token: Annotated[int, Item('Id of `[MASK]`', at_least(0))] = 'from_tokenizer'
    no_mask_tokens: Annotated[list[int], Item('Ids of tokens that are never masked, in addition to the special tokens',
                                              at_least(0))] = []
    tokens: Annotated[Tokens, Item('The text as tokens', belongs_to=_WITHOUT_PAIRS)] = 'encoded'
    train_tokens: Annotated[Tensor, Item('Token ids of the training text, `[n]`', belongs_to=_WITHOUT_PAIRS)] \
        = 'of_tokens'
    valid_tokens: Annotated[Tensor, Item('Token ids of the validation text, `[n]`', belongs_to=_WITHOUT_PAIRS)] \
        = 'of_tokens'
    train_document_ends: Annotated[Tensor, Item('Ends of the documents of the training text, `[n_documents]`',
                                                aliases=('train_ends',),
                                                belongs_to='packing=documents')] = 'of_tokens'
    valid_document_ends: Annotated[Tensor, Item('Ends of the documents of the validation text, `[n_documents]`',
                                                aliases=('valid_ends',),
                                                belongs_to='packing=documents')] = 'of_tokens'

    add_special_tokens: Annotated[bool, Item(
        'Put special tokens of the tokenizer around each window, as in `[CLS] … [SEP]`; `auto` does for transformers '
        'that expect it: bert, roberta and modernbert')] = 'auto'

    seq_len: Annotated[int, Item('Sequence length, with special tokens around it', at_least(1), unit='tokens')] = 32
    seq_len_schedule: Annotated[str, Item('Shorter sequences first: 8:0.1,16:0.3,32 is 8 tokens until a tenth of '
                                          'training, and 16 until three tenths', may_change=INEXACT)] = ''
    is_token_budget_constant: Annotated[bool, Item('Grow the batch size while sequences are shorter, to keep the token '
                                                   'budget of a step', may_change=INEXACT,
                                                   aliases=('is_tokens_constant',),
                                                   belongs_to='a seq_len_schedule')] = True
    batch_size: Annotated[int, Item('Sequences in a training batch', at_least(1), may_change=INEXACT)] = 64
    valid_batch_size: Annotated[int, Item('Sequences in a validation batch', at_least(1))] = 64
    packing: Annotated[Callable[[str], WindowSource], Item(
        'How windows are cut: from a `stream` of all documents, or `documents` packed so that they do not attend to '
        'each other', belongs_to=_WITHOUT_PAIRS)] = 'stream'
    train_loader: Annotated[TrainLoader, Item('Training batches of token ids, `[seq_len, batch_size]`')] \
        = 'shuffled_windows'
    valid_loader: Annotated[ValidLoader, Item('Validation batches of token ids, `[seq_len, batch_size]`')] \
        = 'all_windows'

    sentence_pairs: Annotated[str, Item(
        'Train on two spans of sentences a sequence, `[CLS] A [SEP] B [SEP]`, and on a label of both beside masking: '
        '`nsp`: is B the next one or of another document; `sop`: in which order are they. `none` does not')] = 'none'
    sentence_rule: Annotated[str, Item('Where a sentence ends, for sentence_pairs: `unicode` is by UAX #29, and `line` '
                                       'for texts with one sentence a line', belongs_to='sentence_pairs=nsp and sop'
                                       )] = 'unicode'

    @functools.cached_property
    def _pair_kind(self) -> str | None:
        """`nsp` or `sop`; `None` without pairs. Raises `UserError` for what does not go with them."""
        kind = self.sentence_pairs
        if kind not in ('none', *KINDS):
            raise UserError(f'sentence_pairs={kind}: it must be none, nsp or sop')
        if kind == 'none':
            if is_given(self, 'sentence_rule'):
                raise UserError(f'sentence_rule={self.sentence_rule} is for sentence_pairs=nsp and sop')
            return None
        for name, value in _OF_PAIRS.items():
            if (given := chosen_value(self, name)) != value:
                raise UserError(f'sentence_pairs={kind} does not go with {name}={given}')
        for name, value in _NOT_OWN.items():
            given = chosen_value(self, name)
            if not isinstance(given, str) or given != value:
                raise UserError(f'sentence_pairs={kind} does not go with `{name}` of your own')
        if chosen_value(self, 'add_special_tokens') is False:
            raise UserError(f'sentence_pairs={kind} puts special tokens around and between spans: it does not go with '
                            'add_special_tokens=false')
        return kind

    @property
    def _pair_template(self) -> PairTemplate:
        """The special tokens around and between the spans of a pair."""
        template = getattr(self.tokenizer, 'pair_template', None)
        if template is None or not template.before:
            raise UserError(f'sentence_pairs={self.sentence_pairs} needs a tokenizer that puts special tokens around '
                            'and between two texts, as in [CLS] A [SEP] B [SEP], and this one does not')
        return template

    @functools.cached_property
    def _sentences(self) -> Tokens:
        """The text as tokens, with the ends of sentences in place of documents, and empty ones after documents."""
        return self._encode(SentenceRule(self.sentence_rule))

    def _encode(self, *units: SentenceRule) -> Tokens:
        """The text as tokens, with the ends of documents, or of smaller units."""
        corpus, tokenizer = self.corpus, self.tokenizer
        with long_work('Tokenizing the text'):
            found = ranks().main_first(lambda: self._token_cache.tokens(corpus, tokenizer, *units))
            valid, valid_ends = found.valid, found.valid_ends
            if self._valid_cache is not None:
                separate = ranks().main_first(
                    lambda: self._valid_cache.tokens(self._valid_cache.corpus(), tokenizer, *units))
                valid, valid_ends = separate.train, separate.train_ends
        return Tokens(*map(torch.from_numpy, (found.train, valid, found.train_ends, valid_ends)))

    def _sentence_windows(self, part: str) -> SentencePairs:
        """Pairs of spans of a part of the text, `train` or `valid`."""
        text = {'train': 'text to train on', 'valid': 'validation text'}[part]
        windows = SentencePairs(
            getattr(self._sentences, part).numpy(), getattr(self._sentences, f'{part}_document_ends').numpy(),
            kind=self._pair_kind, seq_len=self.seq_len, padding_token=self.padding_token, template=self._pair_template,
            about=text)
        if windows.n_left_out and has_experiment():
            logger.log(f'{windows.n_left_out:,} of {windows.n_documents:,} documents of the {text} are left out: they '
                       'have one sentence only', Text.warning)
        return windows

    @property
    def _training_text(self) -> Tensor:
        """Token ids of the training text, `[n]`."""
        return self.train_tokens if self._pair_kind is None else self._sentences.train

    @property
    def _separators(self) -> tuple[int, ...]:
        """Ids of the special tokens around and between texts."""
        pairs = () if self._pair_kind is None else sum(self._pair_template[:3], ())
        return (*self._template.ids, *pairs)

    @property
    def _unmasked_tokens(self) -> list[int]:
        """Ids of all tokens that are never masked and never predicted."""
        return sorted({*self.no_mask_tokens, *self.tokenizer.special.all, *self._separators, self.padding_token,
                       self.mask_token})

    @property
    def _template(self) -> Template:
        """The special tokens around each window; none if they are off."""
        if not self.add_special_tokens:
            return NO_TEMPLATE
        template = tokenizer_template(self.tokenizer)
        if not template.length:
            raise UserError('add_special_tokens=true: the tokenizer has no special tokens to put around windows, like '
                            '[CLS] and [SEP]. Use add_special_tokens=false, or another tokenizer')
        return template

    @property
    def _train_windows(self) -> WindowSource:
        """The windows of the training loader."""
        return self.packing('train') if self._pair_kind is None else self._sentence_windows('train')

    def _all_windows(self, part: str) -> ValidLoader:
        """All windows of a part of the text, in order."""
        if self._pair_kind is not None:
            return ValidLoader(self._sentence_windows(part), batch_size=self.valid_batch_size)
        windows, tokens = self.packing(part), getattr(self, f'{part}_tokens')
        if not len(windows) and len(tokens):
            # A text shorter than a window is one window
            windows = Windows(tokens, seq_len=len(tokens) + self._template.length, template=self._template)
        return ValidLoader(windows, batch_size=self.valid_batch_size)

    @property
    def _is_tokenized(self) -> bool:
        """Are the training tokens those that the tokenizer makes of the text?"""
        return all(chosen_value(self, name) == option for name, option in _TOKENIZED.items())


@option(TokenConfigs.n_tokens, 'from_tokenizer')
def _n_tokens(c: TokenConfigs):
    return c.tokenizer.n_tokens


@option(TokenConfigs.padding_token, 'from_tokenizer')
def _padding_token(c: TokenConfigs):
    return c.tokenizer.special.pad


@option(TokenConfigs.mask_token, 'from_tokenizer')
def _mask_token(c: TokenConfigs):
    return c.tokenizer.special.mask


@option(TokenConfigs.tokens, 'encoded')
def _encoded(c: TokenConfigs):
    found = c._encode()
    if len(found.train_document_ends) > 1 and has_experiment():
        logger.log(f'{len(found.train_document_ends):,} documents to train on ({len(found.train):,} tokens), '
                   f'{len(found.valid_document_ends):,} to validate on ({len(found.valid):,} tokens)', Text.meta)
    return found


@option(TokenConfigs.train_tokens, 'of_tokens')
def _train_tokens(c: TokenConfigs):
    return c.tokens.train


@option(TokenConfigs.valid_tokens, 'of_tokens')
def _valid_tokens(c: TokenConfigs):
    return c.tokens.valid


@option(TokenConfigs.train_document_ends, 'of_tokens')
def _train_document_ends(c: TokenConfigs):
    return c.tokens.train_document_ends


@option(TokenConfigs.valid_document_ends, 'of_tokens')
def _valid_document_ends(c: TokenConfigs):
    return c.tokens.valid_document_ends


@option(TokenConfigs.packing, 'stream')
def _stream(c: TokenConfigs):
    """Documents run on, separated by `[SEP]`."""
    return lambda part: Windows(getattr(c, f'{part}_tokens'), seq_len=c.seq_len, template=c._template)


@option(TokenConfigs.packing, 'documents')
def _documents(c: TokenConfigs):
    """No window spans two documents; short ones share a window, and do not attend to each other."""
    return lambda part: PackedDocuments(getattr(c, f'{part}_tokens'), getattr(c, f'{part}_document_ends'),
                                        seq_len=c.seq_len, padding_token=c.padding_token, template=c._template)


@option(TokenConfigs.train_loader, 'shuffled_windows')
def _train_loader(c: TokenConfigs):
    shorter = {}
    if c.seq_len_schedule:
        if c._template.length:
            raise UserError('seq_len_schedule splits windows, and special tokens would not be around the parts: use '
                            'add_special_tokens=false')
        lengths = seq_len_schedule(c.seq_len_schedule, seq_len=c.seq_len)
        if all(lengths(i / 100) == c.seq_len for i in range(100)):
            warn(f'seq_len_schedule={c.seq_len_schedule} has only one length, seq_len={c.seq_len}: it changes nothing')
        shorter = {'seq_len_at': lambda epochs: lengths(min(1., (epochs - c.progress.left_out) / c._n_epochs)),
                   'is_token_budget_constant': c.is_token_budget_constant}
    return TrainLoader(c._train_windows, batch_size=c.batch_size, seed=c.seed, ranks=ranks(), **shorter)


@option(TokenConfigs.valid_loader, 'all_windows')
def _valid_loader(c: TokenConfigs):
    return c._all_windows('valid')
