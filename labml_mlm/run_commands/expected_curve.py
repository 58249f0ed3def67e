"""
# The curve that a recipe is expected to have

`curves/<recipe>.json` beside this file is what came of a recipe with three seeds or more, made out of finished runs by
`benchmarks/expected.py`:

    {"format": 1, "recipe": "char",
     "text": {"name": "Tiny Shakespeare", "characters": …, "sha256": …, "valid_sha256": null},
     "tokenizer": {"name": "character", "n_tokens": 70, "sha256": …},
     "parameters": 822892,
     "items": {"seq_len": 32, …},
     "length": {"epochs": 4, "steps": …, "tokens": …},
     "seeds": [1, 2, 3],
     "hardware": "2 cores of …",
     "versions": {"torch": …, "device": "cpu", "threads": 2, …},
     "points": [{"tokens": …, "seconds": …, "accuracy.valid": [low, mean, high], "loss.valid": [low, mean, high]}, …]}

* `items` are all that decide what is learned, with their values: `course.FREE` says which do not.
* `length` is that of the whole run, to which its schedules go.
* A point is a validation: after so many training tokens, and seconds of training without validations, the median over
  the seeds. `low` and `high` are the lowest and the highest of the seeds.

A recipe may have several files, for several texts or lengths.
"""
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.untrusted import is_integer, is_list_of, is_number, json_of
from labml_mlm.run_commands.course import VALIDATED, Conditions, interpolated

FOLDER = Path(__file__).parent / 'curves'
FORMAT = 1
# Runs whose lengths differ by less have the same schedules
SAME_LENGTH = 0.01
_DIGITS = 5


class Band(NamedTuple):
    """A figure of several seeds."""
    low: float
    mean: float
    high: float


class Point(NamedTuple):
    """A validation."""
    # Of training, and seconds of it
    tokens: int
    seconds: float
    accuracy: Band
    loss: Band


class Length(NamedTuple):
    """The length of a whole run."""
    epochs: float
    steps: int
    tokens: int

    def ratio(self, name: str, value: float) -> float:
        """How many times as long a run is that has this value of `epochs`, `max_steps` or `max_tokens`."""
        return value / getattr(self, name.removeprefix('max_'))


class ExpectedCurve(NamedTuple):
    """A curve, and the conditions under which it is to be expected."""
    conditions: Conditions
    length: Length
    seeds: list[int]
    # In words
    hardware: str
    versions: dict[str, Any]
    # By ascending tokens
    points: list[Point]

    def band(self, name: str, tokens: int) -> Band | None:
        """`accuracy` or `loss` after so many tokens; `None` where the curve does not reach."""
        if not self.points[0].tokens <= tokens <= self.points[-1].tokens * (1 + SAME_LENGTH):
            return None
        columns = zip(*(getattr(point, name) for point in self.points), strict=True)
        return Band(*(interpolated([(point.tokens, value) for point, value in zip(self.points, column, strict=True)],
                                   tokens) for column in columns))

    def spread(self, name: str) -> float:
        """How far the highest seed usually is from the lowest, in `accuracy` or `loss`."""
        bands = (getattr(point, name) for point in self.points)
        return statistics.median(band.high - band.low for band in bands)

    def seconds(self, tokens: int) -> float:
        """Seconds of training that so many tokens took; beyond the points, at their speed."""
        first, last = self.points[0], self.points[-1]
        if not first.tokens <= tokens <= last.tokens:
            nearest = first if tokens < first.tokens else last
            return nearest.seconds * tokens / nearest.tokens
        return interpolated([(point.tokens, point.seconds) for point in self.points], tokens)


def to_json(curve: ExpectedCurve) -> str:
    """The text of a file, with a line for each point."""
    about = {'format': FORMAT, **curve.conditions._asdict(), 'length': curve.length._asdict(), 'seeds': curve.seeds,
             'hardware': curve.hardware, 'versions': curve.versions}
    points = ',\n  '.join(json.dumps(
        {'tokens': point.tokens, 'seconds': round(point.seconds, 2),
         **{name: [round(value, _DIGITS) for value in band]
            for name, band in zip(VALIDATED, (point.accuracy, point.loss), strict=True)}},
        allow_nan=False) for point in curve.points)
    head = json.dumps(about, indent=1, allow_nan=False).removesuffix('\n}')
    return f'{head},\n "points": [\n  {points}\n ]\n}}\n'


def read_curve(path: Path) -> ExpectedCurve | None:
    """The curve in a file; `None` if it is missing, damaged, or of another format."""
    found = json_of(path)
    if not isinstance(found, dict) or found.get('format') != FORMAT or not all(
            fits(found.get(name)) for name, fits in _PARTS.items()):
        return None
    points = [Point(point['tokens'], point['seconds'], *(Band(*point[name]) for name in VALIDATED))
              for point in found['points']]
    if any(after.tokens <= before.tokens or after.seconds < before.seconds
           for before, after in zip(points, points[1:], strict=False)):
        return None
    return ExpectedCurve(Conditions(*(found[name] for name in Conditions._fields)), Length(**found['length']),
                         found['seeds'], found['hardware'], found['versions'], points)


def curves_of(recipe: str, folder: Path | None = None) -> list[ExpectedCurve]:
    """The curves of a recipe in a folder, by default those that come with the package."""
    found = map(read_curve, sorted((folder or FOLDER).glob('*.json')))
    return [curve for curve in found if curve is not None and curve.conditions.recipe == recipe]


def _is_band(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(is_number, value)) and value == sorted(value)


def _is_point(value: Any) -> bool:
    return isinstance(value, dict) and is_integer(value.get('tokens')) and value['tokens'] > 0 and is_number(
        value.get('seconds')) and value['seconds'] > 0 and all(_is_band(value.get(name)) for name in VALIDATED)


def _is_length(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == set(Length._fields) and all(
        is_number(number) and number > 0 for number in value.values())


def _is_identity(*names: str):
    """For a text or a vocabulary, which has a hash."""
    return lambda value: isinstance(value, dict) and value.keys() == set(names) and isinstance(value['sha256'], str)


_PARTS: Mapping[str, Any] = {
    'recipe': lambda value: isinstance(value, str),
    'text': _is_identity('name', 'characters', 'sha256', 'valid_sha256'),
    'tokenizer': _is_identity('name', 'n_tokens', 'sha256'), 'parameters': is_integer,
    'items': lambda value: isinstance(value, dict), 'length': _is_length,
    'seeds': lambda value: is_list_of(int, value) and len(value) > 0, 'hardware': lambda value: isinstance(value, str),
    'versions': lambda value: isinstance(value, dict),
    'points': lambda value: isinstance(value, list) and len(value) > 1 and all(map(_is_point, value))}
