"""
# The curve that a recipe is expected to have

    python benchmarks/expected.py RUN ... --hardware TEXT [--text NAME] [-o FILE] [--path FOLDER]

Makes the file of a recipe that `labml-mlm info` compares runs with, out of finished runs; its format is told in
`labml_mlm/run_commands/expected_curve.py`. A RUN is a uuid, a folder, or a name for all runs of that name. There must
be three at least that differ in nothing but their seeds: what else differs is named, and nothing is written. Runs are
refused, too, that have no recipe, were changed when they were resumed, have code of their own, or damaged metrics.

The runs come from a sweep in a new folder, with 20 to 40 validations:

    mkdir char && cd char && touch .labml.yaml
    labml-mlm sweep recipe=char inner_iterations=8 --seeds 3
    python PATH/benchmarks/expected.py char_mlm --hardware '2 cores of …'

More validations change nothing that is learned, and seconds are those of training alone.

* `--hardware` says in words where the runs were trained
* `--text` names the text, if it is not one of the package's and its file has no good name
* `-o` is the file, by default that of the recipe in the package
* `--path` is a folder in the labml project of the runs, by default the current one
"""
import argparse
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exit_on_error
from labml_mlm.common.files import write_atomically
from labml_mlm.common.project import logs_path
from labml_mlm.common.table import print_table
from labml_mlm.run_commands.course import (
    VALIDATED,
    Metrics,
    changed_when_resumed,
    conditions,
    planned_length,
    read_metrics,
)
from labml_mlm.run_commands.expected_curve import FOLDER, Band, ExpectedCurve, Length, Point, to_json
from labml_mlm.runs import checkpoint
from labml_mlm.runs.log_lines import Skipped
from labml_mlm.runs.run import Run, find_runs

# Seeds and validations that a curve needs at least
_SEEDS, _VALIDATIONS = 3, 2


def curve_of(runs: Sequence[Run], *, hardware: str, text: str | None = None) -> ExpectedCurve:
    """
    The curve of finished runs.

    * `hardware` are words for where they were trained
    * `text` is a name for their text, in place of its own

    Raises `UserError` for runs that cannot make one, and for those that differ in more than their seeds.
    """
    if len(runs) < _SEEDS:
        raise UserError(f'a curve needs {_SEEDS} runs at least, with different seeds: {len(runs)} given')
    metrics = [_metrics(run) for run in runs]
    _check_alike(runs, metrics)
    snapshot = runs[0].snapshot
    found = conditions(snapshot)
    if text is not None:
        found = found._replace(text={**found.text, 'name': text})
    progress = _progress(runs[0])
    length = Length(progress['epoch'] - progress['left_out'], progress['steps'], progress['tokens'])
    return ExpectedCurve(found, length, sorted(map(_seed, runs)), hardware, snapshot['versions'], [
        _point(tokens, metrics) for tokens in metrics[0].validations])


def _metrics(run: Run) -> Metrics:
    """Those of a run that can be one of a curve. Raises `UserError` for another."""
    snapshot, skipped = run.snapshot, Skipped()
    if snapshot is None or run.is_fine_tuned or conditions(snapshot).recipe is None:
        raise UserError(f'the run {run.uuid} has no recipe of pre-training')
    if run.status != 'completed':
        raise UserError(f'the run {run.uuid} is not complete: {run.status}')
    if (own := snapshot.get('own_code')) != []:
        raise UserError(f'the run {run.uuid} has code of its own, or is of an earlier version: {own}')
    if (changed := changed_when_resumed(run, snapshot)) is not None:
        raise UserError(f'the run {run.uuid}: {changed}')
    if not conditions(snapshot).text['sha256'] or not conditions(snapshot).tokenizer['sha256']:
        raise UserError(f'the run {run.uuid} has a text or a vocabulary that it does not know again')
    if planned_length(snapshot) is None:
        raise UserError(f'the run {run.uuid} does not say how long it is')
    paths = [name for name, value in conditions(snapshot).items.items() if _is_path(value)]
    if paths:
        raise UserError(f'the run {run.uuid} depends on a file of this machine: {", ".join(paths)}')
    metrics = read_metrics(run.log, skipped)
    if skipped:
        raise UserError(f'{run.log} has {skipped.total()} damaged lines')
    if len(metrics.validations) < _VALIDATIONS:
        raise UserError(f'the run {run.uuid} has {len(metrics.validations)} validations: a curve needs '
                        f'{_VALIDATIONS} at least')
    if not metrics.training or metrics.training[0][0] > min(metrics.validations):
        raise UserError(f'the run {run.uuid} does not say how fast it was before its first validation')
    for tokens, values in metrics.validations.items():
        if values.keys() != set(VALIDATED) or not all(map(math.isfinite, values.values())):
            raise UserError(f'the run {run.uuid} has no {" and ".join(VALIDATED)} after {tokens:,} tokens that are '
                            'finite')
    return metrics


def _check_alike(runs: Sequence[Run], metrics: Sequence[Metrics]):
    """Raises `UserError` if runs differ in more than their seeds, or if two have the same."""
    first, *others = [_about(run, of_run) for run, of_run in zip(runs, metrics, strict=True)]
    for run, about in zip(runs[1:], others, strict=True):
        differing = [f'{name} ({first.get(name)} and {about.get(name)})' for name in dict.fromkeys([*first, *about])
                     if first.get(name) != about.get(name)]
        if differing:
            raise UserError(f'the runs {runs[0].uuid} and {run.uuid} differ in more than their seeds: '
                            f'{", ".join(differing)}')
    seeds = list(map(_seed, runs))
    if len(set(seeds)) < len(seeds):
        raise UserError(f'each run must have a seed of its own: {", ".join(map(str, seeds))}')


def _about(run: Run, metrics: Metrics) -> dict[str, Any]:
    """All that the runs of a curve must have in common, by name."""
    snapshot = run.snapshot
    found, (name, value) = conditions(snapshot), planned_length(snapshot)
    return {'recipe': found.recipe, 'text': found.text['sha256'], 'valid_path': found.text['valid_sha256'],
            'tokenizer': found.tokenizer['sha256'], 'parameters': found.parameters, **found.items, name: value,
            **snapshot['versions'], 'validations after tokens': list(metrics.validations)}


def _progress(run: Run) -> dict[str, Any]:
    """How far a finished run has come. Raises `UserError` if its last checkpoint does not say it."""
    steps = run.checkpoints.steps()
    progress = checkpoint.read(steps[max(steps)]).metadata.get('progress') if steps else None
    if not progress:
        raise UserError(f'the run {run.uuid} has no checkpoint that says how far it has come')
    return progress


def _point(tokens: int, metrics: Sequence[Metrics]) -> Point:
    """A validation of all seeds."""
    # Of the last step that is not after it
    seconds = statistics.median(max(seconds for step, seconds in of_run.training if step <= tokens)
                                for of_run in metrics)
    figures = [[of_run.validations[tokens][name] for of_run in metrics] for name in VALIDATED]
    return Point(tokens, seconds, *(Band(min(values), statistics.fmean(values), max(values)) for values in figures))


def _seed(run: Run) -> Any:
    snapshot = run.snapshot
    return {**snapshot['defaults'], **snapshot['given']}.get('seed')


def _is_path(value: Any) -> bool:
    return any(isinstance(one, str) and os.path.isabs(one) for one in (value if isinstance(value, list) else [value]))


def main():
    """Writes a file, and prints its points."""
    parser = argparse.ArgumentParser()
    parser.add_argument('runs', metavar='RUN', nargs='+')
    parser.add_argument('--hardware', required=True, metavar='TEXT')
    parser.add_argument('--text', metavar='NAME')
    parser.add_argument('-o', '--output', type=Path, metavar='FILE')
    parser.add_argument('--path', type=Path, default=Path(), metavar='FOLDER')
    arguments = parser.parse_args()

    logs = logs_path(arguments.path)
    runs = {run.uuid: run for name in arguments.runs for run in _found(logs, name)}
    curve = curve_of(list(runs.values()), hardware=arguments.hardware, text=arguments.text)
    path = arguments.output or FOLDER / f'{curve.conditions.recipe}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json(curve).encode())
    rows = [['tokens', 'seconds', *VALIDATED]]
    for point in curve.points:
        bands = (f'{band.mean:.3f} ({band.low:.3f} to {band.high:.3f})' for band in (point.accuracy, point.loss))
        rows.append([f'{point.tokens:,}', f'{point.seconds:.1f}', *bands])
    print_table(rows, numbers=(0, 1))
    print(f'{path} has the curve of recipe={curve.conditions.recipe} on {curve.conditions.text["name"]}: '
          f'{len(curve.points)} points of {len(runs)} seeds')


def _found(logs: Path, name: str) -> list[Run]:
    """The runs of a name, or the one that is meant."""
    runs, at = find_runs(logs, name)
    if at is not None:
        raise UserError(f'{name} is a checkpoint, and a curve is that of whole runs')
    return runs[:1] if name == 'last' else runs


if __name__ == '__main__':
    with exit_on_error():
        main()
