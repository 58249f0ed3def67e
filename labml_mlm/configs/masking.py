"""
# What is masked, as configs

How the tokens of a batch are masked, in training and in validation.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from labml.configs import option
from labml_helpers.device import DeviceConfigs

from labml_mlm.common.errors import SHARE, UserError, at_least
from labml_mlm.configs.tokens import TokenConfigs
from labml_mlm.distributed.process_group import ranks
from labml_mlm.masking.mlm import MLM, Units
from labml_mlm.masking.whole_words import spans, whole_words
from labml_mlm.optim.schedules import cosine, linear
from labml_mlm.tokenization.word_boundaries import Words


class MaskConfigs(TokenConfigs):
    """
    ## Configurations of masks
    """
    # Where to train: `available` is a CUDA device if there is one
    device: torch.device = 'available'

    # Share of the tokens to predict in training
    masking_prob: float = 0.15
    # Share by how much of the training is over: always the same, or from masking_prob_start to masking_prob
    masking_schedule: Callable[[float], float] | None = 'constant'
    # Share in the beginning
    masking_prob_start: float = 0.3
    # What is masked together in training: nothing, whole words, or spans of them
    masking: Units | None = 'token'
    # Share of the tokens to predict in validation
    valid_masking_prob: float = 0.15
    # Share of the tokens to predict that become a random token
    randomize_prob: float = 0.1
    # Share of the tokens to predict that stay as they are
    no_change_prob: float = 0.1
    # Masks a batch in training
    mlm: MLM = 'mlm'
    # Masks a batch in validation, always in the same way
    valid_mlm: MLM = 'bert'

    _ranges = {'device.cuda_device': at_least(0),
               **dict.fromkeys(['masking_prob', 'masking_prob_start', 'valid_masking_prob', 'randomize_prob',
                                'no_change_prob'], SHARE)}


@option(MaskConfigs.device, 'available')
def _device() -> DeviceConfigs:
    conf = DeviceConfigs()
    if ranks().size > 1:
        conf.set_default(DeviceConfigs.cuda_device, func=lambda: _own_gpu(conf))
    return conf


def _own_gpu(conf: DeviceConfigs) -> int:
    """The GPU of this rank, by number."""
    n, number = torch.cuda.device_count(), ranks().local_rank
    if conf.use_cuda and 0 < n <= number:
        raise UserError(f'this machine has fewer GPUs, {n}, than torchrun has started processes on it: '
                        f'--nproc_per_node={n} would do, and so would device=cpu')
    if conf.use_cuda and n:
        torch.cuda.set_device(number)
    return number


@option(MaskConfigs.device, 'cpu')
def _cpu():
    return torch.device('cpu')


@option(MaskConfigs.mlm, 'mlm')
def _mlm(c: MaskConfigs):
    return _masking(c, masking_prob=c.masking_prob, randomize_prob=c.randomize_prob, no_change_prob=c.no_change_prob,
                    units=c.masking)


@option(MaskConfigs.valid_mlm, 'bert')
def _valid_mlm(c: MaskConfigs):
    """BERT's shares of single tokens, whatever training does."""
    return _masking(c, masking_prob=c.valid_masking_prob, randomize_prob=0.1, no_change_prob=0.1)


def _masking(c: MaskConfigs, **how: Any) -> MLM:
    if c.n_tokens < c.tokenizer.n_tokens:
        raise UserError(f'n_tokens={c.n_tokens} is fewer than the {c.tokenizer.n_tokens} of the tokenizer')
    return MLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=c._unmasked_tokens,
               n_tokens=c.n_tokens, generator=torch.Generator(c.device).manual_seed(c.seed), **how)


@option(MaskConfigs.masking, 'token')
def _token():
    return None


@option(MaskConfigs.masking, 'word')
def _word(c: MaskConfigs):
    return whole_words(_words_of(c))


@option(MaskConfigs.masking, 'span')
def _span(c: MaskConfigs):
    return spans(_words_of(c))


def _words_of(c: MaskConfigs) -> Words:
    if not hasattr(c.tokenizer, 'words'):
        raise UserError('masking=word and masking=span have to know where words begin: your tokenizer has no `words` '
                        'to tell')
    return c.tokenizer.words


@option(MaskConfigs.masking_schedule, 'constant')
def _constant_masking():
    return None


@option(MaskConfigs.masking_schedule, 'linear')
def _linear_masking(c: MaskConfigs):
    return functools.partial(linear, start=c.masking_prob_start, end=c.masking_prob)


@option(MaskConfigs.masking_schedule, 'cosine')
def _cosine_masking(c: MaskConfigs):
    return functools.partial(cosine, start=c.masking_prob_start, end=c.masking_prob)

