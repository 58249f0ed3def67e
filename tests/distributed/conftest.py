import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from support.project import SMALL, Project, values_of

# 62 steps of 8 × 16 tokens, the last one of fewer, and two validations
RUN = [*SMALL, 'batch_size=8', 'inner_iterations=2', 'checkpoint_interval=20', 'n_prompts=1', 'transformer.n_layers=2']

# Prints which rank writes the tokens, and delays it, so that a rank that did not wait would write them, too
WRITTEN_BY = '''
import os
import time
from labml_mlm import MLMConfigs, train
from labml_mlm.tokenization.token_cache import TokenCache

write = TokenCache._write


def slow(self, *arguments):
    print('written by', os.environ.get('RANK'), flush=True)
    time.sleep(0.5)
    write(self, *arguments)


TokenCache._write = slow
train(MLMConfigs(), name='test')
'''

# Calls `train` for each case, which has arguments for all ranks and further ones for some ranks
REFUSED = '''
import json
import os
import sys

for case in json.loads(os.environ['CASES']):
    code = 0
    try:
        train(CONFIGS(), name='test', arguments=case['arguments'] + case['of_rank'].get(os.environ['RANK'], []))
    except SystemExit as e:
        code = e.code
    with open('codes-' + os.environ['RANK'], 'a') as f:
        f.write(f'{code}\\n')
sys.exit(code)
'''


class Trained(NamedTuple):
    """A run that was trained to its end without interruption."""
    project: Project
    folder: Path
    metrics: dict[str, list[tuple[int, float]]]
    # How the process, or the main rank, has ended
    main: subprocess.CompletedProcess


class Runs:
    """Runs of a project, in a single process or on several ranks."""

    def __init__(self, project: Project):
        self.project = project
        self.arguments = [f'text_path={project.text}', *RUN]

    def single(self, name: str, *arguments: str) -> dict:
        """Trains in a single process. Returns the metrics."""
        result = self.project.run(*self.arguments, *arguments, env={'RUN_UUID': name})
        assert result.returncode == 0, result.stderr
        return self.metrics(name)

    def ranks(self, n: int, name: str, *arguments: str) -> dict:
        """Trains on `n` ranks. Returns the metrics."""
        self.succeed(self.start(n, name, *arguments))
        return self.metrics(name)

    def start(self, n: int, name: str, *arguments: str, env: dict | None = None):
        """Starts to train on `n` ranks. Returns the job."""
        return self.project.ranks(n, *self.arguments, *arguments, env={'RUN_UUID': name, **(env or {})})

    def resume(self, n: int, name: str, *arguments: str) -> dict:
        """Resumes a run on `n` ranks. Returns the metrics."""
        self.succeed(self.project.ranks(n, '--resume', name, *arguments))
        return self.metrics(Path(name).parent.parent.name if '/' in name else name)

    def stop(self, job, *, number: int = signal.SIGKILL, rank: int = 0) -> list[subprocess.CompletedProcess]:
        """Sends a rank of the run `stopped` a signal after the first checkpoint. Returns how all ranks have ended."""
        job.until(lambda: any(self.project.path.glob('logs/test/stopped/checkpoints/[0-9]*')))
        os.kill(job.pids[rank], number)
        return job.wait()

    def metrics(self, name: str) -> dict[str, list[tuple[int, float]]]:
        """Those of a run, without its speed."""
        values = values_of(self.project.path / f'logs/test/{name}/log.jsonl')
        del values['tokens_per_second']
        return values

    def copy(self, trained: Trained, name: str):
        """Copies a run into this project."""
        folder = shutil.copytree(trained.folder, self.project.path / 'logs/test' / name)
        for path in (*folder.glob('*.json'), *folder.glob('*.yaml')):
            path.write_text(path.read_text().replace(str(trained.project.path), str(self.project.path)))

    @staticmethod
    def succeed(job) -> subprocess.CompletedProcess:
        """All ranks have succeeded, and only the main one has printed anything. Returns how that has ended."""
        main, *others = job.wait(200)
        assert main.returncode == 0, [(result.returncode, result.stderr) for result in (main, *others)]
        for other in others:
            assert (other.returncode, other.stdout, other.stderr) == (0, '', '')
        return main

    @staticmethod
    def assert_same(one: dict, other: dict, *, tolerance: float = 2e-6):
        """
        The same metrics at the same steps. `tolerance` is in nats; sums over ranks are those of a single process, but
        for the order of their terms.
        """
        assert one.keys() == other.keys()
        assert len(one['loss.train']) > 50 and len(one['loss.valid']) == 2
        for name in one:
            assert [step for step, _ in one[name]] == [step for step, _ in other[name]], name
            assert max(abs(a - b) for (_, a), (_, b) in zip(one[name], other[name], strict=True)) <= tolerance, name

    def refused(self, n: int, *cases: list[str], of_rank: dict[int, dict[str, list[str]]] | None = None,
                script: str = 'from labml_mlm import MLMConfigs as CONFIGS, train\n') -> list[str]:
        """
        Calls `train` for each case, in one job of `n` ranks: all ranks exit with code 2, the main rank prints one
        message, and no run is started. Returns the messages.

        * `cases` are the arguments of each, beside those of all runs
        * `of_rank` has further arguments, by the index of the case and the rank
        * `script` defines `train` and `CONFIGS`
        """
        self.project.script.write_text(script + REFUSED)
        of_rank = of_rank or {}
        cases = [{'arguments': [*self.arguments, *case], 'of_rank': of_rank.get(i, {})} for i, case in enumerate(cases)]
        began = time.monotonic()
        main, *others = self.project.ranks(n, env={'CASES': json.dumps(cases)}).wait()
        assert time.monotonic() - began < 60
        assert [result.returncode for result in (main, *others)] == [2] * n, (main, others)
        assert all((other.stdout, other.stderr) == ('', '') for other in others)
        for rank in range(n):
            path = self.project.path / f'codes-{rank}'
            assert path.read_text().split() == ['2'] * len(cases)
            path.unlink()
        messages = main.stderr.splitlines()
        assert len(messages) == len(cases), messages
        assert self.project.runs == []
        return messages


@pytest.fixture
def runs(project) -> Runs:
    return Runs(project)


@pytest.fixture(scope='session')
def trained(fork_server, tmp_path_factory):
    """Uninterrupted runs, by the number of ranks and the arguments. Each is trained once for all tests."""
    found: dict[tuple, Trained] = {}

    def trained(n: int, *arguments: str) -> Trained:
        if (n, arguments) not in found:
            project = Project(tmp_path_factory.mktemp('trained'), fork_server)
            project.script.write_text(WRITTEN_BY)
            runs = Runs(project)
            if n == 1:
                main = project.run(*runs.arguments, *arguments)
                assert main.returncode == 0, main.stderr
            else:
                main = runs.succeed(project.ranks(n, *runs.arguments, *arguments))
            [folder] = project.runs
            found[n, arguments] = Trained(project, folder, runs.metrics(folder.name), main)
        return found[n, arguments]
    return trained
