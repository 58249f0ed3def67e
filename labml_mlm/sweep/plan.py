"""
# The plan of a sweep, in a file

What a sweep trains, in `sweeps/<tag>.json` of the project, beside `logs`. So the same command goes on where it ended.
How far a run has come is not in it: its folder says that.
"""
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import ProcessLock, write_atomically
from labml_mlm.common.untrusted import is_list_of, json_of
from labml_mlm.sweep import grid

_FORMAT = 1
_OVERRIDE = re.compile(r'[A-Za-z_][\w.]*=')
_TAG = re.compile(r'[\w.-]{1,60}')
_UUID = re.compile(r'\w{1,60}')


class Plan(NamedTuple):
    """What a sweep is asked for."""
    # Arguments that all runs have as they are: texts to train on, as for `labml-mlm train`
    files: list[str]
    # `name=value`, perhaps with several values
    overrides: list[str]
    # A training script in place of `labml-mlm train`
    script: str | None = None
    # How many seeds each combination is trained with; `None` for that of the item alone
    seeds: int | None = None
    # How many combinations of the grid to draw; `None` for all
    n_random: int | None = None
    random_seed: int = 0


class PlannedRun(NamedTuple):
    """A run of a sweep."""
    uuid: str
    values: grid.Combination


def make_plan(arguments: Sequence[str], **options: Any) -> Plan:
    """A plan of `[FILE …] name=value …` and other parts of a `Plan`. Raises `UserError` if they cannot be one."""
    files = [argument for argument in arguments if not _OVERRIDE.match(argument)]
    plan = Plan(files, [argument for argument in arguments if _OVERRIDE.match(argument)], **options)
    if not arguments and plan.seeds is None:
        raise UserError('a sweep needs items with several values, as in seq_len=32,64, or --seeds N')
    for name, number in (('seeds', plan.seeds), ('random', plan.n_random)):
        if number is not None and number < 1:
            raise UserError(f'--{name} {number}: it must be at least 1')
    if plan.script is not None:
        if not plan.script.endswith('.py') or not Path(plan.script).is_file():
            raise UserError(f'--script {plan.script}: it must be a Python file that trains')
        if files:
            raise UserError(f'`{files[0]}`: a script takes name=value alone; its text is text_path=FILE')
    return plan


class PlanFile:
    """
    ## The file of a plan, and the lock on it

    * `folder` is that of the project with the logs
    * `tag` is the name of the sweep, which is of the plan by default

    Raises `UserError` for a tag that cannot be the name of a file.
    """

    def __init__(self, folder: Path, plan: Plan, tag: str | None = None):
        script = plan.script and str(Path(plan.script).absolute())
        asked = json.loads(json.dumps(plan._replace(script=script)._asdict()))
        if tag is not None:
            check_name(tag, option='--tag')
        self.tag = tag or f'sweep-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]}'
        self.path = folder / 'sweeps' / f'{self.tag}.json'
        self._plan, self._asked = plan, asked
        self._lock = ProcessLock(self.path.with_name(f'.{self.tag}.lock'))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other process is inside. Raises `UserError` if one is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if (owner := self._lock.acquire()) is not None:
            raise UserError(f'the sweep {self.tag} is running, in process {owner}')
        try:
            yield
        finally:
            self._lock.release()

    def read(self) -> list[PlannedRun] | None:
        """Its runs; `None` if there is no file. Raises `UserError` if it is that of another sweep, or damaged."""
        if not os.path.lexists(self.path):
            return None
        if not _is_plan(found := json_of(self.path)):
            raise UserError(f'{self.path} is damaged, or of another version: remove it, and the sweep begins anew')
        if found['plan'] != self._asked:
            differing = [name for name, value in self._asked.items() if found['plan'].get(name) != value]
            raise UserError(f'--tag {self.tag}: there is a sweep of that name with other {" and ".join(differing)}, in '
                            f'{self.path}: give another name, or the same command to go on')
        return [PlannedRun(run['uuid'], run['values']) for run in found['runs']]

    def create(self) -> list[PlannedRun]:
        """Finds and checks all combinations, and writes them. Raises `UserError` if one of them cannot be trained."""
        runs = [PlannedRun(uuid.uuid1().hex, values) for values in combinations(self._plan)]
        content = {'format': _FORMAT, 'tag': self.tag, 'plan': self._asked, 'runs': [run._asdict() for run in runs]}
        write_atomically(self.path, json.dumps(content, indent=1, allow_nan=False).encode())
        return runs


def _is_plan(found: Any) -> bool:
    """Is it what `create` writes?"""
    return isinstance(found, dict) and found.get('format') == _FORMAT and isinstance(found.get('plan'), dict) and \
        isinstance(found.get('runs'), list) and all(map(_is_run, found['runs'])) and \
        len({frozenset(run['values']) for run in found['runs']}) <= 1


def _is_run(run: Any) -> bool:
    """Is it a planned run, with the name of a folder?"""
    return isinstance(run, dict) and isinstance(run.get('uuid'), str) and bool(_UUID.fullmatch(run['uuid'])) and \
        isinstance(run.get('values'), dict) and is_list_of(str, list(run['values'].values()))


def check_name(name: str, *, option: str):
    """Raises `UserError` for a name that cannot be that of a file."""
    if not _TAG.fullmatch(name) or name.startswith('.'):
        raise UserError(f'{option} {name}: it must be letters, digits, `_`, `-` and `.`, up to 60 of them')


def combinations(plan: Plan) -> list[grid.Combination]:
    """All combinations of a plan, each built as for a run. Raises `UserError` if one cannot be trained."""
    result = subprocess.run([sys.executable, '-m', 'labml_mlm.sweep.rehearse'], input=json.dumps(plan._asdict()),
                            capture_output=True, text=True)
    message = result.stderr.strip()
    if result.returncode == 2:
        raise UserError(message)
    if result.returncode:
        raise OSError(message or f'the check of the combinations ended with {result.returncode}')
    return json.loads(result.stdout)
