"""
# Configs of the model

Its size and parts, the device that it is on, and how ranks share it.
"""
from typing import Annotated, Any, ClassVar

import torch
from labml.configs import option
from labml_helpers.device import DeviceConfigs

from labml_mlm.common.errors import UserError
from labml_mlm.configs.masking import MaskConfigs
from labml_mlm.distributed.parallel import DDP, FSDP, SingleProcess
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import INEXACT, DeclaredConfigs, Item, at_least
from labml_mlm.model.allocation import bounded_by
from labml_mlm.model.bert import BERTConfigs, RoBERTaConfigs
from labml_mlm.model.freeze import freeze
from labml_mlm.model.modernbert import ModernBERTConfigs
from labml_mlm.model.packed import DocumentMask
from labml_mlm.model.pairs import train_pairs
from labml_mlm.model.transformer import MLMTransformerConfigs, ShallowTransformerConfigs, TransformerMLM
from labml_mlm.tokenization.base import tokenizer_template
from labml_mlm.training.compiler import missing_compiler

# GPUs that `cuda:N` can be
_MAX_GPUS = 16


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
    d_model: Annotated[int, Item('Size of embeddings and hidden states', at_least(2),
                                 belongs_to='runs without a transformer.d_model or init_from')] = 128
    transformer: Annotated[MLMTransformerConfigs, Item(
        "The transformer; `mlm` has labml_nn's six layers, `shallow` three")] = 'mlm'
    init_from: Annotated[str, Item('What to go on from: the folder of a published encoder, as `save_pretrained` writes '
                                   'it, a run, or one of its checkpoints', belongs_to='the built-in `model`')] = ''
    freeze: Annotated[str, Item('Parts that are not trained: `embeddings`, or `layers:N` for these and the first N '
                                'layers. A matrix that the head shares with the embeddings is one of them',
                                belongs_to='the built-in `model`')] = ''
    model: Annotated[TransformerMLM, Item('The model, on `device`')] = 'transformer_mlm'
    device: Annotated[torch.device, Item('Where to train: `cuda`, or `cuda:N` by number; `mps` is the GPU of a Mac; '
                                         '`available` a CUDA device if there is one and else the CPU',
                                         may_change=INEXACT)] = 'available'
    packed_attention: Annotated[type[DocumentMask] | None, Item(
        'How attention is confined to packed documents: `masked` by a mask, `flex` by a kernel that knows of '
        'documents, for CUDA devices, where it has not run yet', may_change=INEXACT,
        belongs_to='packing=documents')] = 'masked'
    parallel: Annotated[SingleProcess, Item('Data parallelism: `ddp` replicates the model, `fsdp` shards it',
                                            may_change=INEXACT)] = 'ddp'

    # What a run learns, in its snapshot
    _objective = 'mlm'
    # The labels that it predicts, if it does
    _labels_as_json = None
    # The head of what a run goes on from, if that was fine-tuned, and the weights of its pooler, if it has one
    _earlier_head = _earlier_pooler = None
    # Sets the weights of the model that a run begins with, if they come from elsewhere
    _initialize = None
    # How many numbers the weights have that the model is to take, if they are on the disk; a few times more will do
    _n_weights: int | None = None
    # Learning rates for an encoder that is trained already, by the option of `optimizer` (docs/published.md has
    # measurements)
    _going_on_rates: ClassVar[dict[str, float]] = {'mlm': 3e-4, 'muon': 1e-3}

    def _adapted(self, model: TransformerMLM) -> TransformerMLM:
        """The model with what this objective needs, before it is moved to a device."""
        return model


@option(ModelConfigs.add_special_tokens, 'auto')
def _adds_special_tokens(c: ModelConfigs):
    """Where the transformer is made so, or sees pairs, and the tokenizer has some."""
    is_wanted = c._pair_kind is not None or getattr(c.transformer, '_adds_special_tokens', False)
    return is_wanted and tokenizer_template(c.tokenizer).length > 0


@option(ModelConfigs.transformer, 'mlm')
def _transformer(c: ModelConfigs) -> MLMTransformerConfigs:
    return _of_run(c, MLMTransformerConfigs())


@option(ModelConfigs.transformer, 'shallow')
def _shallow(c: ModelConfigs) -> ShallowTransformerConfigs:
    return _of_run(c, ShallowTransformerConfigs())


@option(ModelConfigs.transformer, 'bert')
def _bert(c: ModelConfigs) -> BERTConfigs:
    return _with_head(c, BERTConfigs())


@option(ModelConfigs.transformer, 'roberta')
def _roberta(c: ModelConfigs) -> RoBERTaConfigs:
    return _with_head(c, RoBERTaConfigs())


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


def _with_head(c: ModelConfigs, conf: BERTConfigs) -> Any:
    """The same of BERT's, with its head for pairs where there are pairs."""
    conf = _of_run(c, conf)
    for item in (BERTConfigs.has_pooler, BERTConfigs.has_next_sentence):
        conf.set_default(item, func=lambda: c._pair_kind is not None)
    return conf


@option(ModelConfigs.model, 'transformer_mlm')
def _model(c: ModelConfigs):
    with bounded_by(c._n_weights):
        model = c.transformer.transformer_mlm
    if c._pair_kind is not None:
        train_pairs(model, d_model=c.transformer.d_model, seed=c.seed)
    init_from = c.init_from
    if c._initialize is not None:
        c._initialize(model)
    elif init_from:
        raise UserError('init_from is read by labml_mlm.train, which nothing has called')
    elif c.vocab_extend:
        raise UserError(f'vocab_extend={c.vocab_extend} adds tokens to those of init_from: give it, too')
    model = c._adapted(model)
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


@option(ModelConfigs.device, 'cuda')
def _cuda() -> MLMDeviceConfigs:
    """The same as `available`, where that has to be one."""
    conf = _available_device()
    conf.set_default(MLMDeviceConfigs.device, func=lambda: _cuda_device(conf))
    return conf


def _cuda_device(conf: MLMDeviceConfigs) -> torch.device:
    if not conf.use_cuda:
        raise UserError('device=cuda does not go with device.use_cuda=false')
    return _existing_gpu('cuda', conf.cuda_device)


def _existing_gpu(given: str, number: int) -> torch.device:
    """Raises `UserError` if there is none of that number."""
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= n:
        found = f'of {n} CUDA devices, the last one is cuda:{n - 1}' if n else 'there is no CUDA device here'
        raise UserError(f'device={given}: {found}. device=available takes what there is')
    return torch.device('cuda', number)


def _add_numbered(number: int):
    @option(ModelConfigs.device, f'cuda:{number}')
    def _numbered():
        if ranks().size > 1:
            raise UserError(f'device=cuda:{number}: with several ranks, each has a GPU of its own, with device=cuda')
        return _existing_gpu(f'cuda:{number}', number)


for _number in range(_MAX_GPUS):
    _add_numbered(_number)


@option(ModelConfigs.device, 'mps')
def _mps():
    if not torch.backends.mps.is_available():
        raise UserError('device=mps: this is no Mac whose GPU torch can use. device=available takes what there is')
    if ranks().size > 1:
        raise UserError('device=mps: a Mac has a single GPU, and there are several ranks. Use device=cpu')
    return torch.device('mps')


@option(ModelConfigs.packed_attention, 'masked')
def _masked():
    return None


@option(ModelConfigs.packed_attention, 'flex')
def _flex(c: ModelConfigs):
    if c.device.type != 'cuda':
        raise UserError(f'packed_attention=flex is for CUDA devices, and the device is {c.device.type}: use '
                        'packed_attention=masked')
    if missing := missing_compiler(c.device):
        raise UserError(f'packed_attention=flex: {missing}. Use packed_attention=masked')
    return DocumentMask


@option(ModelConfigs.parallel, 'ddp')
def _ddp():
    return SingleProcess() if ranks().size == 1 else DDP()


@option(ModelConfigs.parallel, 'fsdp')
def _fsdp():
    return SingleProcess() if ranks().size == 1 else FSDP(ranks())
