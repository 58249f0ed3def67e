"""labml projects for tests, whose script trains in a process of its own."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labml_mlm.__main__ import main

ROOT = Path(__file__).parent.parent.parent
SHAKESPEARE = ROOT.parent / 'shared/data/tiny_shakespeare.txt'

# A run that takes a second: small model, small text
SMALL = ['transformer.n_layers=1', 'd_model=16', 'transformer.n_heads=2', 'epochs=1', 'batch_size=16', 'seq_len=16']
# The same in Python
SMALL_VALUES = {'transformer.n_layers': 1, 'd_model': 16, 'transformer.n_heads': 2, 'batch_size': 8, 'seq_len': 16}
TEXT = 'the quick brown fox jumps over the lazy dog\n' * 100
TRAIN = 'from labml_mlm import MLMConfigs, train\n\ntrain(MLMConfigs(), name="test")\n'


def values_of(path: Path) -> dict[str, list[tuple[int, float]]]:
    """`{name: [(step, value)]}` of a metrics log."""
    values = {}
    for line in path.read_text().splitlines():
        for name, pairs in json.loads(line)['track'].items():
            values.setdefault(name, []).extend((step, value) for step, [value] in pairs)
    return values


def outcome(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `labml-mlm` with some arguments."""
    code = 0
    try:
        main(arguments)
    except SystemExit as e:
        code = e.code
    return code, *capsys.readouterr()


def assert_clean_failure(result, code, message):
    """One message and nothing else; no traceback."""
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert 'Traceback' not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


class ForkServer:
    """Starts scripts much faster than `python script.py`, one at a time; see `fork_server.py`."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, Path(__file__).with_name('fork_server.py')], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env={**os.environ, 'OMP_NUM_THREADS': '1'})
        self._is_ready = False

    def ready(self):
        """Waits until it has imported everything."""
        if not self._is_ready:
            assert self.process.stdout.readline() == 'ready\n'
            self._is_ready = True

    def start(self, argv: list[str], *, cwd: Path, env: dict[str, str], out: Path, err: Path) -> int:
        """Starts a script, and returns its process id. Its output is appended to `out` and `err`."""
        self.ready()
        request = {'argv': argv, 'cwd': str(cwd), 'env': env, 'outputs': [str(out), str(err)]}
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """Waits for the end of the script, and returns its exit code."""
        return int(self.process.stdout.readline())


class Job:
    """The script of a project on several ranks, with the environment that torchrun would set."""

    def __init__(self, project: 'Project', n: int, *arguments: str, env: dict | None = None,
                 of_rank: dict[int, list[str]] | None = None, script: str | None = None):
        with socket.socket() as free:
            free.bind(('localhost', 0))
            port = free.getsockname()[1]
        while len(_RANK_SERVERS) < n:
            _RANK_SERVERS.append(ForkServer())
        self._servers, self._outputs, self.pids = _RANK_SERVERS[:n], [], []
        for server in self._servers:
            server.ready()
        for rank, server in enumerate(self._servers):
            outputs = [project.path / f'{stream}-{rank}-{time.monotonic_ns()}' for stream in ('out', 'err')]
            place = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': n, 'MASTER_ADDR': 'localhost', 'MASTER_PORT': port}
            more = (of_rank or {}).get(rank, [])
            self.pids.append(server.start(
                [script or project.script.name, *arguments, *more], cwd=project.path, out=outputs[0], err=outputs[1],
                env=project.environment(**{name: str(value) for name, value in place.items()}, **(env or {}))))
            self._outputs.append(outputs)

    def until(self, condition: Callable[[], object], *, seconds: float = 60.):
        """Waits for `condition()` while the main rank lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and os.path.exists(f'/proc/{self.pids[0]}'), self._said()
            time.sleep(0.001)

    def wait(self, seconds: float = 60.) -> list[subprocess.CompletedProcess]:
        """Waits for all ranks, and kills them after so many seconds."""
        killer = threading.Timer(seconds, self.kill)
        killer.start()
        codes = [server.wait() for server in self._servers]
        killer.cancel()
        self._servers = []
        return [subprocess.CompletedProcess([], code, *(path.read_text() for path in outputs))
                for code, outputs in zip(codes, self._outputs, strict=True)]

    def kill(self):
        """Kills all ranks."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self):
        """Kills the ranks that are still running."""
        if self._servers:
            self.kill()
            self.wait()

    def _said(self) -> list[str]:
        return [path.read_text()[-3000:] for outputs in self._outputs for path in outputs]


# One per rank of the largest job so far
_RANK_SERVERS: list[ForkServer] = []


class Project:
    """A labml project with a script that trains, in the folder of a test."""

    def __init__(self, path: Path, server: ForkServer):
        self.path = path
        self.server = server
        self.is_forked = False
        self.jobs: list[Job] = []
        self.script = path / 'train.py'
        self.script.write_text(TRAIN)
        # Nothing listens on port 1
        self.configure('http://localhost:1/api/v1/default')
        self.text = path / 'text.txt'
        self.text.write_text('the quick brown fox jumps over the lazy dog\n' * 200)

    def configure(self, app_url: str):
        (self.path / '.labml.yaml').write_text(f'app_url: {app_url}\napp_open_browser: false\n')

    def environment(self, **env) -> dict:
        kept = {k: v for k, v in os.environ.items() if k not in ('NO_COLOR', 'RUN_UUID')}
        # labml notes its projects at home
        return {**kept, 'HOME': str(self.path), 'OMP_NUM_THREADS': '1', **env}

    def start(self, *arguments: str, env: dict | None = None, **kwargs) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, self.script.name, *arguments], cwd=self.path, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=self.environment(**(env or {})), **kwargs)

    def run(self, *arguments: str, env: dict | None = None, **kwargs) -> subprocess.CompletedProcess:
        """Runs the script to its end; in a new Python if there are `kwargs` for `Popen`, or variables for Python."""
        if not kwargs and not any(name.startswith('PYTHON') for name in env or {}):
            self.fork(*arguments, env=env)
            return self.wait()
        process = self.start(*arguments, env=env, **kwargs)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def fork(self, *arguments: str, env: dict | None = None) -> int:
        """Starts the script in the fork server, and returns its process id; `wait` waits for its end."""
        self.is_forked = True
        self.outputs = [self.path / f'{stream}-{time.monotonic_ns()}' for stream in ('out', 'err')]
        self.pid = self.server.start([self.script.name, *arguments], cwd=self.path, out=self.outputs[0],
                                     env=self.environment(**(env or {})), err=self.outputs[1])
        return self.pid

    def ranks(self, n: int, *arguments: str, **options) -> Job:
        """Starts the script on `n` ranks."""
        self.jobs.append(Job(self, n, *arguments, **options))
        return self.jobs[-1]

    def until(self, condition: Callable[[], object], *, seconds: float = 60.):
        """Waits for `condition()` while the forked script runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            # The server reaps it at once, so it is gone as soon as it has ended
            assert os.path.exists(f'/proc/{self.pid}'), [path.read_text()[-3000:] for path in self.outputs]
            time.sleep(0.001)

    def wait(self) -> subprocess.CompletedProcess:
        """Waits for the end of the forked script."""
        code, self.is_forked = self.server.wait(), False
        return subprocess.CompletedProcess([], code, *(path.read_text() for path in self.outputs))

    def train(self, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
        return self.run(f'text_path={self.text}', *SMALL, *arguments, **kwargs)

    @property
    def runs(self) -> list[Path]:
        """The folders of its runs."""
        return [path for path in self.path.glob('logs/*/*') if path.is_dir()]

    def status(self) -> str:
        """labml's final status of the only run."""
        [run] = self.runs
        return json.loads((run / 'run_log.jsonl').read_text().splitlines()[-1])['status']
