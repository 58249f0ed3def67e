"""
# One run, in a process of its own

As a person would start it: `labml-mlm train …`, or a script. The child has its own group of processes, so a Ctrl-C in
the terminal comes to this process alone, which hands it on once: the child saves and ends, and a second one ends it at
once.
"""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid as uuids
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import SIGNALS
from labml_mlm.common.project import is_in_project, logs_path
from labml_mlm.runs import checkpoint
from labml_mlm.runs.run import Run


class Outcome(NamedTuple):
    """What became of a run."""
    uuid: str
    values: dict[str, str]
    # That of its folder; `waiting` without one
    status: str
    # The exit code of its process; `None` if it was not started now
    code: int | None = None
    # The best validation
    loss: float | None = None
    accuracy: float | None = None
    # Seconds of training, and tokens
    seconds: float | None = None
    tokens: int | None = None
    path: str | None = None


class Interrupted(KeyboardInterrupt):
    """A signal has ended the child, and ends what it is part of. `number` is that of the signal."""

    def __init__(self, number: int):
        super().__init__(f'interrupted by signal {number}')
        self.number = number


class Runner:
    """
    ## Trains runs one at a time, in the current folder

    * `arguments` are those that all runs have: `[FILE …] name=value …`, as for `labml-mlm train`
    * `script` is a training script in place of `labml-mlm train`
    * `tag` is what all runs are tagged with on the app
    * `output` is where the children print to, in place of standard output
    """

    def __init__(self, arguments: Sequence[str] = (), *, script: str | Path | None = None, tag: str | None = None,
                 output: IO | None = None):
        self.arguments, self.script, self.tag, self.output = list(arguments), script, tag, output
        self.folder = Path(script).absolute().parent if script else Path.cwd()
        self.logs = logs_path(self.folder) if is_in_project(self.folder) else self.folder / 'logs'
        self._child: subprocess.Popen | None = None
        self._signals: list[int] = []
        self._n_handed_on = 0

    def train(self, values: Mapping[str, Any], *, uuid: str | None = None) -> Outcome:
        """
        Trains a run with these values of items, and returns what became of it; one that failed has the exit code.

        * `uuid` is that of a run. If it has begun already, it goes on from its last checkpoint, with the values that a
          resumed run may change; the others must be the same

        Raises `Interrupted` after a signal, when the run has saved and ended.
        """
        uuid = uuid or uuids.uuid1().hex
        given = [f'{name}={_text(value)}' for name, value in values.items()]
        run = self.find(uuid)
        code = self._call([*self.arguments, *given, *(['--resume', uuid] if run else _tagged(self.tag))],
                          environment={'RUN_UUID': uuid})
        return self.outcome(uuid, values, code=code)

    def resume(self, values: Mapping[str, Any], *, uuid: str) -> Outcome:
        """`train` for a run that has begun, as it is: `values` are only noted."""
        return self.outcome(uuid, values, code=self._call(['--resume', uuid], environment={}))

    def find(self, uuid: str) -> Run | None:
        """The run of that uuid, if it has begun."""
        found = [Run(path) for path in self.logs.glob(f'*/{uuid}')]
        return found[0] if found and found[0].snapshot else None

    def outcome(self, uuid: str, values: Mapping[str, Any], *, code: int | None = None) -> Outcome:
        """What has become of a run so far."""
        values = {name: _text(value) for name, value in values.items()}
        run = self.find(uuid)
        if run is None:
            return Outcome(uuid, values, 'failed' if code else 'waiting', code)
        best, progress = run.summary(), {}
        with contextlib.suppress(UserError, ValueError):
            progress = checkpoint.read(max(run.checkpoints.steps().items())[1]).metadata.get('progress', {})
        return Outcome(uuid, values, run.status, code, best.loss, best.accuracy, progress.get('seconds'),
                       progress.get('tokens'), str(run.path))

    def _call(self, arguments: Sequence[str], *, environment: Mapping[str, str]) -> int:
        """Starts what trains, and waits for its end. Raises `Interrupted` if a signal came."""
        command = [str(self.script)] if self.script else ['-m', 'labml_mlm', 'train']
        kept = {name: value for name, value in os.environ.items() if name != 'RUN_UUID'}
        self._signals, self._n_handed_on = [], 0
        with self._handled():
            self._child = subprocess.Popen([sys.executable, *command, *arguments], env={**kept, **environment},
                                           stdout=self.output, process_group=0)
            # Those that came before there was a child
            self._hand_on()
            code = self._child.wait()
        self._child = None
        if self._signals:
            raise Interrupted(self._signals[0])
        return code

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        """Signals go to the child; those that are ignored stay so."""
        before = {}
        # Python lets only the main thread set handlers
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, self._handle) for number in SIGNALS
                      if signal.getsignal(number) != signal.SIG_IGN}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: Any):
        self._signals.append(number)
        if self._child is not None:
            self._hand_on()

    def _hand_on(self):
        while self._n_handed_on < len(self._signals):
            # Each once, even if another comes now
            self._n_handed_on += 1
            self._child.send_signal(self._signals[self._n_handed_on - 1])


def _tagged(tag: str | None) -> list[str]:
    """The arguments that give a run a tag on the app."""
    return ['--tags', tag] if tag else []


def _text(value: Any) -> str:
    """A value as it is given in an argument."""
    if isinstance(value, list | tuple):
        return ','.join(map(_text, value))
    return 'none' if value is None else str(value).lower() if isinstance(value, bool) else str(value)
