"""
# Configs of tagging

A label of each word, such as its part of speech, or whether it belongs to a name.
"""
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from labml.configs import option
from torch import nn

from labml_mlm.common.errors import UserError
from labml_mlm.finetuning.configs import FineTuningConfigs
from labml_mlm.finetuning.heads import OneLabel, TagHead
from labml_mlm.items.declarations import Item
from labml_mlm.items.recipes import of_other_classes
from labml_mlm.items.schema import is_given
from labml_mlm.labelled.examples import Examples
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.labelled.tagged import Tagged, TaggedRow, read_tagged
from labml_mlm.reading.files import text_suffix
from labml_mlm.reading.listing import as_paths
from labml_mlm.reading.rows import JSON_SUFFIXES


class TaggingConfigs(FineTuningConfigs):
    """
    ## Configurations of tagging
    """
    recipe: Annotated[str, Item('What the run does',
                                refused_options=of_other_classes('TaggingConfigs'))] = 'tag'
    text_path: Annotated[list[str], Item('Words with labels to train on: a file with columns as in CoNLL (.conll, '
                                         '.bio, .tsv, .txt), the word in the first and its label in the last, or of '
                                         'JSON lines (.jsonl)')] = []
    text_field: Annotated[str, Item('Field of a JSON line with the list of words')] = 'tokens'
    label_field: Annotated[str, Item('Field of a JSON line with the list of their labels')] = 'tags'
    word_separator: Annotated[str, Item('What stands between two words: a space, or nothing, for texts without spaces '
                                        'and for words that have theirs')] = ' '

    _objective = 'tagging'

    def init(self):
        """Builds everything that a run needs, so that errors are found before it starts."""
        paths = [path for item in ('text_path', 'valid_path') for path in as_paths(getattr(self, item), item=item)]
        if paths and not any(text_suffix(Path(path)) in JSON_SUFFIXES for path in paths):
            for name in ('text_field', 'label_field'):
                if is_given(self, name):
                    raise UserError(f'{name}={getattr(self, name)} is for JSON lines: of {paths[0]} the first column '
                                    'has the words, and the last their labels')
        super().init()

    def _read(self, path: Path, *, is_labelled: bool = True) -> Tagged:
        return read_tagged(path, text_field=self.text_field, label_field=self.label_field if is_labelled else None)

    def _texts(self, row: TaggedRow) -> list[str]:
        return [self.word_separator.join(row.words)]

    def _find_labels(self) -> LabelSet:
        return LabelSet.from_tagged(self._all_rows)

    def _examples(self, rows: Tagged, *, labels: LabelSet | None) -> Examples:
        return Examples.of_tagged(rows, self.tokenizer, max_len=self.seq_len, template=self._template,
                                  separator=self.word_separator, labels=labels)

    def _new_head(self, *, generator: torch.Generator) -> TagHead:
        return TagHead(self.transformer.d_model, len(self._labels.names), dropout=self.head_dropout,
                       generator=generator)

    def _criterion(self, rows: Tagged | None) -> nn.Module:
        if rows is None or not self._is_balanced:
            return OneLabel()
        return OneLabel.balanced(np.concatenate(self._labels.encode_tags(rows)))


@option(TaggingConfigs.recipe, 'tag')
def _recipe():
    return 'tag'
