"""
# Configs of classification

A label, several labels or a number of each text, or of each pair of texts.
"""
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from labml import logger
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml.logger import Text
from torch import nn

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.finetuning.configs import FineTuningConfigs
from labml_mlm.finetuning.heads import AnyLabels, Number, OneLabel, TextHead
from labml_mlm.items.declarations import Item
from labml_mlm.items.recipes import of_other_classes
from labml_mlm.labelled.examples import Examples
from labml_mlm.labelled.labels import LabelSet, infer_kind
from labml_mlm.labelled.rows import Row, Rows, read_rows
from labml_mlm.tokenization.base import tokenizer_pair_template

# Kinds of labels by the name of the task
_TASKS = {'classification': 'single', 'multilabel': 'multiple', 'regression': 'number'}


class ClassificationConfigs(FineTuningConfigs):
    """
    ## Configurations of classification and regression
    """
    recipe: Annotated[str, Item('What the run does',
                                refused_options=of_other_classes('ClassificationConfigs'))] = 'classify'
    text_path: Annotated[list[str], Item('Labelled texts to train on: a file of JSON lines (.jsonl), or a table with a '
                                         'header (.csv, .tsv)')] = []
    text_field: Annotated[str, Item('Field or column of the text')] = 'text'
    pair_field: Annotated[str, Item('Field or column of the second text, for pairs of texts')] = ''
    label_field: Annotated[str, Item('Field or column of the label: a text or an integer, a list of such for several '
                                     'labels (in a table separated by `|`), or a number')] = 'label'
    task: Annotated[str, Item('`classification` is one of several labels, `multilabel` any of several, `regression` a '
                              'number; `auto` tells by the labels')] = 'auto'
    pooling: Annotated[str, Item('How hidden states become one vector: by their `mean`, or from that of [CLS] '
                                 '(`cls`)')] = 'mean'

    _objective = 'classification'

    def init(self):
        """Builds everything that a run needs, so that errors are found before it starts."""
        for name, allowed in (('task', ('auto', *_TASKS)), ('pooling', ('mean', 'cls'))):
            if (value := getattr(self, name)) not in allowed:
                raise UserError(f'{name}={value}: it must be {", ".join(allowed[:-1])} or {allowed[-1]}.'
                                f'{did_you_mean(value, allowed)}')
        super().init()

    def _read(self, path: Path, *, is_labelled: bool = True) -> Rows:
        return read_rows(path, text_field=self.text_field, label_field=self.label_field if is_labelled else None,
                         pair_field=self.pair_field, allow_empty_label=self.task == 'multilabel')

    @staticmethod
    def _texts(row: Row) -> list[str]:
        return [row.text] if row.pair is None else [row.text, row.pair]

    def _find_labels(self) -> LabelSet:
        rows = self._all_rows
        kind, why = _TASKS.get(self.task), ''
        if kind is None:
            kind, why = infer_kind(rows)
            if has_experiment():
                task = next(task for task, of_task in _TASKS.items() if of_task == kind)
                logger.log(f'task={task}: {why}', Text.meta)
        return LabelSet.from_rows(rows, kind)

    def _examples(self, rows: Rows, *, labels: LabelSet | None) -> Examples:
        return Examples.of_rows(rows, self.tokenizer, max_len=self.seq_len, template=self._template,
                                pair_template=tokenizer_pair_template(self.tokenizer), labels=labels)

    def _new_head(self, *, generator: torch.Generator) -> TextHead:
        if self.pooling == 'cls' and not self._template.before:
            raise UserError('pooling=cls takes the hidden state of [CLS], and there is none before the texts: use '
                            'pooling=mean, or add_special_tokens=true')
        n_logits = 1 if self._labels.kind == 'number' else len(self._labels.names)
        return TextHead(self.transformer.d_model, n_logits, pooling=self.pooling, dropout=self.head_dropout,
                        generator=generator, pooler=self._earlier_pooler)

    def _criterion(self, rows: Rows | None) -> nn.Module:
        kind, targets = self._labels.kind, None if rows is None else self._labels.encode(rows)
        if kind == 'number':
            if self._is_balanced:
                raise UserError('class_weights=balanced is for labels, and these are numbers')
            if targets is None:
                # Those of a trained model come with its weights
                return Number()
            mean, std = (float(of(targets, dtype=np.float64)) for of in (np.mean, np.std))
            if not np.float32(std):
                raise UserError(f'all {len(targets):,} rows to train on have the same number, {mean:g}: there is '
                                'nothing to learn')
            return Number(mean, std)
        criterion = OneLabel if kind == 'single' else AnyLabels
        return criterion.balanced(targets) if targets is not None and self._is_balanced else criterion()


@option(ClassificationConfigs.recipe, 'classify')
def _recipe():
    return 'classify'
