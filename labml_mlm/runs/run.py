"""
# Runs on the disk

labml keeps a run in `logs/<experiment>/<uuid>`. To what it writes there (`run.yaml`, `configs.yaml`, `run_log.jsonl`,
`run.pid`) we add `configs.json`, what it takes to go on with the run, `samples.jsonl`, how its prompts were filled in,
and `run.lock`, which is locked by the process that trains it.
"""

import contextlib
import difflib
import json
import os
import time
from pathlib import Path

import yaml

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import Lock, write_atomically
from labml_mlm.runs.checkpoint import DOCUMENT
from labml_mlm.runs.samples_log import SampleFile

# Of what a run was noted down as
_KEYS = {'experiment', 'time', 'given', 'defaults', 'computed', 'text', 'tokenizer', 'versions', 'resumed'}


class Run:
    """A run, in its folder `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.uuid = path.name
        self.experiment = path.parent.name
        self.checkpoints = path / 'checkpoints'
        self.log = path / 'log.jsonl'
        self.samples = SampleFile(path / 'samples.jsonl')
        self._lock = Lock(path / 'run.lock')

    @property
    def record(self) -> dict | None:
        """What it takes to go on with it; `None` if it is a run of something else, or was damaged."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((self.path / 'configs.json').read_bytes())
            if isinstance(record, dict) and record.keys() >= _KEYS:
                return record
        return None

    @record.setter
    def record(self, record: dict):
        # What a kill has left of an earlier attempt
        for path in self.path.glob('.configs.json.*'):
            path.unlink()
        write_atomically(self.path / 'configs.json', json.dumps(record, indent=1).encode())

    @property
    def began(self) -> float:
        """When it was started first, in seconds since 1970."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            info = yaml.safe_load((self.path / 'run.yaml').read_bytes())
            # labml pads its numbers with blanks
            return time.mktime(time.strptime(f'{info["trial_date"]} {info["trial_time"]}'.replace(' ', ''),
                                             '%Y-%m-%d%H:%M:%S'))
        with contextlib.suppress(OSError):
            return self.path.stat().st_mtime
        return 0.

    @property
    def status(self) -> str:
        """`running`, how labml says that it ended, or `killed` if it could not say."""
        if self.owner() is not None:
            return 'running'
        if ending := self.ending():
            return ending['status']
        # A run of something else has no lock: its process may still be there
        with contextlib.suppress(OSError, ValueError):
            if not self.record and _lives(int((self.path / 'run.pid').read_text())):
                return 'running'
        return 'killed'

    def ending(self) -> dict | None:
        """What labml noted down of its end: `status`, `details`, `time`; nothing if it has not, or the run goes on."""
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            said = json.loads((self.path / 'run_log.jsonl').read_text().splitlines()[-1])
            if said['status'] != 'resumed':
                return {'status': said['status'], 'details': said.get('details'), 'time': said.get('time')}
        return None

    def note_resumed(self, changes: list[str]):
        """Adds to labml's log of the run that it goes on, and what has changed."""
        with open(self.path / 'run_log.jsonl', 'a') as f:
            f.write(json.dumps({'status': 'resumed', 'rank': 0, 'details': changes, 'time': time.time()}) + '\n')

    def owner(self) -> int | None:
        """The process that trains it now, if any."""
        return self._lock.owner()

    def lock(self):
        """
        Makes this the process that trains it, until `unlock` or the end of the process.

        Raises `UserError` if another one does, or if this one may not, and `OSError` if there is no space for that.
        """
        try:
            owner = self._lock.acquire()
        except PermissionError as e:
            raise UserError(f'the run {self.uuid} cannot be trained by this user: {e.filename}: {e.strerror}') from None
        if owner is not None:
            raise UserError(f'the run {self.uuid} is running, in process {owner}')

    def unlock(self):
        """Lets others go on with it."""
        self._lock.release()


def runs_in(logs: Path) -> list[Run]:
    """All runs in labml's folder of experiments, the newest first."""
    paths = {path.parent for name in ('run.pid', 'run.yaml', 'configs.json') for path in logs.glob(f'*/*/{name}')}
    runs = [Run(path) for path in paths]
    return sorted(runs, key=lambda run: (run.began, run.path.stat().st_mtime), reverse=True)


def find(logs: Path, name: str, *, experiment: str = '*') -> tuple[Run, Path | None]:
    """
    The run of that name: its uuid or the beginning of it, its folder, or `last` for the newest one; and the folder of
    the checkpoint, if `name` is that.

    * `logs` is labml's folder of experiments
    * `experiment` is the experiment that `last` is looked for in

    Raises `UserError` if there is none.
    """
    if not name:
        raise UserError('the name of the run is empty: it takes a uuid, a folder, or `last`')
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        if (path / DOCUMENT).exists():
            return Run(path.parent.parent), path
        if not any((path / name).exists() for name in ('run.pid', 'configs.json')):
            raise UserError(f'{path} is no run and no checkpoint')
        return Run(path), None
    if os.sep in name:
        raise UserError(f'{name}: there is no such folder')
    runs = runs_in(logs)
    if name == 'last':
        runs = [run for run in runs if experiment in ('*', run.experiment)]
        if not runs:
            raise UserError(f'there is no run in {logs / experiment if experiment != "*" else logs} yet')
        return runs[0], None
    found = [run for run in runs if run.uuid == name] or [run for run in runs if run.uuid.startswith(name)]
    if len(found) == 1:
        return found[0], None
    if found:
        raise UserError(f'{len(found)} runs begin with `{name}`, the newest of them {_listed(found[:3])}')
    if not runs:
        raise UserError(f'there is no run {name}: {logs} has none')
    nearest = difflib.get_close_matches(name, [run.uuid for run in runs], n=1)
    nearest = f' Did you mean {nearest[0]}?' if nearest else ''
    raise UserError(f'there is no run {name} in {logs}.{nearest} The newest: {_listed(runs[:3])}')


def _lives(pid: int) -> bool:
    with contextlib.suppress(PermissionError):  # it is another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def _listed(runs: list[Run]) -> str:
    return ', '.join(f'{run.uuid} ({run.experiment})' for run in runs)

