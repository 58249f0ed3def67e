"""
# Metrics of labels

Computed by scikit-learn, SciPy and seqeval over all labels of a validation, never as a mean over batches.
"""
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from labml import tracker
from labml_helpers.metrics import StateModule
from torch import Tensor

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.data.batch import Columns
from labml_mlm.distributed.process_group import ranks
from labml_mlm.finetuning.heads import TaskOutput
from labml_mlm.labelled.examples import NO_LABEL

# BILOU by BIOES
_SEQEVAL = {'L': 'E', 'U': 'S'}
# Labels of each text, `[n]` each
Labels = Sequence[np.ndarray]
# Of true and of predicted labels; and their names
Score = Callable[[Labels, Labels, Sequence[str]], float]


class Metric(NamedTuple):
    """A metric."""
    score: Score
    is_best_highest: bool = True


def _of_scikit_learn(name: str, *, is_of_texts: bool = False, **options: Any) -> Score:
    """
    A metric of scikit-learn's over all labels, whatever their texts.

    * `is_of_texts`: over the texts, each with a row of labels
    """
    def score(true: Labels, predicted: Labels, names: Sequence[str]) -> float:
        from sklearn import metrics

        if is_of_texts and len(names) == 1:
            # There or not: scikit-learn would count what is not there as a label, too
            single = {'average': 'binary'} if 'average' in options else {}
            return getattr(metrics, name)(np.concatenate(true), np.concatenate(predicted), **options | single)
        join = np.stack if is_of_texts else np.concatenate
        return getattr(metrics, name)(join(true), join(predicted), **options)
    return score


def _of_scipy(name: str) -> Score:
    def score(true: Labels, predicted: Labels, names: Sequence[str]) -> float:
        from scipy import stats

        with warnings.catch_warnings():
            # Of a constant, or of a single number, it is not defined: NaN
            warnings.simplefilter('ignore', stats.ConstantInputWarning)
            if len(true) < 2:
                return math.nan
            return getattr(stats, name)(np.concatenate(true), np.concatenate(predicted)).statistic
    return score


def _entity_f1(true: Labels, predicted: Labels, names: Sequence[str]) -> float:
    """Of whole entities, as conlleval counts them."""
    from seqeval.metrics import f1_score

    # It knows the last word and the only one of an entity as E and S alone
    names = [f'{_SEQEVAL.get(name[0], name[0])}{name[1:]}' for name in names]
    named = ([[names[int(label)] for label in text] for text in part] for part in (true, predicted))
    return f1_score(*named, zero_division=0)


# Of several kinds of labels, the first is the one to choose the best by
METRICS = {
    'single': {
        'accuracy': Metric(_of_scikit_learn('accuracy_score')),
        'f1_macro': Metric(_of_scikit_learn('f1_score', average='macro', zero_division=0.)),
        'matthews': Metric(_of_scikit_learn('matthews_corrcoef'))},
    'multiple': {
        'f1_micro': Metric(_of_scikit_learn('f1_score', is_of_texts=True, average='micro', zero_division=0.)),
        'f1_macro': Metric(_of_scikit_learn('f1_score', is_of_texts=True, average='macro', zero_division=0.)),
        # Of texts all of whose labels are right
        'accuracy': Metric(_of_scikit_learn('accuracy_score', is_of_texts=True))},
    'number': {
        'spearman': Metric(_of_scipy('spearmanr')),
        'pearson': Metric(_of_scipy('pearsonr')),
        'rmse': Metric(_of_scikit_learn('root_mean_squared_error'), is_best_highest=False)},
    'tags': {
        'entity_f1': Metric(_entity_f1),
        'accuracy': Metric(_of_scikit_learn('accuracy_score')),
        'f1_macro': Metric(_of_scikit_learn('f1_score', average='macro', zero_division=0.))},
}


def metrics_of(kind: str, names: Sequence[str]) -> dict[str, Metric]:
    """The metrics for a kind of labels by name; tags that are no entities, as in `B-PER`, have no `entity_f1`."""
    are_entities = all(name == 'O' or re.match('[BIESLU]-.', name) for name in names)
    return {name: metric for name, metric in METRICS[kind].items() if name != 'entity_f1' or are_entities}


def require_libraries(kind: str):
    """Raises `UserError` if the libraries that compute the metrics are not installed."""
    try:
        import sklearn  # noqa: F401
        if kind == 'tags':
            import seqeval  # noqa: F401
    except ImportError as e:
        raise UserError(f'metrics of labels need {e.name}: pip install "labml_mlm[finetune]"') from None


class TaskMetrics(StateModule):
    """
    ## Metrics over a validation, a state module of labml_helpers

    * `kind` is that of the labels, and `names` are theirs
    * `best_by` is a metric or `loss`, by which the best checkpoint is chosen; the first of `METRICS` by default

    Raises `UserError` for a metric that these labels do not have.

    At the end it tracks `loss.valid` and each metric, such as `accuracy.valid`, and keeps them in `figures`.
    """

    def __init__(self, kind: str, names: Sequence[str], *, best_by: str | None = None):
        super().__init__()
        self.kind = kind
        self.names = names
        self.metrics = metrics_of(kind, names)
        if best_by is None:
            best_by = next(iter(self.metrics))
        if best_by not in ('loss', *self.metrics):
            raise UserError(f'metric={best_by}: for these labels it must be {", ".join(self.metrics)} or loss.'
                            f'{did_you_mean(best_by, self.metrics)}')
        self.best_by = best_by
        self.clear()
        self._outputs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def clear(self):
        """There was no validation."""
        self.figures: dict[str, float] = {}

    def add(self, output: TaskOutput, labels: Tensor, columns: Columns | None):
        """Adds a batch: its labels have shape `[n, batch_size]`, and `columns` are those of this rank."""
        self._outputs.append((output.loss_sum, output.n_labels, _of_all(output.predicted, columns),
                              _of_all(labels, columns)))

    def on_epoch_start(self):
        """A validation begins."""
        self._outputs = []

    def on_epoch_end(self):
        """A validation ends."""
        self.compute()
        self.track()

    def compute(self):
        """Computes `figures`, from all batches since the beginning."""
        # A Mac's GPU has no doubles
        sums = ranks().all_reduce_sum(*(torch.stack([output[i] for output in self._outputs]).cpu().double().sum()
                                        for i in (0, 1)))()
        labels = ranks().all_reduce_sum(*(torch.cat([output[i].flatten() for output in self._outputs]).cpu().double()
                                          for i in (2, 3)))()
        loss_sum, n_labels = map(float, sums)
        predicted, true = (part.cpu().numpy() for part in labels)
        self.clear()
        if n_labels:
            self.figures = {'loss': loss_sum / n_labels} | self._scores(true, predicted)

    def _scores(self, true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        by_text: tuple[list, list] = [], []
        begin = 0
        for n, batch_size in (output[3].shape for output in self._outputs):
            end = begin + n * batch_size
            columns = (part[begin:end].reshape(n, batch_size).T for part in (true, predicted))
            for labels in zip(*columns, strict=True):
                counted = labels[0] != NO_LABEL if self.kind == 'tags' else slice(None)
                for part, of_text in zip(by_text, labels, strict=True):
                    part.append(of_text[counted])
            begin = end
        # scikit-learn refuses what is not finite
        is_finite = np.isfinite(predicted).all()
        return {name: float(metric.score(*by_text, self.names)) if is_finite else math.nan
                for name, metric in self.metrics.items()}

    def track(self):
        """Tracks the last validation, if there was one, in the present namespace of the tracker."""
        for name, value in self.figures.items():
            tracker.add(f'{name}.', value)

    @property
    def loss(self) -> float | None:
        """That of the last validation, if there was one."""
        return self.figures.get('loss')

    @property
    def accuracy(self) -> float | None:
        """That of the last validation, if labels have it."""
        return self.figures.get('accuracy')

    @property
    def _is_best_highest(self) -> bool:
        return self.best_by != 'loss' and self.metrics[self.best_by].is_best_highest

    @property
    def values(self) -> dict[str, Any] | None:
        """The figures of the last validation, for a checkpoint."""
        if not self.figures:
            return None
        return {**self.figures, 'best_by': self.best_by, 'is_best_highest': self._is_best_highest}

    @property
    def to_minimize(self) -> float | None:
        """By what the best checkpoint is chosen; NaN is never the best."""
        if not self.figures:
            return None
        return -self.figures[self.best_by] if self._is_best_highest else self.figures[self.best_by]

    @property
    def summary(self) -> dict[str, float]:
        """What to say of the last validation, in words."""
        return {'Validation loss' if name == 'loss' else name: value for name, value in self.figures.items()}

    def create_state(self) -> None:
        """None: a validation always covers the whole validation set."""

    def set_state(self, data: None):
        """Nothing to set."""


def _of_all(values: Tensor, columns: Columns | None) -> Tensor:
    """Values of this rank's columns, `[n, batch_size]`, among zeros for the other ranks': their sum has all."""
    if columns is None:
        return values
    padding = columns.first, columns.total - columns.first - values.shape[1]
    return torch.nn.functional.pad(values, padding)
