"""
# Configs of fine-tuning

What classification and tagging share: an encoder with a new head, trained on the rows of a file.
"""
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from labml import logger, tracker
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml.logger import Text
from labml_helpers.train_valid import BatchIndex
from torch import nn

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch
from labml_mlm.data.documents import TextIterable
from labml_mlm.data.loader import ValidLoader
from labml_mlm.distributed.process_group import ranks
from labml_mlm.finetuning.earlier_head import take_over
from labml_mlm.finetuning.heads import TaskTransformer
from labml_mlm.finetuning.metrics import TaskMetrics, require_libraries
from labml_mlm.finetuning.refused import RefusingConfigs
from labml_mlm.items.declarations import FRACTION, INEXACT, Item, Range, at_least
from labml_mlm.items.schema import is_given
from labml_mlm.labelled.examples import Examples
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.loader import LabelledLoader
from labml_mlm.labelled.split import split_rows
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.reading.files import expand_path
from labml_mlm.reading.listing import as_paths
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.training.engine import Engine

# Epochs: enough of them for so many steps, within these bounds
_MIN_STEPS, _EPOCHS = 100, (3, 20)
_SEQ_LEN = 256
# AdamW's peak (Devlin et al. 2019, appendix A.3), and that of models with a smaller `d_model` than this
_RATE, _SMALL_RATE, _SMALL = 5e-5, 3e-4, 256


class FineTuningConfigs(RefusingConfigs):
    """
    ## Configurations of fine-tuning
    """
    init_from: Annotated[str, Item('What to fine-tune: a run, one of its checkpoints, or the folder of a published '
                                   'encoder. Without it, all weights are random')]
    text_path: Annotated[list[str], Item('Labelled texts to train on, in one file')] = []
    valid_path: Annotated[list[str], Item('Labelled texts for validation, in one file')] = []
    valid_fraction: Annotated[float, Item('Fraction of the rows for validation, without a valid_path',
                                          Range(0, 0.99, is_open=True))] = 0.1
    text = 'of_rows'
    metric: Annotated[str, Item('Metric, or `loss`, by which the best checkpoint is chosen, and by which `patience` '
                                'goes; by default accuracy, f1_micro of several labels, entity_f1 of entities, '
                                'spearman of numbers')] = ''
    head_dropout: Annotated[float, Item('Dropout probability before the last layer', FRACTION)] = 0.1
    class_weights: Annotated[str, Item('Weights of labels in the loss of training: `none`, or `balanced`, the inverse '
                                       'of how often each one occurs')] = 'none'
    seq_len: Annotated[int, Item('Longest text, with special tokens around it; the end of longer ones is cut off. '
                                 f'`by_model` is {_SEQ_LEN}, or what the model takes', at_least(1),
                                 unit='tokens')] = 'by_model'
    batch_size: Annotated[int, Item('Texts in a training batch', at_least(1), may_change=INEXACT)] = 32
    valid_batch_size: Annotated[int, Item('Texts in a validation batch', at_least(1))] = 64
    epochs: Annotated[int | float, Item('Number of epochs; the last one may be a part, as in 0.5. `by_rows` is '
                                        f'{_EPOCHS[0]}, and up to {_EPOCHS[1]} for less than {_MIN_STEPS} steps')] \
        = 'by_rows'
    lr_schedule = 'warmup_linear'
    lr_warmup_steps: Annotated[int, Item('Warm-up; `tenth` is a tenth of training')] = 'tenth'
    train_loader: Annotated[LabelledLoader, Item(refused='it gives the rows of `text_path`')] = 'rows'
    valid_loader: Annotated[ValidLoader, Item(refused='it gives the rows for validation')] = 'rows'
    valid_metrics: Annotated[TaskMetrics, Item('Metrics over a validation')] = 'of_labels'
    engine: Annotated[Engine, Item('Forward and backward')] = 'eager'

    _going_on_rates: ClassVar[dict[str, float]] = {}
    # What `--help` shows first, by heading
    _help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        'Text': ('text_path', 'valid_path', 'text_field', 'pair_field', 'label_field', 'seq_len'),
        'Model': ('init_from', 'task', 'pooling', 'head_dropout', 'word_separator', 'freeze'),
        'Training': ('epochs', 'batch_size', 'optimizer', 'optimizer.learning_rate', 'class_weights', 'precision',
                     'device'),
        'Tracking': ('metric', 'patience', 'checkpoint_interval', 'verbose')}
    # Those of a trained model
    _saved_labels: LabelSet | None = None
    _valid_cache = None

    @property
    def _rates(self) -> dict[str, float]:
        """Default learning rates by the option of `optimizer`."""
        return {'mlm': _SMALL_RATE if self.d_model < _SMALL else _RATE, 'muon': 1e-3}

    @functools.cached_property
    def _all_rows(self) -> Any:
        """The rows of `text_path`."""
        return self._rows_of('text_path')

    @functools.cached_property
    def _rows(self) -> tuple[Any, Any]:
        """The rows to train on, and those for validation."""
        if self.valid_path:
            return self._all_rows, self._rows_of('valid_path')
        return split_rows(self._all_rows, labels=self._labels, valid_fraction=self.valid_fraction, seed=self.seed)

    def _rows_of(self, item: str) -> Any:
        paths = as_paths(getattr(self, item), item=item)
        if not paths:
            raise UserError(f'fine-tuning needs labelled texts: {item}=FILE')
        if len(paths) > 1:
            raise UserError(f'{item}={",".join(paths)}: fine-tuning reads one file of labelled texts, and these are '
                            f'{len(paths)}')
        if (path := expand_path(paths[0])).is_dir():
            raise UserError(f'{item}={path}: it is a folder, and must be a file')
        return self._read(path)

    @functools.cached_property
    def _labels(self) -> LabelSet:
        """The labels of `text_path`, or of a trained model."""
        return self._saved_labels or self._find_labels()

    @functools.cached_property
    def _token_cache(self) -> TokenCache:
        """A tokenizer is trained on all rows to train on."""
        return self._cache(TextIterable(self.text), valid_fraction=None)

    @property
    def _labels_as_json(self) -> dict[str, Any]:
        """The labels, for a snapshot."""
        return self._labels._asdict()

    def _read(self, path: Path, *, is_labelled: bool = True) -> Any:
        """The rows of a file. Raises `UserError` if it has none, or damaged ones."""
        raise NotImplementedError

    def _find_labels(self) -> LabelSet:
        """The labels of the rows to train on. Raises `UserError` if there is nothing to learn."""
        raise NotImplementedError

    def _examples(self, rows: Any, *, labels: LabelSet | None) -> Examples:
        """Rows as token ids and labels."""
        raise NotImplementedError

    def _new_head(self, *, generator: torch.Generator) -> nn.Module:
        """A head for the labels."""
        raise NotImplementedError

    def _criterion(self, rows: Any | None) -> nn.Module:
        """The loss for the rows to train on; `None` for a model that is trained."""
        raise NotImplementedError

    @property
    def _text_identity(self) -> dict[str, Any]:
        """Which rows, for JSON: a resumed run must have the same."""
        train, valid = (hashlib.sha256(json.dumps([row[:-1] for row in part.rows]).encode()).hexdigest()
                        for part in self._rows)
        n_characters = sum(len(text) for row in self._rows[0].rows for text in self._texts(row))
        return {'source': None, 'characters': n_characters, 'sha256': train, 'valid_sha256': valid}

    def init(self):
        """Builds everything that a run needs, so that errors are found before it starts."""
        if self.valid_path and is_given(self, 'valid_fraction'):
            raise UserError(f'valid_fraction={self.valid_fraction} is for runs without a valid_path')
        require_libraries(self._labels.kind)
        super().init()
        _ = self.recipe, self.engine, self.grad_norm_clip, self.mlm
        if self.seq_len > self.model.max_seq_len:
            raise UserError(f'seq_len={self.seq_len} is longer than the position embeddings of this model: '
                            f'{self.model.max_seq_len}')
        if has_experiment():
            self._log_rows()
        # The length of the run may be measured, with all that is here
        _ = self.scheduler, self._end_step
        self._warn_of_warm_up()

    def _log_rows(self):
        """Says what there is to train on, and what is left out."""
        train, valid = self.train_loader.windows, self.valid_loader.windows
        labels = f'labels: {self._labels.some()}' if self._labels.names else 'a number each'
        logger.log(f'{len(train):,} texts to train on, {len(valid):,} for validation; {labels}', Text.meta)
        for name, part in (('text_path', train), ('valid_path' if self.valid_path else 'validation', valid)):
            for message in part.counts.messages():
                logger.log(f'{name}: {message}', Text.warning)
        known = {tuple(self._texts(row)) for row in self._rows[0].rows}
        if n_known := sum(tuple(self._texts(row)) in known for row in self._rows[1].rows):
            logger.log(f'{n_known:,} of the texts of valid_path are in text_path, too', Text.warning)

    def step(self, batch: Batch, batch_idx: BatchIndex):
        """One step of training or validation."""
        self.model.train(self.mode.is_train)
        batch = batch.shard(ranks()).to(self.device)
        if self.model.n_segments == 1:
            # Special tokens alone separate the texts of a pair
            batch = batch._replace(segment_ids=None)
        if self.mode.is_train:
            self.training_step(batch)
        else:
            self.validation_step(batch)

    def training_step(self, batch: Batch):
        """Computes gradients and takes an optimizer step."""
        output = self.engine.forward_backward(batch.tokens, batch.labels, *batch.context)
        tracker.add_global_step(batch.n_tokens)
        metrics = {'loss.': output.loss}
        if self._labels.kind != 'number':
            metrics['accuracy.'] = output.n_correct / output.n_masked
        self.step_metrics.add(metrics, weight=output.n_masked, n_sequences=batch.tokens.shape[1],
                              is_last=self._is_last_of_epoch)
        self.update()
        tracker.add('tokens_per_second', self.throughput.step(batch.n_tokens))
        self.step_metrics.save()

    def validation_step(self, batch: Batch):
        """Adds a batch to the validation."""
        self.valid_metrics.add(self.engine.forward(batch.tokens, batch.labels, *batch.context), batch.labels,
                               batch.columns)

    def sample(self):
        """Nothing: there are no prompts."""

    def _start_validation(self):
        """Nothing is masked."""

    def _adapted(self, model: TransformerMLM) -> TransformerMLM:
        """The same encoder with a new head."""
        head = self._new_head(generator=torch.Generator().manual_seed(self.seed))
        model = TaskTransformer(model, head, self._criterion(None if self._saved_labels else self._rows[0]))
        if self._earlier_head is not None:
            logger.log(take_over(model, self._earlier_head, self._labels), Text.meta)
            self._earlier_head = None
        return model

    @property
    def _is_balanced(self) -> bool:
        """Have labels weights?"""
        if self.class_weights not in ('none', 'balanced'):
            raise UserError(f'class_weights={self.class_weights}: it must be none or balanced')
        return self.class_weights == 'balanced'


@option(FineTuningConfigs.text, 'of_rows')
def _text(c: FineTuningConfigs):
    # For a tokenizer that is trained on them
    return [text for row in c._rows[0].rows for text in c._texts(row)]


@option(FineTuningConfigs.train_loader, 'rows')
def _train_loader(c: FineTuningConfigs):
    examples = c._examples(c._rows[0], labels=c._labels)
    return LabelledLoader(examples, batch_size=c.batch_size, seed=c.seed, ranks=ranks())


@option(FineTuningConfigs.valid_loader, 'rows')
def _valid_loader(c: FineTuningConfigs):
    return ValidLoader(c._examples(c._rows[1], labels=c._labels).by_length(), batch_size=c.valid_batch_size)


@option(FineTuningConfigs.valid_metrics, 'of_labels')
def _valid_metrics(c: FineTuningConfigs):
    return TaskMetrics(c._labels.kind, c._labels.names, best_by=c.metric or None)


@option(FineTuningConfigs.epochs, 'by_rows')
def _epochs(c: FineTuningConfigs):
    return min(max(math.ceil(_MIN_STEPS / len(c.train_loader)), _EPOCHS[0]), _EPOCHS[1])


@option(FineTuningConfigs.lr_warmup_steps, 'tenth')
def _lr_warmup_steps(c: FineTuningConfigs):
    return c._n_steps // 10


@option(FineTuningConfigs.seq_len, 'by_model')
def _seq_len(c: FineTuningConfigs):
    return int(min(_SEQ_LEN, c.model.max_seq_len))


@option(FineTuningConfigs.engine, 'eager')
def _engine(c: FineTuningConfigs):
    # Batches have different lengths
    return Engine(c.model, precision=c.precision, is_compiled=False,
                  gradient_accumulation_steps=c.gradient_accumulation_steps, shape=(c.seq_len, c.batch_size),
                  n_positions=None, ranks=ranks(), parallel=c.parallel)
