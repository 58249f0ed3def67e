"""
# Configs of the model

Its size and parts, the device that it is on, and how ranks share it.
"""
from typing import Annotated, Any

import torch
from labml.configs import option
from labml_helpers.device import DeviceConfigs

from labml_mlm.common.declarations import INEXACT, DeclaredConfigs, Item, at_least
from labml_mlm.common.errors import UserError
from labml_mlm.configs.masking import MaskConfigs
from labml_mlm.distributed.parallel import DDP, FSDP, SingleProcess
from labml_mlm.distributed.process_group import ranks
from labml_mlm.model.bert import BERTConfigs, RoBERTaConfigs
from labml_mlm.model.freeze import freeze
from labml_mlm.model.modernbert import ModernBERTConfigs
from labml_mlm.model.transformer import MLMTransformerConfigs, TransformerMLM
from labml_mlm.tokenization.base import tokenizer_template


class MLMDeviceConfigs(DeclaredConfigs, DeviceConfigs):
    """
    ## Configurable device

    labml_helpers'. Of several ranks, each takes a GPU of its own.
    """
    use_cuda: Annotated[bool, Item('Use a CUDA device if there is one', may_change=INEXACT)]
    cuda_device: Annotated[int, Item('Number of the CUDA device', at_least(0), may_change=INEXACT)]
    device_info: Annotated[Any, Item('Description of the device')]
    device: Annotated[torch.device, Item('The device')]


class ModelConfigs(MaskConfigs):
    """
    ## Configurations of the model
    """
    d_model: Annotated[int, Item('Size of embeddings and hidden states', at_least(2))] = 128
    transformer: Annotated[MLMTransformerConfigs, Item('The transformer')] = 'mlm'
    init_from: Annotated[str, Item('What to go on from: the folder of a published encoder, as `save_pretrained` writes '
                                   'it, a run, or one of its checkpoints')] = ''
    freeze: Annotated[str, Item('Parts that are not trained: `embeddings`, or `layers:N` for these and the first N '
                                'layers. A matrix that the head shares with the embeddings is one of them')] = ''
    model: Annotated[TransformerMLM, Item('The model, on `device`')] = 'transformer_mlm'
    device: Annotated[torch.device, Item('Where to train; `available` is a CUDA device if there is one',
                                         may_change=INEXACT)] = 'available'
    parallel: Annotated[SingleProcess, Item('Data parallelism: `ddp` replicates the model, `fsdp` shards it',
                                            may_change=INEXACT)] = 'ddp'

    # Sets the weights of the model that a run begins with, if they come from elsewhere
    _initialize = None


@option(ModelConfigs.add_special_tokens, 'auto')
def _adds_special_tokens(c: ModelConfigs):
    """Where the transformer is made so, and the tokenizer has some."""
    return getattr(c.transformer, '_adds_special_tokens', False) and tokenizer_template(c.tokenizer).length > 0


@option(ModelConfigs.transformer, 'mlm')
def _transformer(c: ModelConfigs) -> MLMTransformerConfigs:
    return _of_run(c, MLMTransformerConfigs())


@option(ModelConfigs.transformer, 'bert')
def _bert(c: ModelConfigs) -> BERTConfigs:
    return _of_run(c, BERTConfigs())


@option(ModelConfigs.transformer, 'roberta')
def _roberta(c: ModelConfigs) -> RoBERTaConfigs:
    return _of_run(c, RoBERTaConfigs())


@option(ModelConfigs.transformer, 'modernbert')
def _modernbert(c: ModelConfigs) -> ModernBERTConfigs:
    return _of_run(c, ModernBERTConfigs())


def _of_run(c: ModelConfigs, conf: MLMTransformerConfigs) -> Any:
    """Gives the configs of a transformer what follows from the run."""
    conf.set_default(MLMTransformerConfigs.d_model, func=lambda: c.d_model)
    conf.set_default(MLMTransformerConfigs.n_src_vocab, func=lambda: c.n_tokens)
    conf.set_default(MLMTransformerConfigs.n_tgt_vocab, func=lambda: c.n_tokens)
    conf.set_default(MLMTransformerConfigs.padding_token, func=lambda: c.padding_token)
    conf.set_default(MLMTransformerConfigs.seed, func=lambda: c.seed)
    return conf


@option(ModelConfigs.model, 'transformer_mlm')
def _model(c: ModelConfigs):
    model = c.transformer.transformer_mlm
    if c._initialize is not None:
        c._initialize(model)
    elif c.init_from:
        raise UserError('init_from is read by labml_mlm.train, which nothing has called')
    elif c.vocab_extend:
        raise UserError(f'vocab_extend={c.vocab_extend} adds tokens to those of init_from: give it, too')
    if c.freeze:
        freeze(model, c.freeze)
    return c.parallel.parallelize(model, c.device)


@option(ModelConfigs.device, 'available')
def _available_device() -> MLMDeviceConfigs:
    conf = MLMDeviceConfigs()
    if ranks().size > 1:
        conf.set_default(MLMDeviceConfigs.cuda_device, func=lambda: _own_gpu(conf))
    return conf


def _own_gpu(conf: MLMDeviceConfigs) -> int:
    """The number of this rank's GPU."""
    n, number = torch.cuda.device_count(), ranks().local_rank
    if conf.use_cuda and 0 < n <= number:
        raise UserError(f'torchrun has started more processes on this machine than it has GPUs, {n}: use '
                        f'--nproc_per_node={n} or device=cpu')
    if conf.use_cuda and n:
        torch.cuda.set_device(number)
    return number


@option(ModelConfigs.device, 'cpu')
def _cpu():
    return torch.device('cpu')


@option(ModelConfigs.parallel, 'ddp')
def _ddp():
    return SingleProcess() if ranks().size == 1 else DDP()


@option(ModelConfigs.parallel, 'fsdp')
def _fsdp():
    return SingleProcess() if ranks().size == 1 else FSDP(ranks())
