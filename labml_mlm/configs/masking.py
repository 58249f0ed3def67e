"""
# Configs of masking

How the tokens of a batch are masked, in training and in validation.
"""
import functools
from collections.abc import Callable
from typing import Annotated, Any

import torch
from labml.configs import option

from labml_mlm.common.declarations import FRACTION, INEXACT, Item
from labml_mlm.common.errors import UserError
from labml_mlm.configs.old_text import OldTextConfigs
from labml_mlm.masking.mlm import MLM, Units
from labml_mlm.masking.whole_words import spans, whole_words
from labml_mlm.optim.schedules import cosine, linear
from labml_mlm.tokenization.word_boundaries import WordBoundaries


class MaskConfigs(OldTextConfigs):
    """
    ## Configurations of masking
    """
    masking_prob: Annotated[float, Item('Masking rate: fraction of the tokens to predict in training', FRACTION,
                                        may_change=INEXACT)] = 0.15
    masking_schedule: Annotated[Callable[[float], float] | None, Item(
        'Masking rate over training: constant, or from masking_prob_start to masking_prob',
        may_change=INEXACT)] = 'constant'
    masking_prob_start: Annotated[float, Item('Masking rate at the beginning of a schedule', FRACTION,
                                              may_change=INEXACT)] = 0.3
    masking: Annotated[Units | None, Item(
        'Unit of masking in training: single tokens, whole words, or spans of words', may_change=INEXACT)] = 'token'
    valid_masking_prob: Annotated[float, Item('Masking rate in validation', FRACTION)] = 0.15
    randomize_prob: Annotated[float, Item('Fraction of the selected tokens that become a random token', FRACTION,
                                          may_change=INEXACT)] = 0.1
    no_change_prob: Annotated[float, Item('Fraction of the selected tokens that stay as they are', FRACTION,
                                          may_change=INEXACT)] = 0.1
    mlm: Annotated[MLM, Item('Masks a training batch')] = 'mlm'
    valid_mlm: Annotated[MLM, Item('Masks a validation batch, always in the same way')] = 'bert'

    @property
    def _is_maskable(self) -> torch.Tensor:
        """Which ids a validation may mask, `[n_tokens]`."""
        known = getattr(self.valid_mlm, 'is_maskable', None)
        if known is not None:
            return known.cpu()
        is_maskable = torch.ones(self.n_tokens, dtype=torch.bool)
        is_maskable[self._unmasked_tokens] = False
        return is_maskable


@option(MaskConfigs.mlm, 'mlm')
def _mlm(c: MaskConfigs):
    return _masking(c, masking_prob=c.masking_prob, randomize_prob=c.randomize_prob, no_change_prob=c.no_change_prob,
                    units=c.masking)


@option(MaskConfigs.valid_mlm, 'bert')
def _valid_mlm(c: MaskConfigs):
    """BERT's fractions of single tokens, whatever training does."""
    return _masking(c, masking_prob=c.valid_masking_prob, randomize_prob=0.1, no_change_prob=0.1)


def _masking(c: MaskConfigs, **how: Any) -> MLM:
    if c.n_tokens < c.tokenizer.n_tokens:
        raise UserError(f'n_tokens={c.n_tokens} is less than the vocabulary of the tokenizer, {c.tokenizer.n_tokens}')
    # The model may have more ids than the tokenizer; tokens of your own may be any of them
    random_tokens = range(c.tokenizer.n_tokens) if c._is_tokenized else None
    return MLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=c._unmasked_tokens,
               n_tokens=c.n_tokens, random_tokens=random_tokens,
               generator=torch.Generator(c.device).manual_seed(c.seed), **how)


@option(MaskConfigs.masking, 'token')
def _token():
    return None


@option(MaskConfigs.masking, 'word')
def _word(c: MaskConfigs):
    return whole_words(_word_boundaries(c))


@option(MaskConfigs.masking, 'span')
def _span(c: MaskConfigs):
    return spans(_word_boundaries(c), apart=c._template.ids)


def _word_boundaries(c: MaskConfigs) -> WordBoundaries:
    if not hasattr(c.tokenizer, 'words'):
        raise UserError('masking=word and masking=span need word boundaries: your tokenizer has no `words`')
    words = c.tokenizer.words
    if c._is_tokenized and len(tokens := c.train_tokens[:64 * c.seq_len]):
        length = len(tokens) / int(words.starts(tokens.long()).sum())
        if 2 * length > c.seq_len:
            # A window would be masked as a whole or not at all
            raise UserError(f'masking=word and masking=span need words, and in this text one has {length:,.0f} tokens, '
                            f'where seq_len={c.seq_len}: use masking=token')
    return words


@option(MaskConfigs.masking_schedule, 'constant')
def _constant_masking():
    return None


@option(MaskConfigs.masking_schedule, 'linear')
def _linear_masking(c: MaskConfigs):
    return functools.partial(linear, start=c.masking_prob_start, end=c.masking_prob)


@option(MaskConfigs.masking_schedule, 'cosine')
def _cosine_masking(c: MaskConfigs):
    return functools.partial(cosine, start=c.masking_prob_start, end=c.masking_prob)
