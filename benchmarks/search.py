r"""
# A search for the values of items that learn most in a given time

    python benchmarks/search.py NAME [FILE ...] [name=value ...] --space name=value,value [...] [--minutes 1.5]
                                [--hours 8] [--trials N] [--confirm 3] [--seeds 3]

Each candidate is a run of `labml-mlm train` in the current folder, by the runner of `labml-mlm sweep`. `FILE` and
`name=value` are what all have; `--space` has the values to choose from, written as for a sweep. What counts is the
masked accuracy of validation after `--minutes` of training.

* optuna's TPE sampler proposes candidates ([Bergstra et al. 2011](https://papers.nips.cc/paper/4443), section 4).
* Most of them are given up early, by successive halving ([Li et al. 2020](https://arxiv.org/abs/1810.05934), section
  3): a candidate trains for a ninth of the minutes, the best third of those so far for a third of them, and the best
  third of these for all of them. Each rung is a run of its own, from the beginning and to the end of its schedules: a
  learning rate that has not decayed yet says little about the end.
* After `--hours` of training in total, or `--trials` candidates, the best `--confirm` candidates train with `--seeds`
  seeds. One seed screens, several decide: the first table has the former, the second the latter.

The same command goes on where it ended, also with more hours, trials, seeds or candidates to confirm: the search is in
`searches/NAME.journal` beside `logs`. A candidate that cannot be trained is counted and named, and the search goes on.
It needs `pip install 'labml_mlm[bench]'`.
"""
import argparse
import contextlib
import json
import statistics
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from labml_mlm.common.arguments import Parser
from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exit_on_error, exit_with
from labml_mlm.common.files import ProcessLock
from labml_mlm.common.table import print_table
from labml_mlm.sweep.grid import SEED, shown
from labml_mlm.sweep.plan import check_name, combinations, make_plan
from labml_mlm.sweep.runner import Interrupted, Outcome, Runner
from labml_mlm.sweep.table import time_text

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from optuna.trial import Trial, TrialState
except ImportError:
    sys.exit("search.py needs optuna: pip install 'labml_mlm[bench]'")

# Fractions of the minutes that the rungs of successive halving have; each keeps a third
RUNGS = 1 / 9, 1 / 3, 1.
# What `set_user_attr` keeps of a trial: by rung, the accuracy and the seconds of training
_FIGURES, _PROBLEM, _ASKED = 'figures', 'problem', 'asked'


class Search(NamedTuple):
    """What is searched, and with what."""
    name: str
    study: optuna.Study
    runner: Runner
    # Values of each item
    space: dict[str, list[str]]
    minutes: float

    def train(self, values: Mapping[str, str], *, fraction: float, seed: int) -> Outcome:
        """A run of these values, or the rest of it, or what it was if it is complete."""
        minutes = f'{fraction * self.minutes:.4g}'
        values = {**values, 'max_minutes': minutes, SEED: str(seed)}
        # The same candidate is the same run, whenever it is asked for
        named = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([self.name, self.study.user_attrs[_ASKED], values])).hex
        found = self.runner.outcome(named, values)
        if found.status == 'completed':
            return found
        print(f'\n{shown(values, values)}', flush=True)
        return self.runner.train(values, uuid=named)


def find_space(arguments: list[str], given: list[str]) -> dict[str, list[str]]:
    """
    The values of each item of `given`, each of which is checked as for a run with `arguments`. Raises `UserError` if a
    run cannot have one.
    """
    by_name: dict[str, list[str]] = {}
    for override in given:
        name, equals, _ = override.partition('=')
        if not equals:
            raise UserError(f'--space {override}: it must be name=value,value')
        by_name.setdefault(name, []).append(override)
    space = {}
    for overrides in by_name.values():
        found = combinations(make_plan([*arguments, *overrides]))
        [name] = {name for one in found for name in one if len({other[name] for other in found}) > 1} or {None}
        if name is None:
            raise UserError(f'--space {overrides[0]}: a space has several values of an item')
        space[name] = [one[name] for one in found]
    return space


@contextlib.contextmanager
def opened(parsed: argparse.Namespace) -> Iterator[Search]:
    """The search of this name, which no other process may have open."""
    check_name(parsed.name, option='NAME')
    runner = Runner(parsed.arguments, tag=parsed.name)
    print('Checking all values …', flush=True)
    space = find_space(parsed.arguments, parsed.space)
    folder = runner.logs.parent / 'searches'
    folder.mkdir(parents=True, exist_ok=True)
    lock = ProcessLock(folder / f'.{parsed.name}.lock')
    if (owner := lock.acquire()) is not None:
        raise UserError(f'the search {parsed.name} is running, in process {owner}')
    try:
        study = optuna.create_study(
            study_name=parsed.name, direction='maximize', load_if_exists=True,
            storage=JournalStorage(JournalFileBackend(str(folder / f'{parsed.name}.journal'))),
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=False, seed=parsed.seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3))
        asked = {'arguments': parsed.arguments, 'space': parsed.space, 'minutes': parsed.minutes}
        before = study.user_attrs.get(_ASKED, asked)
        if before != asked:
            differing = ' and '.join(name for name in asked if before[name] != asked[name])
            raise UserError(f'there is a search {parsed.name} with other {differing}: give another name, or the same '
                            'command to go on')
        study.set_user_attr(_ASKED, asked)
        yield Search(parsed.name, study, runner, space, parsed.minutes)
    finally:
        lock.release()


def go_on(search: Search, *, hours: float, n_trials: int | None):
    """Trains candidates until the time, or their number, is used up."""
    study = search.study
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        # It was interrupted; what it has trained is found again by its values
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)
    while used(study) < hours * 3600 and (n_trials is None or len(candidates(study)) < n_trials):
        trial = study.ask()
        values = {name: trial.suggest_categorical(name, values) for name, values in search.space.items()}
        state, accuracy = climb(search, trial, values)
        study.tell(trial, accuracy, state=state)


def climb(search: Search, trial: Trial, values: Mapping[str, str]) -> tuple[TrialState, float | None]:
    """Trains a candidate on one rung after another, as far as it is worth it."""
    figures: list[tuple[float, float]] = []
    for fraction in RUNGS:
        outcome = search.train(values, fraction=fraction, seed=1)
        if outcome.status != 'completed' or outcome.accuracy is None:
            trial.set_user_attr(_PROBLEM, f'exit code {outcome.code}' if outcome.code else 'no accuracy of validation')
            return TrialState.FAIL, None
        figures.append((outcome.accuracy, outcome.seconds or 0.))
        trial.set_user_attr(_FIGURES, figures)
        # In ninths of the minutes
        trial.report(outcome.accuracy, round(fraction / RUNGS[0]))
        if fraction < 1 and trial.should_prune():
            return TrialState.PRUNED, None
    return TrialState.COMPLETE, figures[-1][0]


def candidates(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Those that were trained, or could not be; those that were interrupted were begun again as others."""
    return [trial for trial in study.trials
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or _PROBLEM in trial.user_attrs]


def used(study: optuna.Study) -> float:
    """Seconds of training of all candidates. A run that two of them share counts twice."""
    return sum(seconds for trial in candidates(study) for _, seconds in trial.user_attrs.get(_FIGURES, []))


def ranked(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Each candidate that could be trained once: those that came furthest first, and of these the most accurate."""
    found = [trial for trial in study.trials if _FIGURES in trial.user_attrs and trial.state != TrialState.FAIL]
    found.sort(key=lambda trial: (len(figures := trial.user_attrs[_FIGURES]), figures[-1][0]), reverse=True)
    return list({tuple(sorted(trial.params.items())): trial for trial in reversed(found)}.values())[::-1]


def print_candidates(search: Search, *, n: int):
    """The table of what was tried with one seed."""
    study, names = search.study, list(search.space)
    rows = [[*names, *(time_text(60 * fraction * search.minutes) for fraction in RUNGS)]]
    for trial in ranked(study)[:n]:
        figures = [f'{accuracy:.4f}' for accuracy, _ in trial.user_attrs[_FIGURES]]
        rows.append([*(trial.params[name] for name in names), *figures, *['-'] * (len(RUNGS) - len(figures))])
    problems = [trial for trial in study.trials if _PROBLEM in trial.user_attrs]
    print(f'\n{len(candidates(study)):,} candidates in {time_text(used(study))} of training; masked accuracy after\n')
    if len(rows) > 1:
        print_table(rows, numbers=range(len(names), len(rows[0])))
    for trial in problems:
        print(f'{shown(trial.params, trial.params)} could not be trained: {trial.user_attrs[_PROBLEM]}')


def confirm(search: Search, *, n: int, seeds: int):
    """Trains the best candidates with several seeds, and prints the table that decides."""
    best = [trial for trial in ranked(search.study) if trial.state == TrialState.COMPLETE][:n]
    rows, names = [], list(search.space)
    for trial in best:
        values = {name: trial.params[name] for name in names}
        outcomes = [search.train(values, fraction=1., seed=seed) for seed in range(1, seeds + 1)]
        found = [one.accuracy for one in outcomes if one.status == 'completed' and one.accuracy is not None]
        if found:
            rows.append((statistics.fmean(found), len(found), max(found) - min(found), values))
    if not rows:
        return
    rows.sort(key=lambda row: row[0], reverse=True)
    print(f'\nwith {seeds} seeds, after {time_text(60 * search.minutes)}\n')
    print_table([[*names, 'seeds', 'accuracy', '±'],
                 *([*values.values(), str(count), f'{mean:.4f}', f'{spread / 2:.4f}']
                   for mean, count, spread, values in rows)],
                numbers=range(len(names), len(names) + 3))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser()
    parser.is_intermixed = True
    parser.add_argument('name', metavar='NAME', help='of the search, and the tag of its runs on the app')
    parser.add_argument('arguments', metavar='FILE|name=value', nargs='*', help='what all candidates have')
    parser.add_argument('--space', nargs='+', required=True, metavar='name=value,value')
    parser.add_argument('--minutes', type=float, default=1.5, help='training of a candidate, validations included')
    parser.add_argument('--hours', type=float, default=8., help='training of all candidates, before the confirmation')
    parser.add_argument('--trials', type=int, metavar='N', help='end after so many candidates, if the hours do not')
    parser.add_argument('--confirm', type=int, default=3, metavar='N', help='candidates that several seeds decide on')
    parser.add_argument('--seeds', type=int, default=3, metavar='N')
    parser.add_argument('--seed', type=int, default=1, help='of the sampler')
    parser.add_argument('--rows', type=int, default=20, metavar='N', help='length of the first table')
    parsed = parser.parse_args()
    for option in ('minutes', 'hours', 'trials', 'seeds', 'rows'):
        if (value := getattr(parsed, option)) is not None and value <= 0:
            raise UserError(f'--{option} {value:g}: it must be above 0')
    return parsed


def main() -> Any:
    """Searches, and prints two tables."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parsed = parse()
    with opened(parsed) as search:
        try:
            go_on(search, hours=parsed.hours, n_trials=parsed.trials)
            print_candidates(search, n=parsed.rows)
            confirm(search, n=parsed.confirm, seeds=parsed.seeds)
        except Interrupted as e:
            print_candidates(search, n=parsed.rows)
            exit_with(128 + e.number, 'Interrupted: the same command goes on')


if __name__ == '__main__':
    with exit_on_error():
        main()
