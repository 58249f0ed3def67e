r"""
# How much do frozen features tell?

A *linear probe* ([Alain and Bengio 2016](https://arxiv.org/abs/1610.01644)) is a linear classifier on the hidden states
of a model that is not trained any more. What it gets right is in the features already, and in plain sight: it adds
nothing of its own but directions. So it compares layers, poolings and models, on a CPU, in minutes.

Here it is a logistic regression (scikit-learn's), on features with mean 0 and variance 1 over the texts that it learns
from. With $d$ features and a few hundred texts it would learn these by heart; the strength that prevents it, $C$ of

$$\min_w \tfrac{1}{2} \lVert w \rVert^2 + C \sum_i -\log p_w(y_i \mid x_i),$$

depends on the features and their number. It is chosen for each layer and pooling as in SentEval
([Conneau and Kiela 2018](https://arxiv.org/abs/1803.05449)), by the log-likelihood of a fifth of the texts that it
learns from, from powers of ten; then it learns from all of them. Texts that are held out have no part in that.

Of $n$ of these, $k$ are right. The interval beside $k / n$ is Wilson's
([Brown, Cai and DasGupta 2001](https://doi.org/10.1214/ss/1009213286)): it has the true accuracy with a probability of
95%, at small $n$ and near 0 and 1, too. It is that of *one* layer. The best of many is the best by chance in part, and
two whose intervals overlap may be equally good.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.probing.examples import INNER, Examples
from labml_mlm.probing.features import Place, features_at
from labml_mlm.probing.sequences import Sequences

_STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1, 1.]
_ITERATIONS = 2000
_CONFIDENCE = 0.95
# Tokens of a text: BERT's longest
_LONGEST = 512


class Probed(NamedTuple):
    """How good the features at a place are."""
    layer: int
    pooling: str
    # Of the texts that are held out; and the ends of its interval
    accuracy: float
    low: float
    high: float
    # The chosen strength
    c: float


class ProbeData(NamedTuple):
    """Labelled texts as a model sees them; sequences of token ids are `[seq_len]` each."""
    # Those to learn from first, then those that are held out
    sequences: list[Tensor]
    # Numbers of labels, `[n_texts]`
    labels: np.ndarray
    n_train: int
    names: list[str]
    # What was left out, in a sentence each
    notes: list[str]

    @property
    def n_valid(self) -> int:
        """Number of texts that are held out."""
        return len(self.sequences) - self.n_train

    @property
    def majority(self) -> float:
        """The accuracy of who always says the most frequent label."""
        most_frequent = np.bincount(self.labels[:self.n_train]).argmax()
        return float((self.labels[self.n_train:] == most_frequent).mean())


def require_sklearn(what: str):
    """Raises `UserError` if scikit-learn, which `what` needs, is not installed."""
    try:
        import sklearn  # noqa: F401  as a check
    except ImportError as e:
        raise UserError(f"{what} needs scikit-learn, which is not installed ({e}): pip install 'labml_mlm[finetune]'"
                        ) from None


def longest(model: TransformerMLM, seq_len: int) -> float:
    """
    The most tokens of a text that are probed, special ones included. A model that was trained on windows of `seq_len`
    is given longer texts if its positions allow that: the rest of a text tells more than it costs.
    """
    return min(max(_LONGEST, seq_len), model.max_seq_len)


def prepare(examples: Examples, sequences: Sequences) -> ProbeData:
    """Turns texts into token ids. Raises `UserError` for a text without tokens."""
    rows = examples.train + examples.valid
    ids = [sequences(row.text, line=row.line) for row in rows]
    for row, sequence in zip(rows, ids, strict=True):
        if sequence is None:
            raise UserError(f'the text in line {row.line:,} has no token: {row.text!r}')
    number = {label: i for i, label in enumerate(examples.labels)}
    return ProbeData(ids, np.array([number[row.label] for row in rows]), len(examples.train), examples.labels,
                     examples.notes + sequences.notes)


def probe(model: TransformerMLM, data: ProbeData, places: Sequence[Place], *, is_fitted: bool = True,
          progress: Callable[[int], None] = lambda n_places: None) -> list[Probed]:
    """
    How good the features at each of the places are: the same each time, as nothing in it is random.

    * `is_fitted` is false at a rank that only takes part in computing the features of a sharded model: no places then
    * `progress` is called with the number of places so far
    """
    features = features_at(model, data.sequences, places)
    found = []
    for place in places if is_fitted else ():
        found.append(fit(features[place], data, place))
        progress(len(found))
    return found


def fit(features: Tensor, data: ProbeData, place: Place) -> Probed:
    """A logistic regression on the features of all texts at one place, `[n_texts, d_model]`."""
    from scipy.stats import binomtest

    # `[n_train, d_model]` and `[n_valid, d_model]`, with the number of a label for each
    (x, x_valid), (y, y_valid) = (np.split(part, [data.n_train]) for part in (features.double().numpy(), data.labels))
    inner = _inner_split(y)
    c = max(_STRENGTHS, key=lambda c: _log_likelihood(_fitted(x[~inner], y[~inner], c), x[inner], y[inner]))
    n_right = int((_fitted(x, y, c).predict(x_valid) == y_valid).sum())
    interval = binomtest(n_right, data.n_valid).proportion_ci(_CONFIDENCE, method='wilson')
    return Probed(*place, n_right / data.n_valid, float(interval.low), float(interval.high), c)


def _inner_split(labels: np.ndarray) -> np.ndarray:
    """Every fifth text of each label, `[n]`."""
    is_inner = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        is_inner[np.flatnonzero(labels == label)[INNER - 1::INNER]] = True
    return is_inner


def _fitted(x: np.ndarray, y: np.ndarray, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=_ITERATIONS)).fit(x, y)


def _log_likelihood(classifier: Any, x: np.ndarray, y: np.ndarray) -> float:
    # All labels are among those that it has learned
    return float(classifier.predict_log_proba(x)[np.arange(len(y)), y].sum())
