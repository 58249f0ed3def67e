"""
# MLM on labml

`MLMConfigs` is a whole run: every item can be overridden by name, and most have options to choose from. The options are
the small functions below, next to what they need.
"""
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from labml import logger, tracker
from labml.configs import aggregate, option
from labml.logger import Text
from labml_helpers.train_valid import BatchIndex
from torch import Tensor

from labml_mlm.baselines.configs import BaselineConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.configs.training import TrainingConfigs
from labml_mlm.data.batch import NO_TEMPLATE, Batch
from labml_mlm.data.batch_reader import BatchReader
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.data.replay import MixedWindows
from labml_mlm.distributed.parallel import is_dtensor
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import INEXACT, Item, at_least
from labml_mlm.items.overrides import parse_value
from labml_mlm.items.recipes import RECIPES, of_other_classes
from labml_mlm.items.schema import chosen_value, config_items
from labml_mlm.masking.batches import labels_bound, mask_batch, valid_labels_bound, with_longest_unit
from labml_mlm.masking.mlm import MLM
from labml_mlm.model.packed import use_document_mask
from labml_mlm.model.pairs import has_pairs
from labml_mlm.runs.run import Run
from labml_mlm.runs.samples_log import ValidationSamples
from labml_mlm.tokenization.base import split_at_masks
from labml_mlm.training.compiler import should_compile
from labml_mlm.training.engine import Engine
from labml_mlm.training.metrics import ValidMetrics
from labml_mlm.training.sampler import Sampler, log_samples
from labml_mlm.training.valid_masking import RepeatedMasking


class MLMConfigs(BaselineConfigs, TrainingConfigs):
    """
    ## Configurations of an MLM run

    labml_nn's MLM items keep their names. Subclass it to add items and options of your own.
    """
    recipe: Annotated[str | None, Item('Values that go together; what is given beside it wins',
                                       refused_options=of_other_classes('MLMConfigs'))] = None
    batch_first: Annotated[bool, Item('Batches of a loader of your own are `[batch_size, seq_len]`')] = False
    is_padded: Annotated[bool, Item('`[PAD]` in batches of a loader of your own is padding, not to be attended to')] \
        = False
    batch_reader: Annotated[BatchReader, Item('Reads what a loader gives')] = 'checked'

    compile: Annotated[bool, Item('Compile the model; `auto` does where that saves time within the run',
                                  may_change=INEXACT)] = 'auto'
    engine: Annotated[Engine, Item('Forward and backward')] = 'engine'

    prompt: Annotated[list[str], Item('Texts to mask and fill in at each validation, in place of windows of the '
                                      'validation text; one with [MASK] in it is masked there', may_change=True)] = []
    n_prompts: Annotated[int, Item('Number of those windows', at_least(0), may_change=True,
                                   belongs_to='runs without a `prompt`')] = 3
    sampler: Annotated[Sampler, Item('Masks the prompts, and prints what the model fills in')] = 'prompts'

    # What `--help` shows first, by heading
    _help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        'Text': ('recipe', 'text', 'text_path', 'tokenizer', 'tokenizer_path', 'vocab_size', 'seq_len'),
        'Model': ('init_from', 'transformer', 'd_model', 'transformer.n_layers'),
        'Training': ('epochs', 'max_steps', 'batch_size', 'optimizer', 'optimizer.learning_rate', 'precision',
                     'device'),
        'Masking': ('masking_prob', 'masking'),
        'Tracking': ('checkpoint_interval', 'inner_iterations', 'prompt', 'verbose')}

    def init(self):
        """Builds everything that a run needs, so that errors are found before it starts."""
        if self.recipe is not None:
            # labml ignores an unknown name in a class
            parse_value(dataclasses.replace(config_items(self)['recipe'], default=None), self.recipe)
        if self.recipe == 'domain' and not self.init_from:
            raise UserError('recipe=domain needs something to go on from: init_from=FOLDER, or a run')
        super().init()
        if self.parallel.is_sharded and not any(map(is_dtensor, self.model.parameters())):
            raise UserError('parallel=fsdp: a `model` of your own must be the result of '
                            '`c.parallel.parallelize(model, c.device)`. Otherwise use parallel=ddp')
        if ranks().size > 1:
            for name in ('mlm', 'valid_mlm'):
                _check_takes_columns(name, getattr(self, name))
        _ = self.mlm, self.valid_mlm, self.engine, self.grad_norm_clip, self.is_padded
        _ = self.masking_schedule, self.batch_reader
        if self.seq_len_schedule and getattr(self.train_loader, 'seq_len_at', None) is None:
            raise UserError('seq_len_schedule is for the built-in training loader, and yours would ignore it')
        if _is_own(self.train_loader) and self._template.length:
            logger.log('Your training loader must put special tokens around its sequences itself, as in [CLS] … [SEP]: '
                       'the model is trained with them', Text.warning)
        if self.batch_first and not _is_own(self.train_loader) and not _is_own(self.valid_loader):
            raise UserError('batch_first=true is for batches of loaders of your own, and there are none')
        if chosen_value(self, 'packing') == 'documents':
            use_document_mask(self.model, self.packed_attention)
        if self.seq_len > self.model.max_seq_len:
            raise UserError(f'seq_len={self.seq_len} is longer than the position embeddings of this model: '
                            f'{self.model.max_seq_len}. transformer.encoder_attn=sdpa_rotary and '
                            'transformer=modernbert take any length')
        if self.replay_path and not isinstance(getattr(self.train_loader, 'windows', None), MixedWindows):
            raise UserError('replay_path is for the built-in training loader, and yours would ignore it')
        if self._pair_kind is not None and not has_pairs(self.model):
            raise UserError(f'sentence_pairs={self.sentence_pairs}: a `model` of your own must have linear layers '
                            '`pooler` and `next_sentence`')
        is_maskable = self._is_maskable
        valid_tokens = self._get_computed('valid_tokens') if self._pair_kind is None else self._sentences.valid
        for tokens, text in ((valid_tokens, 'validation text'),
                             (self._get_computed('old_tokens'), 'text of old_path')):
            parts = () if tokens is None else torch.as_tensor(tokens).split(1 << 20)
            if tokens is not None and not any(is_maskable[part.long()].any() for part in parts):
                raise UserError(f'the {text} has no token that can be masked: none of it is in the vocabulary')
        # The length of the run may be measured, with all that is here
        _ = self.sampler, self.scheduler, self._end_step
        self._warn_of_warm_up()
        if valid_tokens is not None:
            self._warn_of_validation_set(torch.as_tensor(valid_tokens))
        self._build_baselines()

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
        batch = self.batch_reader(batch, is_own=_is_own(loader)).shard(ranks())
        if self.mode.is_train:
            batch = with_longest_unit(self.mlm, batch, self.device)
        return batch.to(self.device)

    def training_step(self, batch: Batch):
        """Masks a batch, computes gradients and takes an optimizer step."""
        self._follow_schedules(batch)
        x, labels = mask_batch(self.mlm, batch)
        output = self.engine.forward_backward(x, labels, *batch.context, **labels_bound(self.mlm, batch))
        tracker.add_global_step(batch.n_tokens)
        self.step_metrics.add(output.figures, weight=output.n_masked, n_sequences=batch.tokens.shape[1],
                              is_last=self._is_last_of_epoch)
        if batch.padding_mask is not None:
            tracker.add('efficiency.', (batch.n_tokens + batch.n_special_tokens) / batch.n_positions)
        self.update()
        tracker.add('tokens_per_second', self.throughput.step(batch.n_tokens))
        self.step_metrics.save()

    def validation_step(self, batch: Batch):
        """Adds a batch to the sums of the validation."""
        self._add(batch, self._valid_masking, self.valid_metrics)

    def _add(self, batch: Batch, masking: RepeatedMasking, metrics: ValidMetrics):
        x, labels = mask_batch(masking, batch)
        masking.check(batch.unmasked(self.padding_token), labels)
        output = self.engine.forward(x, labels, *batch.context, **valid_labels_bound(masking.mlm, batch))
        # `[PAD]`, where nothing is to be predicted, has no characters
        metrics.add(output, n_characters=None if self._characters is None else self._characters[labels].sum())

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


def _is_own(loader: Any) -> bool:
    """Is it a loader of the user's?"""
    return not isinstance(loader, TrainLoader | ValidLoader)


def _check_takes_columns(name: str, mlm: Callable):
    try:
        inspect.signature(mlm).bind(None, None)
    except TypeError:
        raise UserError(f'with several ranks, `{name}` is called with `(x, columns)`, like `MLM`; this one takes `x` '
                        f'alone') from None


for _name, _values in RECIPES.items():
    aggregate(MLMConfigs.recipe, _name, *((getattr(MLMConfigs, item), value) for item, value in _values.items()))


@option(MLMConfigs.compile, 'auto')
def _auto_compile(c: MLMConfigs):
    if c._pair_kind is not None:
        return False
    if c.parallel.is_sharded:
        return False
    if 'max_minutes' in c._budgets:
        # How many steps those are depends on whether it is compiled
        return should_compile(c.model, seconds=60 * c.max_minutes)
    return should_compile(c.model, n_tokens=c._n_steps * c.batch_size * c.seq_len // ranks().size)


@option(MLMConfigs.engine, 'engine')
def _engine(c: MLMConfigs):
    if c.compile and c._pair_kind is not None:
        raise UserError(f'compile=true does not go with sentence_pairs={c.sentence_pairs}, whose batches have padding: '
                        'use compile=false')
    # A custom `mlm`, even if derived from `MLM`, may mask more than this bound
    n_positions = None
    if type(c.mlm) is MLM:
        # That of the highest rate, as what is compiled has one shape
        highest = max(c.masking_schedule(i / 1000) for i in range(1001)) if c.masking_schedule else None
        n_positions = functools.partial(c.mlm.max_selected, masking_prob=highest if c.compile else None)
    return Engine(c.model, precision=c.precision, is_compiled=c.compile,
                  gradient_accumulation_steps=c.gradient_accumulation_steps, shape=(c.seq_len, c.batch_size),
                  n_positions=n_positions, ranks=ranks(), parallel=c.parallel, compiling=c._compiling)


@option(MLMConfigs.batch_reader, 'checked')
def _batch_reader(c: MLMConfigs):
    return BatchReader(padding_token=c.padding_token, n_tokens=c.n_tokens, seq_len=c.seq_len,
                       max_seq_len=c.model.max_seq_len, batch_sizes={c.batch_size, c.valid_batch_size},
                       n_segments=getattr(c.model, 'n_segments', 1), is_padded=c.is_padded, batch_first=c.batch_first)


@option(MLMConfigs.sampler, 'prompts')
def _sampler(c: MLMConfigs):
    prompts = [_encode_prompt(c, prompt) for prompt in c.prompt]
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
        if batch.pair_labels is not None:
            # The first spans alone
            shown = (batch.tokens == c._pair_template.between[0]).cumsum(dim=0) == 0
            shown[:len(c._pair_template.before)] = False
        spaced = range(0, shown.shape[1], -(-shown.shape[1] // c.n_prompts))
        tokens = batch.unmasked(c.padding_token)
        prompts = [tokens[:, i][shown[:, i]] for i in spaced]
        if batch.n_special_tokens and batch.pair_labels is None:
            prompts = [prompt[len(template.before):len(prompt) - len(template.after)] for prompt in prompts]
        elif not batch.n_special_tokens:
            # Of a loader of the user's, which has put them there if it wants them
            template = NO_TEMPLATE
        prompts = [prompt for prompt in prompts if len(prompt)]
    mlm = MLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=c._unmasked_tokens,
              n_tokens=c.n_tokens, masking_prob=c.valid_masking_prob, randomize_prob=0., no_change_prob=0.,
              generator=torch.Generator().manual_seed(0))
    return Sampler(prompts, tokens=c.tokenizer.tokens, mlm=mlm, template=template)


def _encode_prompt(c: MLMConfigs, prompt: str) -> Tensor:
    """Token ids of a prompt, `[seq_len]`, with `[MASK]` where it has that."""
    pieces = split_at_masks(prompt, c.tokenizer)
    if len(pieces) == 1:
        return torch.from_numpy(c.tokenizer.encode(prompt)).long()
    ids = torch.from_numpy(c.tokenizer.encode_masked(pieces)).long()
    # The run may have another id for it than the tokenizer
    return torch.where(ids == c.tokenizer.special.mask, c.mask_token, ids)
