"""
# The sides of `reviews.py` that are not ours

A side learns from the rows of a file, and says how right it is on held-out rows: by accuracy, of regression by
Spearman's rank correlation. `Job` is one such measurement, `Outcome` what comes out of it.
"""
import json
import os
import statistics
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from labelled_files import Row, read_rows, train_path

from labml_mlm.common.errors import UserError

PYTHON = 'LABML_MLM_TRANSFORMERS_PYTHON'
_LOOP = Path(__file__).with_name('transformers_loop.py')
# Of scikit-learn's logistic regression on TF-IDF, which is better than its default 1 at all sizes of `film`
_C = 10.
TAGGED = 'tokens', 'characters'


@dataclass
class Setting:
    """What all measurements share."""
    # Has the data sets, and gets everything that is made from them
    folder: Path
    # That of MiniLM
    model: Path | None = None
    # A Python with transformers
    python: str = ''
    # Overrides of our runs
    pretraining: tuple[str, ...] = ()
    fine_tuning: tuple[str, ...] = ()

    def published(self) -> Path:
        """The folder of MiniLM."""
        if self.model is None:
            raise UserError('this side needs a folder of MiniLM: --model FOLDER')
        return self.model.absolute()


@dataclass
class Job:
    """One measurement: on which rows a side learns, and on which it is measured."""
    setting: Setting
    data_set: str
    # Rows to learn from; `None` is all
    n: int | None
    seed: int
    is_regression: bool = False
    # Other data sets that it is measured on as well
    others: tuple[str, ...] = ()
    # Measured after each epoch, as our runs are
    each_epoch: bool = False

    @property
    def train(self) -> Path:
        """The file to learn from."""
        return train_path(self.setting.folder / self.data_set, self.n, self.seed)

    @property
    def held_out(self) -> dict[str, Path]:
        """The files to be measured on, by data set, its own first."""
        return {name: self.setting.folder / name / 'held_out.jsonl' for name in (self.data_set, *self.others)}

    @property
    def label(self) -> str:
        """The field of the label."""
        return 'rating' if self.is_regression else 'labels' if self.data_set in TAGGED else 'label'

    @property
    def epochs(self) -> int:
        """Of the recipe."""
        return 10 if self.n is not None and self.n <= 200 else 3


class Outcome(NamedTuple):
    """How right a side is, by data set, at the end of training; and seconds without start-up."""
    values: dict[str, float]
    seconds: float
    # The best of the validations during training, on the job's own data set
    best: float | None = None
    # Seconds of training steps alone, without validations and checkpoints
    training: float | None = None


def score(job: Job, path: Path, predicted: Sequence[Any]) -> float:
    """Accuracy or Spearman's correlation of predictions for the rows of a file."""
    true = [row[job.label] for row in read_rows(path)]
    if job.is_regression:
        from scipy.stats import spearmanr

        return float(spearmanr(true, predicted).statistic)
    pairs = zip(true, predicted, strict=True)
    if job.data_set in TAGGED:
        pairs = ((label, found) for labels, tags in pairs for label, found in zip(labels, tags, strict=True))
    return statistics.mean(label == found for label, found in pairs)


def scores(job: Job, predict: Callable[[list[Row], Path], Sequence[Any]]) -> dict[str, float]:
    """Of all held-out files; `predict` is called with the rows of one, and its path."""
    return {name: score(job, path, predict(read_rows(path), path)) for name, path in job.held_out.items()}


def majority(job: Job) -> Outcome:
    """The label that is most frequent in what is held out."""
    def share(path: Path) -> float:
        labels = [row[job.label] for row in read_rows(path)]
        counts = Counter(label for row in labels for label in row) if job.data_set in TAGGED else Counter(labels)
        return max(counts.values()) / sum(counts.values())

    return Outcome({name: share(path) for name, path in job.held_out.items()}, 0.)


def vader(job: Job) -> Outcome:
    """The rules and the lexicon that these texts were made for; what they find neutral is positive."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    began = time.perf_counter()
    analyzer = SentimentIntensityAnalyzer()

    def predict(rows: list[Row], path: Path) -> list[Any]:
        found = [analyzer.polarity_scores(row['text'])['compound'] for row in rows]
        return found if job.is_regression else ['positive' if value >= 0 else 'negative' for value in found]

    return Outcome(scores(job, predict), time.perf_counter() - began)


def tfidf(job: Job) -> Outcome:
    """Words and pairs of words, weighted by TF-IDF, with a linear model."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return _linear(job, lambda rows, path: [row['text'] for row in rows], [TfidfVectorizer(ngram_range=(1, 2))], c=_C)


def frozen(job: Job) -> Outcome:
    """The means over MiniLM's last hidden states, with a linear model on them."""
    whole = train_path(job.setting.folder / job.data_set, None, 1)
    vectors = {path: dict(zip([row['text'] for row in read_rows(path)], features(job.setting, path), strict=True))
               for path in (whole, *job.held_out.values())}
    return _linear(job, lambda rows, path: np.stack([vectors[path][row['text']] for row in rows]), [], c=1.)


def _linear(job: Job, inputs: Callable[[list[Row], Path], Any], steps: list[Any], *, c: float) -> Outcome:
    """A linear model behind some `steps` on them; `inputs` gives those of rows of a file."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    rows = read_rows(job.train)
    whole = train_path(job.setting.folder / job.data_set, None, 1)
    given = inputs(rows, whole), [row[job.label] for row in rows]
    began = time.perf_counter()
    model = make_pipeline(*steps, Ridge() if job.is_regression else LogisticRegression(C=c, max_iter=1000))
    model.fit(*given)
    values = scores(job, lambda rows, path: model.predict(inputs(rows, path)).tolist())
    return Outcome(values, time.perf_counter() - began)


def most_frequent_tag(job: Job) -> Outcome:
    """Of each word, its most frequent label; of other words, the most frequent of all."""
    began = time.perf_counter()
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in read_rows(job.train):
        for word, label in zip(row['tokens'], row['labels'], strict=True):
            counts[word][label] += 1
    usual = sum(counts.values(), Counter()).most_common(1)[0][0]
    tags = {word: of_word.most_common(1)[0][0] for word, of_word in counts.items()}
    values = scores(job, lambda rows, path: [[tags.get(word, usual) for word in row['tokens']] for row in rows])
    return Outcome(values, time.perf_counter() - began)


def loop(job: Job) -> Outcome:
    """A plain loop on `transformers`."""
    out = job.setting.folder / 'loop'
    _run_python(job.setting, 'train', '--text', job.train, '--evaluate',
                *(f'{name}={path.absolute()}' for name, path in job.held_out.items()), '--out', out, '--label',
                job.label, '--epochs', job.epochs, '--seed', job.seed, *['--each-epoch'] * job.each_epoch)
    result = json.loads((out / 'result.json').read_text())
    predicted = result['predictions']
    return Outcome({name: score(job, path, predicted[name]) for name, path in job.held_out.items()}, result['seconds'],
                   training=result['training'])


def features(setting: Setting, path: Path) -> np.ndarray:
    """Of each text of a file, `[n, d_model]`; computed once."""
    cached = setting.folder / 'features' / f'{path.parent.name}-{path.stem}.npy'
    if not cached.exists():
        _run_python(setting, 'features', '--text', path, '--out', cached.parent)
        (cached.parent / '0.npy').replace(cached)
    return np.load(cached)


def _run_python(setting: Setting, what: str, *arguments: Any):
    """`transformers_loop.py` in the Python that has `transformers`; this one's packages must not be seen there."""
    if not setting.python:
        raise UserError(f'this side needs a Python with transformers: --transformers-python PATH, or {PYTHON}')
    kept = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    absolute = [argument.absolute() if isinstance(argument, Path) else argument for argument in arguments]
    result = subprocess.run([setting.python, _LOOP, what, setting.published(), *map(str, absolute)],
                            env={**kept, 'HF_HUB_OFFLINE': '1'}, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f'{_LOOP.name} has failed: {result.stderr[-1000:]}')
