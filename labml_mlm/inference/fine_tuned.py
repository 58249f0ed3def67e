"""
# Labels of new texts

    import labml_mlm

    classifier = labml_mlm.load('8c5e022e')
    classifier.predict(['An excellent film.'])
"""
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.common.project import in_project_of
from labml_mlm.data.batch import Batch
from labml_mlm.data.loader import ValidLoader
from labml_mlm.finetuning.metrics import TaskMetrics, require_libraries
from labml_mlm.inference.pretrained import BATCH_TOKENS, Pretrained, silent
from labml_mlm.labelled.examples import Counts, Examples, NoTokens
from labml_mlm.labelled.rows import Row, Rows
from labml_mlm.labelled.tagged import Tagged, TaggedRow


class Predicted(NamedTuple):
    """What is predicted for a text, a pair of texts, or words."""
    # A name; names of several labels, perhaps none; a number; or the name of each word's
    label: Any
    # Of each label by name, or of each word's predicted label, `None` where it has none; `None` for numbers
    probabilities: dict[str, float] | list[float | None] | None


class FineTuned(Pretrained):
    """
    ## A fine-tuned model, with its tokenizer, configs and labels
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels; none if it predicts numbers."""
        return self.configs._labels.names

    @property
    def kind(self) -> str:
        """`single`, `multiple`, `number` or `tags`."""
        return self.configs._labels.kind

    @property
    def is_of_pairs(self) -> bool:
        """Was it trained on pairs of texts?"""
        return self.kind != 'tags' and bool(self.configs.pair_field)

    def require_head(self):
        """Raises `UserError`: it has no head that predicts tokens."""
        raise UserError(f'{self.about} was fine-tuned for {self.configs._objective}: it predicts labels, and no masked '
                        'tokens')

    def predict(self, texts: Sequence[Any]) -> list[Predicted]:
        """
        Labels of texts, of pairs `(text, text)` if it was trained on pairs, or of lists of words if it tags words.

        What is longer than `seq_len` is cut off, and a word whose tokens are cut off has the label `None`. Raises
        `UserError` for anything else, and for a text without tokens.
        """
        return self.predict_rows(self.rows(texts))

    def rows(self, texts: Sequence[Any]) -> Rows | Tagged:
        """Texts as `predict_rows` takes them."""
        if isinstance(texts, str):
            raise UserError('predict takes a list of texts')
        if self.kind == 'tags':
            if not all(isinstance(words, list | tuple) and words and all(isinstance(word, str) and word.strip()
                                                                         for word in words) for words in texts):
                raise UserError('this model tags words: each text must be a list of words')
            return Tagged([TaggedRow(list(words), [], i) for i, words in enumerate(texts)], 0, 'texts')
        if self.is_of_pairs:
            if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in texts):
                raise UserError('this model was trained on pairs of texts: each must be a pair (text, text)')
            return Rows([Row(text, None, pair, i) for i, (text, pair) in enumerate(texts)], 0, 'texts')
        if not all(isinstance(text, str) for text in texts):
            raise UserError('each text must be a string')
        return Rows([Row(text, None, None, i) for i, text in enumerate(texts)], 0, 'texts')

    def predict_rows(self, rows: Rows | Tagged) -> list[Predicted]:
        """The same for the rows of a file. Raises `UserError` for one without tokens."""
        predicted, _ = self.predict_possible(rows)
        if None in predicted:
            raise UserError(f'the tokenizer finds no token in text {predicted.index(None) + 1:,}')
        return predicted

    def predict_possible(self, rows: Rows | Tagged) -> tuple[list[Predicted | None], Counts | None]:
        """The same, with `None` for a row without tokens; and what became of rows, unless all of them are such."""
        predicted: list[Any] = [None] * len(rows.rows)
        if not predicted:
            return predicted, None
        try:
            examples = self.configs._examples(rows, labels=None)
        except NoTokens:
            return predicted, None
        for numbers, logits in self._logits(examples):
            for column, number in enumerate(numbers):
                row = int(examples.rows[number])
                predicted[row] = self._named(logits, column, number, examples, rows.rows[row])
        return predicted, examples.counts

    def validation_batches(self) -> ValidLoader:
        """The rows for validation. Raises `UserError` if they are missing, or were changed."""
        if self.checkpoint is None:
            return super().validation_batches()
        with silent(), in_project_of(self.checkpoint.path.parent):
            return super().validation_batches()

    def validation_rows(self) -> list[Row] | list[TaggedRow]:
        """The rows for validation, as they are in their file. Raises what `validation_batches` does."""
        self.validation_batches()
        return self.configs._rows[1].rows

    def labelled_batches(self, path: Path) -> ValidLoader:
        """The rows of another file. Raises `UserError` for labels that the model does not know."""
        conf = self.configs
        return ValidLoader(conf._examples(conf._read(path), labels=conf._labels).by_length(),
                           batch_size=conf.valid_batch_size)

    @torch.no_grad()
    def figures(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss and metrics of labelled batches, as a validation has them."""
        require_libraries(self.kind)
        metrics = TaskMetrics(self.kind, self.labels)
        metrics.on_epoch_start()
        for batch in batches:
            batch = batch.to(self.device)
            output = self.model(batch.tokens, batch.labels, padding_mask=batch.key_padding,
                                segment_ids=self._segment_ids(batch))
            metrics.add(output, batch.labels, None)
        metrics.compute()
        return metrics.figures

    def _segment_ids(self, batch: Batch) -> Tensor | None:
        return batch.segment_ids if self.model.n_segments > 1 else None

    @torch.no_grad()
    def _logits(self, examples: Examples) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of examples, and their logits as `TaskTransformer.predict` gives them; similar lengths together."""
        sizes = examples.lengths(np.arange(len(examples)))
        order = np.argsort(-sizes, kind='stable')
        while len(order):
            n = max(1, BATCH_TOKENS // (int(sizes[order[0]]) + 1))
            numbers, order = order[:n], order[n:]
            batch = examples.batch(numbers).to(self.device)
            logits = self.model.predict(batch.tokens, padding_mask=batch.key_padding,
                                        segment_ids=self._segment_ids(batch))
            yield numbers.tolist(), logits.float()

    def _named(self, logits: Tensor, column: int, number: int, examples: Examples, row: Row | TaggedRow) -> Predicted:
        criterion = self.model.criterion
        if self.kind == 'number':
            return Predicted(criterion.predicted(logits[column:column + 1]).item(), None)
        if self.kind == 'tags':
            probabilities = criterion.probabilities(logits[:, column])
            first = examples.first_tokens(number)
            best = {word: probabilities[at].max(dim=-1) for word, at in first.items()}
            words = range(len(row.words))
            return Predicted([self.labels[int(best[word].indices)] if word in best else None for word in words],
                             [float(best[word].values) if word in best else None for word in words])
        values = criterion.probabilities(logits[column]).tolist()
        probabilities = dict(zip(self.labels, values, strict=True))
        if self.kind == 'multiple':
            return Predicted([name for name, p in probabilities.items() if p > 0.5], probabilities)
        return Predicted(max(probabilities, key=probabilities.get), probabilities)
