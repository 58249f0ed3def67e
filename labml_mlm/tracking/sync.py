"""
# What the labml app has of a run, and what it lacks

All that is to be watched lies in the folder of a run: how it was started, its configs, its metrics, how it ended. A
`Delivery` brings an app up to that, as often as is wanted: while the run trains, or later (`labml-mlm sync`). So
nothing has to be kept for an app that is away.

Our app (`labml-mlm app`) says in each answer which step of each indicator is the last that it has, and takes the
curves back where a run went on from an earlier checkpoint: each value arrives once, whatever happens on the way.
Upstream's app does neither. What it has acknowledged is noted in `delivered.json` in the folder; an update whose answer
is lost is sent to it again, and what a run did after a checkpoint that it then went back to stays on its curves.
"""

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import labml
import yaml
from labml.internal.computer.configs import computer_singleton

from labml_mlm.common.files import write_atomically
from labml_mlm.runs.run import Run

# Values in an update: some hundred kilobytes
_CHUNK = 10_000
# From `run.yaml`
_INFO = ('name', 'comment', 'python_file', 'repo_remotes', 'commit', 'commit_message', 'is_dirty', 'start_step',
         'load_run', 'tags', 'notes')
_CONFIGS = 'configs.yaml', 'configs.resumed.yaml'
# Indicators that no app keeps, by the first part of their names
_NOT_KEPT = {'grad', 'param', 'module', 'metric', 'hp'}
_NO_APP = 'it does not answer as a labml app does'


class Undelivered(Exception):
    """Why an app has not taken an update. It may take another run if `is_refusal`: it has answered."""

    def __init__(self, message: str, *, is_refusal: bool = False):
        super().__init__(message)
        self.is_refusal = is_refusal


class Delivery:
    """
    ## A run on its way to an app

    * `run` is the run
    * `url` is where the app takes updates, as labml has it: it ends in `?`
    * `timeout` is how long an answer may take, in seconds
    """

    def __init__(self, run: Run, url: str, *, timeout: float = 10.):
        info = _yaml(run.path / 'run.yaml')
        # labml has the rank in the name of the folder, too
        query = {'run_uuid': info.get('uuid') or run.uuid, 'rank': info.get('distributed_rank') or 0, 'main_rank': 0,
                 'world_size': info.get('distributed_world_size') or 0, 'labml_version': labml.__version__}
        self.run = run
        self.url = url + urllib.parse.urlencode(query)
        self.timeout = timeout
        # Values that were sent
        self.n_sent = 0
        # The last step that the app has, of any indicator
        self.last_step: float | None = None
        self._app = url
        # The app goes by the name: an update with one introduces a run
        self._info = {'name': run.experiment} | {name: info[name] for name in _INFO if info.get(name)}
        self._forget()

    def _forget(self):
        # Does the app know the run?
        self._is_introduced = False
        # Bytes of the metrics that it has, and the last step of each indicator
        self._offset = 0
        self._received: dict[str, float] = {}
        # What the files were like when they were sent
        self._stamp: Any = None
        self._status: dict | None = None

    def send(self, *, status: dict | None = None, output: dict[str, str] | None = None) -> dict:
        """
        Sends one update with some of what the app lacks. Returns its answer.

        * `status` is how the run does: `{'status': 'in progress', 'time': …}`
        * `output` is what was printed since the last one, by `stdout`, `stderr` and `logger`

        Raises `Undelivered` if the app cannot be reached or does not take it.
        """
        is_first, offset, update, n_values = not self._is_introduced, self._offset, {}, 0
        stamp = self._stamp_now()
        if is_first:
            update |= self._info | {'computer': computer_singleton().uuid, 'began': self.run.began}
        else:
            offset, update['track'], n_values = self._next(_CHUNK)
        if stamp != self._stamp:
            update |= self._files()
        if status and status != self._status:
            update['status'] = {'rank': 0, 'details': None, **status}
        about = {'lives': self._lives(), 'received': self._received, 'time': time.time()}
        answer = self._post([update | (output or {}) | about])
        if answer.get('is_new') and not is_first:
            # It has lost its store meanwhile
            self._forget()
            return answer
        received = answer.get('received')
        if received is None:
            received = self._noted(update.get('track'))
        elif any(step > received.get(name, -1.) for name, step in self._received.items()):
            # It has gone back to an earlier store, and has taken nothing
            self._offset, self._received = 0, received
            return answer
        self._is_introduced, self._offset, self._received = True, offset, received
        self._stamp, self._status, self.n_sent = stamp, status or self._status, self.n_sent + n_values
        self.last_step = max(received.values(), default=None)
        return answer

    def is_complete(self, *, status: dict | None = None) -> bool:
        """Has the app everything, and that status?"""
        return self._is_introduced and self._next(1)[0] == self._offset and self._stamp == self._stamp_now() and (
            status is None or status == self._status)

    def _next(self, n_values: int) -> tuple[int, dict[str, dict], int]:
        """
        Where the next lines of the metrics end, up to so many values, what they have for the app, and how many values
        that is.
        """
        track, end, n, size = {}, self._offset, 0, self._size()
        if end >= size:
            return end, track, n
        with open(self.run.log, 'rb') as f:
            f.seek(end)
            # A line may be only half there
            while n < n_values and end < size and (line := f.readline()).endswith(b'\n'):
                end += len(line)
                for name, step, value in _values(line):
                    if step > self._received.get(name, -1.):
                        series = track.setdefault(name, {'step': [], 'value': []})
                        series['step'].append(step)
                        series['value'].append(value)
                        n += 1
        return end, track, n

    def _files(self) -> dict:
        configs: dict = {}
        for name in _CONFIGS:
            configs |= _yaml(self.run.path / name)
        indicators = _yaml(self.run.path / 'indicators.yaml')
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
        return [life['tokens'] for life in (self.run.record or {'resumed': []})['resumed']]

    def _size(self) -> int:
        try:
            return self.run.log.stat().st_size
        except OSError:
            return 0

    def _post(self, updates: list[dict]) -> dict:
        request = urllib.request.Request(self.url, json.dumps(updates).encode(),
                                         {'Content-Type': 'application/json; charset=utf-8'})
        try:
            with open_url(request, self.timeout) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as e:
            raise Undelivered(f'it answers {e.code} {_reason(e)}', is_refusal=True) from None
        except urllib.error.URLError as e:
            raise Undelivered(_said(e.reason)) from None
        except (OSError, http.client.HTTPException) as e:
            raise Undelivered(_said(e)) from None
        except ValueError:
            raise Undelivered(_NO_APP) from None
        if not isinstance(answer, dict) or not isinstance(answer.get('errors', []), list):
            raise Undelivered(_NO_APP)
        for error in answer.get('errors', []):
            if not isinstance(error, dict) or 'warning' not in error:
                message = (error.get('message') or error.get('error')) if isinstance(error, dict) else error
                raise Undelivered(f'it refuses: {message}', is_refusal=True)
        received = answer.get('received', {})
        if not isinstance(received, dict) or not all(isinstance(step, int | float) for step in received.values()):
            raise Undelivered(_NO_APP)
        return answer

    def _noted(self, track: dict[str, dict] | None) -> dict[str, float]:
        """The last step of each indicator that an app has that does not say so, with those that it has just taken."""
        path, noted = self.run.path / 'delivered.json', {}
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(path.read_bytes())
        received = noted.get(self._app, {}) | {name: series['step'][-1] for name, series in (track or {}).items()}
        if track:
            with contextlib.suppress(OSError):
                write_atomically(path, json.dumps(noted | {self._app: received}).encode())
        return received


def sync(run: Run, url: str) -> int:
    """
    Sends an app all that it lacks of a run. Returns how many values that were.

    Raises `Undelivered` if the app cannot be reached or does not take them.
    """
    delivery, status, n_lost = Delivery(run, url), _end_of(run), 0
    while not delivery.is_complete(status=status):
        n_lost += delivery.send(status=status).get('is_new', False)
        if n_lost > 3:
            raise Undelivered('it does not keep the run')
    return delivery.n_sent


def open_url(request: Any, timeout: float) -> Any:
    """What `urllib` opens, but never through a proxy if it is on this machine."""
    url = request if isinstance(request, str) else request.full_url
    is_here = urllib.parse.urlsplit(url).hostname in ('localhost', '127.0.0.1', '::1')
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_here else []))
    return opener.open(request, timeout=timeout)


def _end_of(run: Run) -> dict:
    if (status := run.status) == 'running':
        return {'status': 'in progress'}
    # The app has no other word for it
    return run.ending() or {'status': 'crashed', 'details': status, 'time': run.path.stat().st_mtime}


def _values(line: bytes) -> list[tuple[str, float, float]]:
    """Indicators, steps and values of a line of metrics; nothing if the line was damaged."""
    try:
        return [(name, step, sum(values) / len(values)) for name, pairs in json.loads(line)['track'].items()
                if name.partition('.')[0] not in _NOT_KEPT for step, values in pairs]
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return []


def _reason(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(Exception):
        answer = json.loads(error.read(1000))
        return f'({answer.get("error") or answer["detail"]})'
    return error.reason


def _said(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return 'it does not answer in time'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Reads what labml writes, which has tags of Python's: nothing is made of them."""


_Loader.add_multi_constructor('tag:yaml.org,2002:python/', lambda loader, _, node: (
    loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else
    loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else node.value))


def _yaml(path: Path) -> dict:
    with contextlib.suppress(OSError, yaml.YAMLError, ValueError):
        value = yaml.load(path.read_bytes(), _Loader)  # noqa: S506  it is a safe one
        return value if isinstance(value, dict) else {}
    return {}

