"""
# From a text to batches, as configs

How a text becomes tokens, and how those become batches.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from labml import logger, monit
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml.logger import Text
from torch import Tensor

from labml_mlm.common.errors import UserError, at_least
from labml_mlm.configs.text import TextConfigs
from labml_mlm.data.documents import Files
from labml_mlm.data.files import expanded
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.packing import Packs
from labml_mlm.data.windows import Windows, WindowSource
from labml_mlm.distributed.process_group import ranks
from labml_mlm.optim.schedules import seq_len_schedule
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer


class Tokens(NamedTuple):
    """Token ids for training and for validation, `[n]` each, of any type of whole numbers, and where documents end."""
    train: Tensor
    valid: Tensor
    # `[n_documents]` each
    train_ends: Tensor
    valid_ends: Tensor


class TokenConfigs(TextConfigs):
    """
    ## Configurations of tokens and batches
    """
    # How text becomes tokens
    tokenizer: Tokenizer = 'character'
    # Path of a tokenizer.json, for tokenizer=file
    tokenizer_path: str = ''
    # Tokens that a tokenizer which is trained on the text may have, special ones included
    vocab_size: int = 8192
    # Characters of the text, from all over it, that it is trained on
    tokenizer_sample: int = 100_000_000
    # Size of the vocabulary, special tokens included
    n_tokens: int = 'from_tokenizer'
    # Id of `[PAD]`
    padding_token: int = 'from_tokenizer'
    # Id of `[MASK]`
    mask_token: int = 'from_tokenizer'
    # Ids of tokens that are never masked, beside the special ones of the tokenizer
    no_mask_tokens: list[int] = []
    # The text as tokens
    tokens: Tokens = 'encoded'
    # Token ids of the training text, `[n]`
    train_tokens: Tensor = 'of_tokens'
    # Token ids of the validation text
    valid_tokens: Tensor = 'of_tokens'
    # Where the documents of the training text end, `[n_documents]`
    train_ends: Tensor = 'of_tokens'
    # Where those of the validation text end
    valid_ends: Tensor = 'of_tokens'

    # Tokens in a sequence
    seq_len: int = 32
    # Shorter sequences first, as 8:0.1,16:0.3,32: 8 tokens until a tenth of training is over, 16 until three tenths
    seq_len_schedule: str = ''
    # Does a batch have more sequences while they are shorter, or else fewer tokens?
    is_tokens_constant: bool = True
    # Sequences in a training batch
    batch_size: int = 64
    # Sequences in a validation batch
    valid_batch_size: int = 64
    # How windows are cut: from a stream of all documents, or so that no token sees another document
    packing: Callable[[str], WindowSource] = 'stream'
    # Training batches of token ids, `[seq_len, batch_size]`
    train_loader: TrainLoader = 'shuffled_windows'
    # Validation batches of token ids
    valid_loader: ValidLoader = 'all_windows'

    _ranges = {**dict.fromkeys(['n_tokens', 'vocab_size', 'tokenizer_sample', 'seq_len', 'batch_size',
                                'valid_batch_size'], at_least(1)),
               **dict.fromkeys(['padding_token', 'mask_token', 'no_mask_tokens'], at_least(0))}
    # That of a run which goes on; it is not made anew
    _saved_tokenizer = None

    @property
    def _unmasked_tokens(self) -> list[int]:
        """Ids of all tokens that are never masked and never an answer."""
        return sorted({*self.no_mask_tokens, *self.tokenizer.special.all, self.padding_token, self.mask_token})


@option(TokenConfigs.tokenizer, 'character')
def _character(c: TokenConfigs):
    return CharacterTokenizer.from_characters(c.corpus.characters)


@option(TokenConfigs.tokenizer, 'bpe')
def _bpe(c: TokenConfigs):
    return _trained(c, 'bpe')


@option(TokenConfigs.tokenizer, 'wordpiece')
def _wordpiece(c: TokenConfigs):
    return _trained(c, 'wordpiece')


@option(TokenConfigs.tokenizer, 'basic_english')
def _basic_english(c: TokenConfigs):
    return _trained(c, 'basic_english')


def _trained(c: TokenConfigs, kind: str) -> Tokenizer:
    """A tokenizer that was trained on the text, now or before."""
    from labml_mlm.tokenization import subword as subwords
    from labml_mlm.tokenization import train_tokenizer

    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    corpus, train = c.corpus, getattr(train_tokenizer, kind)
    with monit.section(f'Tokenizer {kind}', is_not_in_loop=True):
        text = ranks().main_first(lambda: c._token_cache.trained(
            corpus, [kind, c.vocab_size], sample=c.tokenizer_sample,
            train=lambda texts: train(texts, vocab_size=c.vocab_size).files[subwords.FILE]))
    return subwords.SubwordTokenizer.from_json(text)


@option(TokenConfigs.tokenizer, 'file')
def _file(c: TokenConfigs):
    from labml_mlm.tokenization import subword as subwords

    if c._saved_tokenizer is not None:
        return c._saved_tokenizer
    if not c.tokenizer_path:
        raise UserError('tokenizer=file needs a tokenizer.json: tokenizer_path=PATH')
    return subwords.from_file(expanded(c.tokenizer_path))


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
    corpus, tokenizer = c.corpus, c.tokenizer
    with monit.section('Tokens', is_not_in_loop=True) if isinstance(c.text, Files) else contextlib.nullcontext():
        found = ranks().main_first(lambda: c._token_cache.tokens(corpus, tokenizer))
        valid, valid_ends = found.valid, found.valid_ends
        if c._valid_cache is not None:
            of_its_own = ranks().main_first(lambda: c._valid_cache.tokens(c._valid_cache.corpus(), tokenizer))
            valid, valid_ends = of_its_own.train, of_its_own.train_ends
    if len(found.train_ends) > 1 and has_experiment():
        logger.log(f'{len(found.train_ends):,} documents to train on ({len(found.train):,} tokens), '
                   f'{len(valid_ends):,} to validate on ({len(valid):,} tokens)', Text.meta)
    return Tokens(*map(torch.from_numpy, (found.train, valid, found.train_ends, valid_ends)))


@option(TokenConfigs.train_tokens, 'of_tokens')
def _train_tokens(c: TokenConfigs):
    return c.tokens.train


@option(TokenConfigs.valid_tokens, 'of_tokens')
def _valid_tokens(c: TokenConfigs):
    return c.tokens.valid


@option(TokenConfigs.train_ends, 'of_tokens')
def _train_ends(c: TokenConfigs):
    return c.tokens.train_ends


@option(TokenConfigs.valid_ends, 'of_tokens')
def _valid_ends(c: TokenConfigs):
    return c.tokens.valid_ends


@option(TokenConfigs.packing, 'stream')
def _stream(c: TokenConfigs):
    """Documents run on, with `[SEP]` between two."""
    return lambda part: Windows(getattr(c, f'{part}_tokens'), seq_len=c.seq_len)


@option(TokenConfigs.packing, 'documents')
def _documents(c: TokenConfigs):
    """No window goes across a document; short ones share a window, and do not attend to each other."""
    return lambda part: Packs(getattr(c, f'{part}_tokens'), getattr(c, f'{part}_ends'), seq_len=c.seq_len,
                              padding_token=c.padding_token)


@option(TokenConfigs.train_loader, 'shuffled_windows')
def _train_loader(c: TokenConfigs):
    seq_len_at = None
    if c.seq_len_schedule:
        lengths = seq_len_schedule(c.seq_len_schedule, seq_len=c.seq_len)
        seq_len_at = lambda epochs: lengths(epochs / c.epochs)  # noqa: E731
    return TrainLoader(c.packing('train'), batch_size=c.batch_size, seed=c.seed, ranks=ranks(),
                       seq_len_at=seq_len_at, is_tokens_constant=c.is_tokens_constant)


@option(TokenConfigs.valid_loader, 'all_windows')
def _valid_loader(c: TokenConfigs):
    windows = c.packing('valid')
    if not len(windows) and len(c.valid_tokens):
        # A text that is shorter than a window is one
        windows = Windows(c.valid_tokens, seq_len=len(c.valid_tokens))
    return ValidLoader(windows, batch_size=c.valid_batch_size)

