"""
# What the labml app has of a run, and what it lacks

All that is to be watched lies in the folder of a run: how it was started, its configs, its metrics, how it ended. A
`Delivery` brings an app up to that, as often as is wanted: while the run trains, or later (`labml-mlm sync`). So
nothing has to be kept for an app that is away.

Each value arrives once. Our app (`labml-mlm app`) says in its answers which steps it has, takes no step a second time,
and takes the curves back where a run went on from an earlier checkpoint. Upstream's does not: for its sake
`delivered.json` in the folder notes how many bytes of the metrics it has acknowledged, which is all but exact, as an
update whose answer is lost is sent again.
"""
import contextlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import labml
import yaml
from labml.internal.computer.configs import computer_singleton

from labml_mlm.files import write_atomically
from labml_mlm.runs import Run

# Values in an update: some hundred kilobytes
_CHUNK = 10_000
# From `run.yaml`
_INFO = ('name', 'comment', 'python_file', 'repo_remotes', 'commit', 'commit_message', 'is_dirty', 'start_step',
         'load_run', 'tags', 'notes')
_CONFIGS = 'configs.yaml', 'configs.resumed.yaml'


class Undelivered(Exception):
    """Why an app has not taken an update."""


class Delivery:
    """
    ## A run on its way to an app

    * `run` is the run
    * `url` is where the app takes updates, as labml has it: it ends in `?`
    * `timeout` is how long an answer may take, in seconds
    """

    def __init__(self, run: Run, url: str, *, timeout: float = 10.):
        info = _yaml(run.path / 'run.yaml')
        query = {'run_uuid': run.uuid, 'rank': info.get('distributed_rank') or 0, 'main_rank': 0,
                 'world_size': info.get('distributed_world_size') or 0, 'labml_version': labml.__version__}
        self.run = run
        self.url = url + urllib.parse.urlencode(query)
        self.timeout = timeout
        # Values that were sent
        self.n_sent = 0
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
        offset, update, n_values = self._offset, {}, 0
        stamp = self._stamp_now()
        if not self._is_introduced:
            update |= self._info | {'computer': computer_singleton().uuid, 'began': self.run.began}
        else:
            offset, update['track'], n_values = self._next()
        if stamp != self._stamp:
            update |= self._files()
        if status and status != self._status:
            update['status'] = {'rank': 0, 'details': None, **status}
        answer = self._post([update | (output or {}) | {'lives': self._lives(), 'time': time.time()}])
        if answer.get('is_new') and self._is_introduced:
            # It has lost its store meanwhile
            self._forget()
            return answer
        self._stamp, self._status, self.n_sent = stamp, status or self._status, self.n_sent + n_values
        if 'received' in answer:
            self._received = answer['received']
        elif self._is_introduced:
            self._note(offset)
        else:
            offset = min(self._noted().get(self._app, 0), self._size())
        self._is_introduced, self._offset = True, offset
        return answer

    def is_complete(self, *, status: dict | None = None) -> bool:
        """Has the app everything, and that status?"""
        return self._is_introduced and self._offset >= self._size() and self._stamp == self._stamp_now() and (
            status is None or status == self._status)

    def n_missing(self) -> int:
        """Values that the app has not acknowledged."""
        before, n, end = self._offset, 0, -1
        while end != self._offset:
            end = self._offset
            self._offset, _, of_these = self._next()
            n += of_these
        self._offset = before
        return n

    def _next(self) -> tuple[int, dict[str, dict], int]:
        """Where the next lines of the metrics end, what they have for the app, and how many values that is."""
        track, end, n, size = {}, self._offset, 0, self._size()
        if end >= size:
            return end, track, n
        with open(self.run.log, 'rb') as f:
            f.seek(end)
            while n < _CHUNK and end < size and (line := f.readline()).endswith(b'\n'):
                end += len(line)
                for name, pairs in _track(line).items():
                    for step, values in pairs:
                        if step > self._received.get(name, float('-inf')):
                            series = track.setdefault(name, {'step': [], 'value': []})
                            series['step'].append(step)
                            series['value'].append(sum(values) / len(values))
                            n += 1
        return end, track, n

    def _files(self) -> dict:
        configs: dict = {}
        for name in _CONFIGS:
            configs |= _yaml(self.run.path / name)
        indicators = _yaml(self.run.path / 'indicators.yaml')
        return {'configs': configs, 'indicators': indicators.get('indicators', {}),
                'wildcard_indicators': indicators.get('wildcards', {})}

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
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as e:
            raise Undelivered(f'it answers {e.code} {e.reason}') from None
        except urllib.error.URLError as e:
            raise Undelivered(_said(e.reason)) from None
        except (OSError, http.client.HTTPException) as e:
            raise Undelivered(_said(e)) from None
        except ValueError:
            raise Undelivered('it does not answer as a labml app does') from None
        if not isinstance(answer, dict) or not isinstance(answer.get('errors', []), list):
            raise Undelivered('it does not answer as a labml app does')
        for error in answer.get('errors', []):
            if not isinstance(error, dict) or 'warning' not in error:
                message = (error.get('message') or error.get('error')) if isinstance(error, dict) else error
                raise Undelivered(f'it refuses: {message}')
        return answer

    def _noted(self) -> dict[str, int]:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.run.path / 'delivered.json').read_bytes())
        return {}

    def _note(self, offset: int):
        if offset != self._offset:
            with contextlib.suppress(OSError):
                write_atomically(self.run.path / 'delivered.json',
                                 json.dumps(self._noted() | {self._app: offset}).encode())


def sync(run: Run, url: str) -> int:
    """
    Sends an app all that it lacks of a run. Returns how many values that were.

    Raises `Undelivered` if the app cannot be reached or does not take them.
    """
    delivery, status = Delivery(run, url), _end_of(run)
    while not delivery.is_complete(status=status):
        delivery.send(status=status)
    return delivery.n_sent


def _end_of(run: Run) -> dict:
    if (status := run.status) == 'running':
        return {'status': 'in progress'}
    # The app has no other word for it
    return run.ending() or {'status': 'crashed', 'details': status, 'time': run.path.stat().st_mtime}


def _track(line: bytes) -> dict[str, list]:
    try:
        return json.loads(line)['track']
    except (ValueError, KeyError):
        return {}  # the line was damaged


def _said(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return 'it does not answer in time'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Reads what labml writes, which has tags of Python's: nothing is made of them."""


_Loader.add_multi_constructor('tag:yaml.org,2002:python/', lambda loader, _, node: (
    loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else
    loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else node.value))


def _yaml(path: Any) -> dict:
    with contextlib.suppress(OSError, yaml.YAMLError):
        value = yaml.load(path.read_bytes(), _Loader)  # noqa: S506  it is a safe one
        return value if isinstance(value, dict) else {}
    return {}
