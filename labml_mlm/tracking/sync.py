"""
# Bring the labml app up to date with a run

The folder of a run has everything that the app shows: how it was started, its configs, its metrics, how it ended.
`AppSync` brings an app up to date with that at any time: while the run trains, or later (`labml-mlm sync`). So nothing
needs to be queued for an app that cannot be reached.

Our app (`labml-mlm app`) says in each answer which step of each indicator is its last, and takes the curves back when a
run resumes from an earlier checkpoint: each value arrives once, whatever happens on the way. Upstream's app does
neither. What it has acknowledged is noted in `delivered.json` in the folder; an update whose answer is lost is sent to
it again, and steps after a checkpoint that the run resumed from stay on its curves.
"""
import contextlib
import json
import math
import os
import time
import urllib.parse
from typing import Any

import labml
from labml.internal.computer.configs import computer_singleton

from labml_mlm.common.files import open_ordinary, write_atomically
from labml_mlm.common.untrusted import is_number, json_of, yaml_of
from labml_mlm.runs.log_lines import bounded_lines, skipped
from labml_mlm.runs.metrics_log import parse_line
from labml_mlm.runs.run import Run
from labml_mlm.tracking.client import Undelivered, post_updates

# Values in an update: some hundred kilobytes
_CHUNK = 10_000
# From `run.yaml`
_INFO = ('name', 'comment', 'python_file', 'repo_remotes', 'commit', 'commit_message', 'is_dirty', 'start_step',
         'load_run', 'tags', 'notes')
_DELIVERED = 'delivered.json'
_CONFIGS = 'configs.yaml', 'configs.resumed.yaml'
# Losses of an app without any progress, after which it is left alone for a while
_MAX_LOST = 3
# Indicators that upstream's app does not keep, by the first part of their names
_NOT_KEPT = {'grad', 'param', 'module', 'metric', 'hp'}


class AppSync:
    """
    ## Brings an app up to date with a run

    * `run` is the run
    * `url` is where the app takes updates, as labml has it: it ends in `?`
    * `timeout` is how long an answer may take, in seconds
    """

    def __init__(self, run: Run, url: str, *, timeout: float = 10.):
        info = yaml_of(run.path / 'run.yaml')
        # labml has the rank in the name of the folder, too
        query = {'run_uuid': info.get('uuid') or run.uuid, 'rank': info.get('distributed_rank') or 0, 'main_rank': 0,
                 'world_size': info.get('distributed_world_size') or 0, 'labml_version': labml.__version__}
        self.run = run
        self.url = url + urllib.parse.urlencode(query)
        self.timeout = timeout
        # Values that were sent
        self.n_sent = 0
        # Damaged lines of the metrics log up to there: each may be read more than once
        self._n_damaged, self._looked_at = 0, 0
        # Indicators that the app does not keep, and those with values that are not finite
        self.left_out: set[str] = set()
        self.not_finite: set[str] = set()
        # Does it say what it has received, as upstream's does not?
        self._is_ours = True
        # The last step that the app has, of any indicator
        self.last_step: float | None = None
        self._app = url
        # How often it had lost something since it has got further in the metrics log than ever
        self._n_lost, self._furthest = 0, 0
        # The app goes by the name: an update with one introduces a run
        self._info = {'name': run.experiment} | {name: info[name] for name in _INFO if info.get(name) not in (None, '')}
        if run.owner() == os.getpid():
            # To find the process that `labml monitor` watches
            self._info['pid'] = os.getpid()
        self._reset()

    def _reset(self):
        # Does the app know the run?
        self._is_introduced = False
        # Bytes of the metrics log that it has, and the last step of each indicator
        self._offset = 0
        self._received: dict[str, float] = {}
        # Times and sizes of the files when they were sent
        self._stamp: Any = None
        self._status: dict | None = None

    def send(self, *, status: dict | None = None, output: dict[str, str] | None = None) -> dict:
        """
        Sends one update with some of what the app lacks. Returns its answer.

        * `status` is that of the run: `{'status': 'in progress', 'time': …}`
        * `output` is what was printed since the last update, by `stdout`, `stderr` and `logger`

        Raises `Undelivered` if the app cannot be reached, does not take it, or has lost what it had three times
        without any progress.
        """
        is_first, offset, update, n_values = not self._is_introduced, self._offset, {}, 0
        stamp = self._stamp_now()
        if not self._is_ours:
            # `labml-mlm sync` and the training process may both send
            self._received = _later(self._received, self._noted().get(self._app, {}))
        if is_first:
            update |= self._info | {'computer': computer_singleton().uuid, 'began': self.run.started}
        else:
            offset, update['track'], n_values = self._next(_CHUNK)
        if stamp != self._stamp:
            update |= self._read_files()
        if status and status != self._status:
            # No page shows the details, and those of an error may quote the text
            update['status'] = {'rank': 0, **status, 'details': None}
        known = {'lives': self._lives(), 'received': self._received, 'time': time.time()}
        answer = post_updates(self.url, [update | (output or {}) | known], timeout=self.timeout)
        if answer.get('is_new') and not is_first:
            # It has lost its store meanwhile
            self._reset()
            self._count_loss()
            return answer
        received = answer.get('received')
        self._is_ours = received is not None
        if received is None:
            received = self._note_received(update.get('track'))
        elif any(step > received.get(name, -1.) for name, step in self._received.items()):
            # It has gone back to an earlier store, and has taken nothing
            self._offset, self._received = 0, received
            self._count_loss()
            return answer
        else:
            self.left_out |= update.get('track', {}).keys() - received.keys()
        if offset > self._furthest:
            self._n_lost, self._furthest = 0, offset
        self._is_introduced, self._offset, self._received = True, offset, received
        self._stamp, self._status, self.n_sent = stamp, status or self._status, self.n_sent + n_values
        self.last_step = max(received.values(), default=None)
        return answer

    def _count_loss(self):
        self._n_lost += 1
        if self._n_lost >= _MAX_LOST:
            self._n_lost = 0
            raise Undelivered('it does not keep the run')

    def is_complete(self, *, status: dict | None = None, n_bytes: int | None = None) -> bool:
        """Has the app everything, or, of the metrics log, its first `n_bytes`; and that status?"""
        has_metrics = n_bytes is not None and self._offset >= n_bytes or self._next(1)[0] == self._offset
        return self._is_introduced and has_metrics and self._stamp == self._stamp_now() and (
            status is None or status == self._status)

    def _next(self, n_values: int) -> tuple[int, dict[str, dict], int]:
        """
        The next lines of the metrics log, up to so many values: where they end, what they hold for the app, and how
        many values that is.
        """
        track, end, n, size = {}, self._offset, 0, self.log_size()
        if end >= size:
            return end, track, n
        with open_ordinary(self.run.log) as f:
            f.seek(end)
            for n_bytes, line in bounded_lines(f):
                if line is not None and not line.endswith(b'\n'):
                    # It may be one that is being written
                    break
                end += n_bytes
                parsed = None if line is None else parse_line(line)
                self._n_damaged += parsed is None and end > self._looked_at
                self._looked_at = max(end, self._looked_at)
                for name, step, value in _values(parsed or {}):
                    if step > self._received.get(name, -1.) and self._is_kept(name, value):
                        series = track.setdefault(name, {'step': [], 'value': []})
                        series['step'].append(step)
                        series['value'].append(value)
                        n += 1
                if n >= n_values or end >= size:
                    break
        return end, track, n

    def _is_kept(self, name: str, value: float) -> bool:
        """Does the app keep a value? Upstream's puts 0 in place of NaN."""
        if not math.isfinite(value):
            self.not_finite.add(name)
            return self._is_ours
        if self._is_ours or name.partition('.')[0] not in _NOT_KEPT:
            return True
        self.left_out.add(name)
        return False

    @property
    def damage(self) -> str:
        """What of the run's folder could not be read; empty if there is nothing."""
        wrong = [skipped(self._n_damaged, self.run.log)] if self._n_damaged else []
        if os.path.lexists(self.run.log):
            try:
                open_ordinary(self.run.log).close()
            except OSError as e:
                wrong.append(f'{self.run.log}: {e.strerror}')
        configs = self.run.path / 'configs.json'
        if os.path.lexists(configs) and self.run.snapshot is None:
            wrong.append(f'{configs} is damaged')
        return '; '.join(wrong)

    @property
    def note(self) -> str:
        """What the app does not show as it is in the run; empty if there is nothing."""
        notes = []
        if self.left_out:
            notes.append(f'not kept by this app: {", ".join(sorted(self.left_out))}')
        if self.not_finite:
            names = ', '.join(sorted(self.not_finite))
            where = f'drawn as {", ".join(f"not_finite.{name}" for name in sorted(self.not_finite))}' \
                if self._is_ours else 'left out'
            notes.append(f'{names}: NaN or infinite at some steps, {where}')
        return '; '.join(notes)

    def _read_files(self) -> dict:
        configs: dict = {}
        for name in _CONFIGS:
            configs |= _without_texts(yaml_of(self.run.path / name), self.run.snapshot)
        indicators = yaml_of(self.run.path / 'indicators.yaml')
        return {'configs': configs, 'indicators': indicators.get('indicators') or {},
                'wildcard_indicators': indicators.get('wildcards') or {}}

    def _stamp_now(self) -> list[tuple[int, int]]:
        stamps = []
        for name in (*_CONFIGS, 'indicators.yaml'):
            with contextlib.suppress(OSError):
                stat = (self.run.path / name).stat()
                stamps.append((stat.st_mtime_ns, stat.st_size))
        return stamps

    def _lives(self) -> list[int]:
        """The steps at which the run was resumed."""
        return [life['tokens'] for life in (self.run.snapshot or {'resumed': []})['resumed']]

    def log_size(self) -> int:
        """Bytes of the metrics log."""
        with contextlib.suppress(OSError), open_ordinary(self.run.log) as f:
            return os.fstat(f.fileno()).st_size
        return 0

    def _note_received(self, track: dict[str, dict] | None) -> dict[str, float]:
        """For an app that does not say so: the last step of each indicator that it has, after this update."""
        noted = self._noted()
        sent = {name: series['step'][-1] for name, series in (track or {}).items()}
        received = _later(noted.get(self._app, {}), sent)
        if track:
            with contextlib.suppress(OSError):
                write_atomically(self.run.path / _DELIVERED,
                                 json.dumps(noted | {self._app: received}, allow_nan=False).encode())
        return received

    def _noted(self) -> dict[str, dict[str, float]]:
        """By app, the last steps that it has acknowledged, to any process."""
        found = json_of(self.run.path / _DELIVERED)
        return found if isinstance(found, dict) and all(map(_are_steps, found.values())) else {}


def sync(run: Run, url: str) -> tuple[int, str, str]:
    """
    Sends an app everything that it lacks of a run. Returns how many values that were, and what it does not show as it
    is in the run, and what of the run is damaged; both are empty if there is nothing.

    Of a run that is in training it is what there is at the beginning. The process that trains is not disturbed: it may
    send the same at the same time.

    Raises `Undelivered` if the app cannot be reached or does not take them.
    """
    app, in_training = AppSync(run, url), True
    while in_training:
        in_training = run.status == 'running'
        status, n_bytes = _final_status(run), app.log_size() if in_training else None
        while not app.is_complete(status=status, n_bytes=n_bytes):
            app.send(status=status)
        if in_training and run.status == 'running':
            return app.n_sent, '; '.join(filter(None, ['it is in training, and there will be more', app.note])), \
                app.damage
    return app.n_sent, app.note, app.damage


def _final_status(run: Run) -> dict:
    if (status := run.status) == 'running':
        return {'status': 'in progress'}
    # The app has no other word for a run that was killed
    return run.final_status() or {'status': 'crashed', 'details': status, 'time': run.path.stat().st_mtime}


def _values(parsed: dict) -> list[tuple[str, float, float]]:
    """Indicators, steps and values of a line of metrics, as `parse_line` gives it."""
    return [(name, step, sum(values) / len(values)) for name, pairs in parsed.items()
            for step, values in pairs]


def _without_texts(configs: dict, snapshot: dict | None) -> dict:
    """Configs of a run without what earlier versions wrote there: whole texts, and the `repr` of objects."""
    # An item that nobody can set
    if snapshot is None or 'loop_count' not in configs:
        return configs
    # `corpus` has all of its characters
    computed = {name: value for name, value in snapshot['computed'].items() if name not in ('text', 'corpus')}
    return {name: config | {'computed': computed.get(name)} for name, config in configs.items()
            if name in snapshot['defaults'] or name in snapshot['given']}


def _later(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """The later step of each indicator."""
    return one | {name: max(step, one.get(name, step)) for name, step in other.items()}


def _are_steps(value: Any) -> bool:
    """The last step of each indicator."""
    return isinstance(value, dict) and all(map(is_number, value.values()))
