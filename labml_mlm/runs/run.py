"""
# A run on the disk

labml keeps a run in `logs/<experiment>/<uuid>`, where it writes `run.yaml`, `configs.yaml`, `run_log.jsonl` and
`run.pid`. We add `configs.json`, the snapshot of its configs; `log.jsonl`, its metrics; `samples.jsonl`, how its
prompts were filled in; `checkpoints/`; and `run.lock`, which is locked by the process that trains it.
"""
import contextlib
import difflib
import json
import os
import time
from pathlib import Path

import yaml

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import ProcessLock, is_alive, write_atomically
from labml_mlm.runs.checkpoint import METADATA
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.runs.samples_log import SamplesLog

# The keys of a snapshot
_KEYS = {'experiment', 'time', 'given', 'defaults', 'computed', 'text', 'tokenizer', 'versions', 'resumed'}


class Run:
    """A run, in its folder `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.uuid = path.name
        self.experiment = path.parent.name
        self.checkpoints = CheckpointFolder(path / 'checkpoints')
        self.log = path / 'log.jsonl'
        self.samples = SamplesLog(path / 'samples.jsonl')
        self._lock = ProcessLock(path / 'run.lock')

    @property
    def snapshot(self) -> dict | None:
        """Its configs, as `take_snapshot` gave them; `None` if another program wrote the run, or it was damaged."""
        with contextlib.suppress(OSError, ValueError):
            snapshot = json.loads((self.path / 'configs.json').read_bytes())
            if isinstance(snapshot, dict) and snapshot.keys() >= _KEYS:
                return snapshot
        return None

    @snapshot.setter
    def snapshot(self, snapshot: dict):
        # Temporary files of a process that was killed
        for path in self.path.glob('.configs.json.*'):
            path.unlink()
        write_atomically(self.path / 'configs.json', json.dumps(snapshot, indent=1).encode())

    @property
    def started(self) -> float:
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
        if final := self.final_status():
            return final['status']
        # A run that another program wrote has no lock: its process may be alive
        with contextlib.suppress(OSError, ValueError):
            if not self.snapshot and is_alive(int((self.path / 'run.pid').read_text())):
                return 'running'
        return 'killed'

    def final_status(self) -> dict | None:
        """labml's entry of its end: `status`, `details`, `time`; `None` if there is none, or the run was resumed."""
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            entry = json.loads((self.path / 'run_log.jsonl').read_text().splitlines()[-1])
            if entry['status'] != 'resumed':
                return {'status': entry['status'], 'details': entry.get('details'), 'time': entry.get('time')}
        return None

    def log_resumed(self, changes: list[str]):
        """Adds to labml's log of the run that it was resumed, and what has changed."""
        with open(self.path / 'run_log.jsonl', 'a') as f:
            f.write(json.dumps({'status': 'resumed', 'rank': 0, 'details': changes, 'time': time.time()}) + '\n')

    def owner(self) -> int | None:
        """The process that trains it now, if any."""
        return self._lock.owner()

    def lock(self):
        """
        Makes this the process that trains it, until `unlock` or the end of the process.

        Raises `UserError` if another process trains it or this one may not, and `OSError` if the disk is full.
        """
        try:
            owner = self._lock.acquire()
        except PermissionError as e:
            raise UserError(f'this user cannot train the run {self.uuid}: {e.filename}: {e.strerror}') from None
        if owner is not None:
            raise UserError(f'the run {self.uuid} is running, in process {owner}')

    def unlock(self):
        """Another process may train it."""
        self._lock.release()


def list_runs(logs: Path) -> list[Run]:
    """All runs in labml's folder of experiments, the newest first."""
    paths = {path.parent for name in ('run.pid', 'run.yaml', 'configs.json') for path in logs.glob(f'*/*/{name}')}
    runs = [Run(path) for path in paths]
    return sorted(runs, key=lambda run: (run.started, run.path.stat().st_mtime), reverse=True)


def is_run(path: Path) -> bool:
    """Is a folder a run, or a checkpoint of one?"""
    return any((path / name).exists() for name in (METADATA, 'run.pid', 'configs.json'))


def find_run(logs: Path, name: str, *, experiment: str = '*') -> tuple[Run, Path | None]:
    """
    The run that `name` means: its uuid or the beginning of it, its folder, or `last` for the newest; and the folder of
    the checkpoint, if `name` is that.

    * `logs` is labml's folder of experiments
    * `experiment` is the one that `last` looks in

    Raises `UserError` if there is none.
    """
    if not name:
        raise UserError('the name of the run is empty: give a uuid, a folder, or `last`')
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        if (path / METADATA).exists():
            return Run(path.parent.parent), path
        if not is_run(path):
            raise UserError(f'{path} is neither a run nor a checkpoint')
        return Run(path), None
    if os.sep in name:
        raise UserError(f'{name}: there is no such folder')
    runs = list_runs(logs)
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
        raise UserError(f'there is no run {name}: {logs} is empty')
    nearest = difflib.get_close_matches(name, [run.uuid for run in runs], n=1)
    nearest = f' Did you mean {nearest[0]}?' if nearest else ''
    raise UserError(f'there is no run {name} in {logs}.{nearest} The newest: {_listed(runs[:3])}')


def _listed(runs: list[Run]) -> str:
    return ', '.join(f'{run.uuid} ({run.experiment})' for run in runs)
