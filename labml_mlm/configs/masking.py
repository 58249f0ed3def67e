"""
# Configs of masking

How the tokens of a batch are masked, in training and in validation.
"""
import functools
from collections.abc import Callable
from typing import Annotated, Any

import torch
from labml.configs import option

from labml_mlm.common.errors import UserError
from labml_mlm.configs.old_text import OldTextConfigs
from labml_mlm.items.declarations import FRACTION, INEXACT, Item, Range
from labml_mlm.items.schema import chosen_value
from labml_mlm.masking.mlm import MLM, Units
from labml_mlm.masking.whole_words import spans, whole_words
from labml_mlm.optim.schedules import cosine, linear
from labml_mlm.screen.console import warn
from labml_mlm.tokenization.word_boundaries import WordBoundaries

# Without a mask there would be nothing to learn, and nothing to measure
_RATE = Range(0, 1, is_open=True)
# The options with which the validation set is a part of the text
_SPLIT = {'tokens': 'encoded', 'train_tokens': 'of_tokens', 'valid_tokens': 'of_tokens', 'valid_loader': 'all_windows'}
# Masked tokens of a validation set
_FEW_MASKED = 100


class MaskConfigs(OldTextConfigs):
    """
    ## Configurations of masking
    """
    masking_prob: Annotated[float, Item('Masking rate: fraction of the tokens to predict in training', _RATE,
                                        may_change=INEXACT)] = 0.15
    masking_schedule: Annotated[Callable[[float], float] | None, Item(
        'Masking rate over training: constant, or from masking_prob_start to masking_prob',
        may_change=INEXACT)] = 'constant'
    masking_prob_start: Annotated[float, Item('Masking rate at the beginning of a schedule', _RATE,
                                              may_change=INEXACT, belongs_to='masking_schedule=linear and cosine'
                                              )] = 0.3
    masking: Annotated[Units | None, Item(
        'Unit of masking in training: single tokens, whole words, or spans of words', may_change=INEXACT)] = 'token'
    valid_masking_prob: Annotated[float, Item('Masking rate in validation', _RATE)] = 0.15
    randomize_prob: Annotated[float, Item('Fraction of the selected tokens that become a random token', FRACTION,
                                          may_change=INEXACT)] = 0.1
    no_change_prob: Annotated[float, Item('Fraction of the selected tokens that stay as they are', FRACTION,
                                          may_change=INEXACT)] = 0.1
    mlm: Annotated[MLM, Item('Masks a training batch')] = 'mlm'
    valid_mlm: Annotated[MLM, Item('Masks a validation batch, always in the same way')] = 'bert'

    def _warn_of_validation_set(self, tokens: torch.Tensor):
        """Says if the validation set, `[n]`, is too small, or not of the size that was asked for."""
        is_split = not self.valid_path and all(chosen_value(self, name) == option for name, option in _SPLIT.items())
        if is_split and self.corpus.n_documents > 1:
            n = len(self._training_text) + len(tokens)
            if _is_far(share := len(tokens) / n, self.valid_fraction):
                warn(f'The validation set is {share:.1%} of the text ({len(tokens):,} of {n:,} tokens), and not '
                     f'valid_fraction={self.valid_fraction:g}: documents are chosen by hash, and here they are few or '
                     'of different lengths. valid_path=FILE gives one of your choice')
        if chosen_value(self, 'valid_mlm') == 'bert' and self.valid_masking_prob > 0:
            n_masked = 0
            for part in tokens.split(1 << 20):
                n_masked += self.valid_masking_prob * int(self._is_maskable[part.long()].sum())
                if n_masked >= _FEW_MASKED:
                    return
            warn(f'The validation set has {len(tokens):,} tokens, of which some {n_masked:,.0f} are masked: loss and '
                 'accuracy of so few depend on chance. A larger valid_fraction, or valid_path=FILE, gives more')

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


def _is_far(share: float, wanted: float) -> bool:
    """Is a part of a text, or the rest of it, less than half or more than twice of what was wanted?"""
    return share > 2 * wanted or 2 * share < wanted or 2 * (1 - share) < 1 - wanted


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
    return spans(_word_boundaries(c), apart=c._separators)


def _word_boundaries(c: MaskConfigs) -> WordBoundaries:
    if not hasattr(c.tokenizer, 'words'):
        raise UserError('masking=word and masking=span need word boundaries: your tokenizer has no `words`')
    words = c.tokenizer.words
    if c._is_tokenized and len(tokens := c._training_text[:64 * c.seq_len]):
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
    return _schedule(c, linear)


@option(MaskConfigs.masking_schedule, 'cosine')
def _cosine_masking(c: MaskConfigs):
    return _schedule(c, cosine)


def _schedule(c: MaskConfigs, kind: Callable[..., float]) -> Callable[[float], float]:
    if c.masking_prob_start == c.masking_prob:
        warn(f'masking_prob_start and masking_prob are both {c.masking_prob:g}: masking_schedule={kind.__name__} '
             'changes nothing')
    return functools.partial(kind, start=c.masking_prob_start, end=c.masking_prob)
