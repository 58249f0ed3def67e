"""
# MLM on labml

`MLMConfigs` is a whole run: every item can be overridden by name, and most have options to choose from. The options are
the small functions below, next to what they need.
"""
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import torch
from labml import logger, tracker
from labml.configs import option
from labml.logger import Text
from labml_helpers.train_valid import BatchIndex
from torch import Tensor, nn

from labml_mlm.common.declarations import INEXACT, Item, at_least
from labml_mlm.common.errors import UserError
from labml_mlm.configs.training import TrainingConfigs
from labml_mlm.data.batch import NO_TEMPLATE, Batch
from labml_mlm.data.batch_reader import BatchReader
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.replay import MixedWindows
from labml_mlm.distributed.parallel import is_dtensor
from labml_mlm.distributed.process_group import ranks
from labml_mlm.masking.mlm import MLM
from labml_mlm.optim.optimizer import current_lr
from labml_mlm.runs.run import Run
from labml_mlm.runs.samples_log import ValidationSamples
from labml_mlm.training.engine import Engine, should_compile
from labml_mlm.training.metrics import ValidMetrics
from labml_mlm.training.sampler import Sampler, log_samples
from labml_mlm.training.valid_masking import RepeatedMasking


class MLMConfigs(TrainingConfigs):
    """
    ## Configurations of an MLM run

    labml_nn's MLM items keep their names. Subclass it to add items and options of your own.
    """
    batch_first: Annotated[bool, Item('Batches of a loader of your own are `[batch_size, seq_len]`')] = False
    is_padded: Annotated[bool, Item('`[PAD]` in batches of a loader of your own is padding, not to be attended to')] \
        = False
    batch_reader: Annotated[BatchReader, Item('Reads what a loader gives')] = 'checked'

    precision: Annotated[torch.dtype, Item('Precision of matrix products; `auto` is bf16 on GPUs that have it',
                                           may_change=INEXACT)] = 'auto'
    compile: Annotated[bool, Item('Compile the model; `auto` does where that saves time within the run',
                                  may_change=INEXACT)] = 'auto'
    gradient_accumulation_steps: Annotated[int, Item(
        'Micro-batches per step, for a batch that does not fit into memory', at_least(1), may_change=INEXACT,
        aliases=('accumulate',))] = 1
    engine: Annotated[Engine, Item('Forward and backward')] = 'engine'

    prompt: Annotated[list[str], Item('Texts to mask and fill in at each validation, in place of windows of the '
                                      'validation text', may_change=True)] = []
    n_prompts: Annotated[int, Item('Number of those windows', at_least(0), may_change=True)] = 3
    sampler: Annotated[Sampler, Item('Masks the prompts, and prints what the model fills in')] = 'prompts'

    def init(self):
        """Builds everything that a run needs, so that errors are found before it starts."""
        super().init()
        if self.parallel.is_sharded and not any(map(is_dtensor, self.model.parameters())):
            raise UserError('parallel=fsdp: a `model` of your own must be the result of '
                            '`c.parallel.parallelize(model, c.device)`. Otherwise use parallel=ddp')
        if ranks().size > 1:
            for name in ('mlm', 'valid_mlm'):
                _check_takes_columns(name, getattr(self, name))
        _ = self.scheduler, self.mlm, self.valid_mlm, self.engine, self.grad_norm_clip, self.is_padded
        _ = self.masking_schedule, self.batch_reader
        if self.seq_len_schedule and getattr(self.train_loader, 'seq_len_at', None) is None:
            raise UserError('seq_len_schedule is for the built-in training loader, and yours would ignore it')
        if _is_own(self.train_loader) and self._template.length:
            logger.log('Your training loader must put special tokens around its sequences itself, as in [CLS] … [SEP]: '
                       'the model is trained with them', Text.warning)
        if self.batch_first and not _is_own(self.train_loader) and not _is_own(self.valid_loader):
            raise UserError('batch_first=true is for batches of loaders of your own, and there are none')
        if self.seq_len > self.model.max_seq_len:
            raise UserError(f'seq_len={self.seq_len} is longer than the position embeddings of this model: '
                            f'{self.model.max_seq_len}. transformer.encoder_attn=sdpa_rotary and '
                            'transformer=modernbert take any length')
        if self.replay_path and not isinstance(getattr(self.train_loader, 'windows', None), MixedWindows):
            raise UserError('replay_path is for the built-in training loader, and yours would ignore it')
        is_maskable = self._is_maskable
        for name, text in (('valid_tokens', 'validation text'), ('old_tokens', 'text of old_path')):
            tokens = self._get_computed(name)
            parts = () if tokens is None else torch.as_tensor(tokens).split(1 << 20)
            if tokens is not None and not any(is_maskable[part.long()].any() for part in parts):
                raise UserError(f'the {text} has no token that can be masked: none of it is in the vocabulary')
        _ = self.sampler

    def step(self, batch: Tensor | Batch, batch_idx: BatchIndex):
        """
        One step of training or validation.

        * `batch` is whatever the loader gives; `BatchReader` says what that may be
        """
        self.model.train(self.mode.is_train)
        batch = self.read_batch(batch)
        if self.mode.is_train:
            self.training_step(batch)
        else:
            self.validation_step(batch)

    def old_step(self, batch: Tensor | Batch, batch_idx: BatchIndex):
        """One step of the validation on old text, the same whatever `step` is."""
        self.model.eval()
        self._add(self.read_batch(batch, loader=self.old_loader), self._old_masking, self.old_metrics)

    def read_batch(self, batch: Any, *, loader: Any = None) -> Batch:
        """This rank's columns of what a loader gives, on the device; by default, the present loader of `step`."""
        if loader is None:
            loader = self.train_loader if self.mode.is_train else self.valid_loader
        return self.batch_reader(batch, is_own=_is_own(loader)).shard(ranks()).to(self.device)

    def training_step(self, batch: Batch):
        """Masks a batch, computes gradients and takes an optimizer step."""
        self._follow_schedules(batch)
        x, labels = _mask(self.mlm, batch)
        # Labels that the loader gives may be more than `mlm` selects
        bound = {} if batch.labels is None else {'is_bounded': False}
        output = self.engine.forward_backward(x, labels, batch.key_padding, batch.document_ids, **bound)
        tracker.add_global_step(batch.n_tokens)
        self.step_metrics.add({'loss.': output.loss, 'accuracy.': output.n_correct / output.n_masked.clamp(min=1)})
        if batch.padding_mask is not None:
            tracker.add('efficiency.', (batch.n_tokens + batch.n_special_tokens) / batch.n_positions)
        if self.grad_norm_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=self.grad_norm_clip)
        self.optimizer.step()
        tracker.add('lr', current_lr(self.optimizer))
        self.scheduler.step()
        self.optimizer.zero_grad()
        tracker.add('tokens_per_second', self.throughput.step(batch.n_tokens))
        self.step_metrics.save()

    def validation_step(self, batch: Batch):
        """Adds a batch to the sums of the validation."""
        self._add(batch, self._valid_masking, self.valid_metrics)

    def _add(self, batch: Batch, masking: RepeatedMasking, metrics: ValidMetrics):
        x, labels = _mask(masking, batch)
        masking.check(batch.unmasked(self.padding_token), labels)
        metrics.add(self.engine.forward(x, labels, batch.key_padding, batch.document_ids))

    def _follow_schedules(self, batch: Batch):
        """Sets and tracks what depends on progress: masking rate and sequence length."""
        if self.masking_schedule is not None:
            fraction_done = self.progress.fraction_done(self.train_loader, **self._run_length)
            self.mlm.masking_prob = self.masking_schedule(fraction_done)
            tracker.add('masking_prob', self.mlm.masking_prob)
        if self.seq_len_schedule:
            # The loader has set it
            tracker.add('seq_len', len(batch.tokens))

    def sample(self):
        """Prints the prompts, masked and filled in, and adds them to the samples in the run's folder."""
        samples = self.sampler.fill(self.model, self.device)
        log_samples(samples)
        if samples and self.checkpointer.folder is not None:
            valid = self.valid_metrics
            try:
                Run(self.checkpointer.folder.parent).samples.add(
                    ValidationSamples(self.progress.tokens, valid.loss, valid.accuracy, samples))
            except OSError as e:
                logger.log(f'Cannot save the samples: {e}. The run continues', Text.warning)


def _mask(mlm: Callable[..., tuple[Tensor, Tensor]], batch: Batch) -> tuple[Tensor, Tensor]:
    """Masked tokens and labels, `[seq_len, batch_size]` each. An `mlm` that knows of no ranks need not take columns."""
    if batch.labels is not None:
        return batch.tokens, batch.labels
    # labml_nn's masks in place
    tokens = batch.tokens.clone()
    return mlm(tokens) if batch.columns is None else mlm(tokens, batch.columns)


def _is_own(loader: Any) -> bool:
    """Is it a loader of the user's?"""
    return not isinstance(loader, TrainLoader | ValidLoader)


def _check_takes_columns(name: str, mlm: Callable):
    try:
        inspect.signature(mlm).bind(None, None)
    except TypeError:
        raise UserError(f'with several ranks, `{name}` is called with `(x, columns)`, like `MLM`; this one takes `x` '
                        f'alone') from None


@option(MLMConfigs.precision, 'auto')
def _auto_precision(c: MLMConfigs):
    return torch.bfloat16 if c.device.type == 'cuda' and torch.cuda.is_bf16_supported() else torch.float32


@option(MLMConfigs.precision, 'fp32')
def _fp32():
    return torch.float32


@option(MLMConfigs.precision, 'bf16')
def _bf16():
    return torch.bfloat16


@option(MLMConfigs.compile, 'auto')
def _auto_compile(c: MLMConfigs):
    n_tokens = c._n_steps * c.batch_size * c.seq_len // ranks().size
    return not c.parallel.is_sharded and should_compile(c.model, n_tokens=n_tokens)


@option(MLMConfigs.engine, 'engine')
def _engine(c: MLMConfigs):
    # A custom `mlm`, even if derived from `MLM`, may mask more than this bound
    n_positions = None
    if type(c.mlm) is MLM:
        # That of the highest rate, as what is compiled has one shape
        highest = max(c.masking_schedule(i / 1000) for i in range(1001)) if c.masking_schedule else None
        n_positions = functools.partial(c.mlm.max_selected, masking_prob=highest if c.compile else None)
    return Engine(c.model, precision=c.precision, is_compiled=c.compile,
                  gradient_accumulation_steps=c.gradient_accumulation_steps, shape=(c.seq_len, c.batch_size),
                  n_positions=n_positions, ranks=ranks(), parallel=c.parallel)


@option(MLMConfigs.batch_reader, 'checked')
def _batch_reader(c: MLMConfigs):
    return BatchReader(padding_token=c.padding_token, n_tokens=c.n_tokens, seq_len=c.seq_len,
                       max_seq_len=c.model.max_seq_len, batch_sizes={c.batch_size, c.valid_batch_size},
                       is_padded=c.is_padded, batch_first=c.batch_first)


@option(MLMConfigs.sampler, 'prompts')
def _sampler(c: MLMConfigs):
    prompts = [torch.from_numpy(c.tokenizer.encode(prompt)).long() for prompt in c.prompt]
    template = c._template
    longest = c.model.max_seq_len - template.length
    if not all(0 < len(prompt) <= longest for prompt in prompts):
        raise UserError(f'the prompts have {", ".join(str(len(prompt)) for prompt in prompts)} tokens: '
                        f'each must have at least 1, and at most what the model takes, {longest}')
    if not prompts and c.n_prompts:
        # Columns of the first batch, `[seq_len, batch_size]`: their first documents, without padding
        batch = c.batch_reader(next(iter(c.valid_loader)), is_own=_is_own(c.valid_loader), is_padded=True)
        batch = batch.to(torch.device('cpu'))
        shown = ~batch.padding_mask if batch.document_ids is None else batch.document_ids == 1
        spaced = range(0, shown.shape[1], -(-shown.shape[1] // c.n_prompts))
        tokens = batch.unmasked(c.padding_token)
        prompts = [tokens[:, i][shown[:, i]] for i in spaced]
        if batch.n_special_tokens:
            prompts = [prompt[len(template.before):len(prompt) - len(template.after)] for prompt in prompts]
        else:
            # Of a loader of the user's, which has put them there if it wants them
            template = NO_TEMPLATE
        prompts = [prompt for prompt in prompts if len(prompt)]
    mlm = MLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=c._unmasked_tokens,
              n_tokens=c.n_tokens, masking_prob=c.valid_masking_prob, randomize_prob=0., no_change_prob=0.,
              generator=torch.Generator().manual_seed(0))
    return Sampler(prompts, tokens=c.tokenizer.tokens, mlm=mlm, template=template)
