"""
# A run on the disk

labml keeps a run in `logs/<experiment>/<uuid>`, where it writes `run.yaml`, `configs.yaml`, `run_log.jsonl` and
`run.pid`. We add `configs.json`, the snapshot of its configs; `log.jsonl`, its metrics; `samples.jsonl`, how its
prompts were filled in; `text.json`, the files of its text; `baselines.json`, what guesses reach; `checkpoints/`; and
`run.lock`, which is locked by the process that trains it.
"""
import contextlib
import difflib
import json
import os
import time
from pathlib import Path

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import (
    NotOrdinary,
    ProcessLock,
    expand_home,
    is_alive,
    open_ordinary,
    opener_of_ordinary,
    read_ordinary,
    write_atomically,
)
from labml_mlm.common.untrusted import is_number, json_of, parse_json, to_json, yaml_of
from labml_mlm.runs.checkpoint import METADATA
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.runs.metrics_log import Summary, summarize
from labml_mlm.runs.samples_log import SamplesLog
from labml_mlm.runs.snapshot_schema import is_snapshot

# What a process that trains it writes to, or cuts
_WRITTEN = 'log.jsonl', 'samples.jsonl', 'run_log.jsonl', 'run.pid', 'configs.resumed.yaml', 'indicators.yaml'
# The name of the newest run
_LAST = 'last'
# How many runs a message lists
_LISTED = 10
# Bytes of a folder's name
_MAX_NAME = 255
# Bytes of labml's log of a run, the highest number of a process, and seconds since 1970: some thousand years
_MAX_LOG, _MAX_PID, _MAX_TIME = 2 ** 24, 2 ** 31, 1e11


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
        snapshot = json_of(self.path / 'configs.json')
        return snapshot if is_snapshot(snapshot) else None

    @snapshot.setter
    def snapshot(self, snapshot: dict):
        # Temporary files of a process that was killed
        for path in self.path.glob('.configs.json.*'):
            path.unlink()
        write_atomically(self.path / 'configs.json', json.dumps(snapshot, indent=1).encode())

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """`loss` and `accuracy` of guesses without a model, by name; empty if it has none."""
        found = json_of(self.path / 'baselines.json')
        return found if isinstance(found, dict) and all(map(_is_guess, found.values())) else {}

    @baselines.setter
    def baselines(self, baselines: dict[str, dict[str, float]]):
        write_atomically(self.path / 'baselines.json', to_json(baselines).encode())

    @property
    def is_fine_tuned(self) -> bool:
        """Does it learn labels?"""
        return (self.snapshot or {}).get('objective', 'mlm') != 'mlm'

    @property
    def script_experiment(self) -> str:
        """The experiment of the script that trains it: another than its own, if `--name` gave it one."""
        return (self.snapshot or {}).get('script_experiment') or self.experiment

    @property
    def comment(self) -> str:
        """What it was given, or a person's own words."""
        return str(self._info.get('comment') or '')

    @property
    def tags(self) -> list[str]:
        """Words to filter runs by."""
        tags = self._info.get('tags')
        return [str(tag) for tag in tags] if isinstance(tags, list) else []

    @property
    def _info(self) -> dict:
        """How it was started, as labml notes it."""
        return yaml_of(self.path / 'run.yaml')

    @property
    def started(self) -> float:
        """When it was started first, in seconds since 1970."""
        info = self._info
        with contextlib.suppress(ValueError, KeyError, OverflowError):
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
        if not self.snapshot and self.pid is not None and is_alive(self.pid):
            return 'running'
        return 'killed'

    @property
    def pid(self) -> int | None:
        """The process that labml notes, which may have ended."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(read_ordinary(self.path / 'run.pid', max_bytes=100))
            return pid if 0 < pid <= _MAX_PID else None
        return None

    def final_status(self) -> dict | None:
        """labml's entry of its end: `status`, `details`, `time`; `None` if there is none, or the run was resumed."""
        lines = []
        with contextlib.suppress(OSError):
            lines = read_ordinary(self.path / 'run_log.jsonl', max_bytes=_MAX_LOG).splitlines()
        entry = parse_json(lines[-1]) if lines else None
        if not isinstance(entry, dict) or not isinstance(entry.get('status'), str) or entry['status'] == 'resumed':
            return None
        ended = entry.get('time')
        return {'status': entry['status'], 'details': entry.get('details'),
                'time': ended if is_number(ended) and 0 <= ended < _MAX_TIME else None}

    def summary(self) -> Summary:
        """Its figures; a fine-tuned run has those of its best checkpoint, which may not have the lowest loss."""
        summary = summarize(self.log)
        if self.is_fine_tuned and (best := self.checkpoints.best()):
            return summary._replace(loss=best.valid['loss'], accuracy=best.valid.get('accuracy'))
        return summary

    def log_resumed(self, changes: list[str]):
        """Adds to labml's log of the run that it was resumed, and what has changed."""
        with open(self.path / 'run_log.jsonl', 'a', opener=opener_of_ordinary) as f:
            f.write(to_json({'status': 'resumed', 'rank': 0, 'details': changes, 'time': time.time()}) + '\n')

    def owner(self) -> int | None:
        """The process that trains it now, if any."""
        return self._lock.owner()

    def lock(self):
        """
        Makes this the process that trains it, until `unlock` or the end of the process.

        Raises `UserError` if another process trains it or this one may not, or if there is something else in place of a
        file that training writes to, and `OSError` if the disk is full.
        """
        for path in map(self.path.joinpath, _WRITTEN):
            _check_ordinary(path)
        try:
            owner = self._lock.acquire()
        except NotOrdinary as e:
            raise UserError(f'{e.filename}: {e.strerror}') from None
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
    # A hidden one is being deleted
    runs = [Run(path) for path in paths if not path.name.startswith('.')]
    return sorted(runs, key=lambda run: (run.started, run.path.stat().st_mtime), reverse=True)


def check_experiment_name(name: str):
    """Raises `UserError` for a name that cannot be that of a folder in `logs`, or of a line in a table."""
    _check_folder_name(name, 'the name of an experiment')


def check_uuid(uuid: str):
    """Raises `UserError` for a uuid that cannot be the name of a run's folder, or that `find_run` would not find."""
    _check_folder_name(uuid, 'the uuid of a run')
    if uuid == _LAST or uuid.startswith(('.', '~')):
        raise UserError(f'{uuid!r} cannot be the uuid of a run: `{_LAST}` is the newest one, and none begins with . or '
                        '~')


def _check_folder_name(name: str, what: str):
    if not isinstance(name, str) or name in ('', '.', '..'):
        raise UserError(f'{name!r} cannot be {what}')
    if '/' in name or not name.isprintable():
        raise UserError(f'{name!r} cannot be {what}: it is that of a folder, without / and control characters')
    if (n := len(name.encode(errors='replace'))) > _MAX_NAME:
        raise UserError(f'{what} may have {_MAX_NAME} bytes, and this has {n:,}: {name[:40]}…')


def is_run(path: Path) -> bool:
    """Is a folder a run, or a checkpoint of one?"""
    return any((path / name).exists() for name in (METADATA, 'run.pid', 'configs.json'))


def find_run(logs: Path, name: str, *, experiment: str = '*') -> tuple[Run, Path | None]:
    """The first of `find_runs`, which has the same arguments and errors, and the folder of its checkpoint."""
    runs, at = find_runs(logs, name, experiment=experiment)
    return runs[0], at


def find_runs(logs: Path, name: str, *, experiment: str = '*') -> tuple[list[Run], Path | None]:
    """
    The runs that `name` means, the newest first: one, for a uuid, the beginning of one, or a folder; all of them for
    `last`; those of an experiment for its name. And the folder of the checkpoint, if `name` is that.

    * `logs` is labml's folder of experiments
    * `experiment` is the one that `last` looks in

    Raises `UserError` if there is none, or if it can mean more than one.
    """
    if not name:
        raise UserError('the name of the run is empty: give a uuid, a name, a folder, or `last`')
    path = expand_home(name)
    if path.is_dir() and is_run(path):
        path = path.resolve()
        return ([Run(path.parent.parent)], path) if (path / METADATA).exists() else ([Run(path)], None)
    if os.sep in name:
        raise UserError(f'{path.resolve()} is neither a run nor a checkpoint' if path.is_dir() else
                        f'{name}: there is no such folder')
    runs = list_runs(logs)
    if name == _LAST:
        runs = [run for run in runs if experiment in ('*', run.experiment) or run.script_experiment == experiment]
        if not runs:
            raise UserError(f'there is no run in {logs / experiment if experiment != "*" else logs} yet')
        return runs, None
    if whole := [run for run in runs if run.uuid == name]:
        return whole, None
    named = [run for run in runs if run.experiment == name]
    begun = [run for run in runs if run.uuid.startswith(name)]
    if named and begun:
        raise UserError(f'`{name}` is the name of {_listed(named)}, and the beginning of {_listed(begun)}: give more '
                        'of a uuid')
    if len(begun) > 1:
        raise UserError(f'{len(begun)} runs begin with `{name}`: {_listed(begun)}. Give more of the uuid')
    if named or begun:
        return named or begun, None
    if not runs:
        raise UserError(f'there is no run {name}: {logs} is empty')
    nearest = difflib.get_close_matches(name, [*dict.fromkeys(run.experiment for run in runs),
                                               *(run.uuid for run in runs)], n=1)
    nearest = f' Did you mean {nearest[0]}?' if nearest else ''
    raise UserError(f'there is no run {name} in {logs}.{nearest} The newest: {_listed(runs[:3])}')


def _check_ordinary(path: Path):
    """Raises `UserError` for anything but a file, or nothing."""
    try:
        open_ordinary(path).close()
    except NotOrdinary as e:
        raise UserError(f'{path}: {e.strerror}') from None
    except OSError:
        # It is missing, or is said where it is written
        pass


def _is_guess(found: object) -> bool:
    return isinstance(found, dict) and all(is_number(found.get(name)) for name in ('loss', 'accuracy'))


def _listed(runs: list[Run]) -> str:
    listed = [f'{run.uuid} ({run.experiment}, {time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))})'
              for run in runs[:_LISTED]]
    return ', '.join(listed) + (f', and {len(runs) - _LISTED} more' if len(runs) > _LISTED else '')
