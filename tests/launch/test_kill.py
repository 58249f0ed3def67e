"""A run that is killed and resumed repeatedly takes the same steps as an uninterrupted one."""
import contextlib
import os
import random
import re
import signal
import time

from support.project import SMALL, values_of

# Some seconds of training, with 62 steps and four validations per epoch. A checkpoint is written most of the time
RUN = [*SMALL, 'epochs=6', 'batch_size=8', 'inner_iterations=4', 'checkpoint_interval=3', 'n_prompts=0',
       'transformer.dropout=0.1']


def train_and_kill(project, arguments, is_over):
    """Starts or resumes the run, and kills it when `is_over()`. Returns what it has printed."""
    pid = project.fork(*arguments, env={'RUN_UUID': 'killed'})
    project.until(is_over)
    os.kill(pid, signal.SIGKILL)
    result = project.wait()
    assert (result.returncode, result.stderr) == (-signal.SIGKILL, '')
    return result.stdout


def test_killed_and_resumed_run_has_the_losses_of_an_uninterrupted_one(project):
    text = f'text_path={project.text}'
    result = project.run(text, *RUN, env={'RUN_UUID': 'whole'})
    assert result.returncode == 0, result.stderr

    rng = random.Random(0)
    folder = project.path / 'logs/test/killed'

    def log_size():
        """Bytes of metrics: they grow with each checkpoint."""
        return (folder / 'log.jsonl').stat().st_size if (folder / 'log.jsonl').exists() else 0

    def after(seconds):
        """At a time after its start: often before training begins."""
        deadline = time.monotonic() + seconds
        return lambda: time.monotonic() > deadline

    def in_training(seconds):
        """At a time after training has begun."""
        before, deadline = log_size(), []

        def is_over():
            if not deadline and log_size() != before:
                deadline.append(time.monotonic() + seconds)
            return deadline and time.monotonic() > deadline[0]
        return is_over

    def while_saving(n):
        """During the n-th save, between its first file and its last rename."""
        seen = set()

        def is_over():
            # `glob` may find a folder that is renamed before its files are listed
            with contextlib.suppress(FileNotFoundError):
                seen.update(path.parent for path in folder.glob('checkpoints/.*.tmp/*'))
            return len(seen) >= n
        return is_over

    n_saving, out = 0, ''
    # At least 20 times, and at least three times while a checkpoint is being written, which does not always succeed
    for i in range(60):
        if i >= 20 and n_saving > 2:
            break
        is_over = [in_training(rng.uniform(0, 0.3)), while_saving(rng.randint(1, 9)), in_training(rng.uniform(0, 0.3)),
                   after(rng.uniform(0, 0.6))][i % 4]
        # If it was killed before there was a run to resume, it is started again
        is_started = (folder / 'run.pid').exists()
        out += train_and_kill(project, ['--resume', 'killed'] if is_started else [text, *RUN], is_over)
        n_saving += any(folder.glob('checkpoints/.*.tmp'))
    assert n_saving > 2
    # It was resumed from many different steps, and not only at the end of training
    steps = [int(step) for step in re.findall(r'Resuming killed from .*/(\d+)$', out, re.MULTILINE)]
    assert len(set(steps)) > 4
    result = project.run('--resume', 'killed')
    assert result.returncode == 0, result.stderr

    whole, killed = values_of(project.path / 'logs/test/whole/log.jsonl'), values_of(folder / 'log.jsonl')
    assert max(steps) > whole['loss.train'][-1][0] / 10
    assert set(whole) == set(killed)
    for name in set(whole) - {'tokens_per_second'}:
        assert whole[name] == killed[name], name
    # Each step once, also of the metric whose values differ
    assert [step for step, _ in whole['tokens_per_second']] == [step for step, _ in killed['tokens_per_second']]
    assert len(whole['loss.train']) > 300 and len(whole['loss.valid']) == 24
    # No leftovers of incomplete checkpoints
    assert all(path.name.isdecimal() for path in (folder / 'checkpoints').iterdir())
