"""A run that is killed again and again is, step by step, the run that never stopped."""
import contextlib
import os
import random
import re
import signal
import time

from support.project import SMALL, values_of

# Some seconds of training: 62 steps and four validations an epoch, and hardly a moment without a save
RUN = [*SMALL, 'epochs=6', 'batch_size=8', 'inner_iterations=4', 'checkpoint_interval=3', 'n_prompts=0',
       'transformer.dropout=0.1']


def life(project, arguments, is_over):
    """Starts the run, or goes on with it, and kills it when `is_over()`. Returns what it has printed."""
    pid = project.fork(*arguments, env={'RUN_UUID': 'killed'})
    project.until(is_over)
    os.kill(pid, signal.SIGKILL)
    result = project.wait()
    assert (result.returncode, result.stderr) == (-signal.SIGKILL, '')
    return result.stdout


def test_losses_of_killed_and_resumed_are_those_of_never_stopped(project):
    text = f'text_path={project.text}'
    result = project.run(text, *RUN, env={'RUN_UUID': 'whole'})
    assert result.returncode == 0, result.stderr

    rng = random.Random(0)
    folder = project.path / 'logs/test/killed'

    def tracked():
        """Bytes of tracked metrics: they grow with each checkpoint."""
        return (folder / 'log.jsonl').stat().st_size if (folder / 'log.jsonl').exists() else 0

    def after(seconds):
        """At a moment in its first second: often before training begins."""
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end

    def in_training(seconds):
        """At a moment after training has begun."""
        before, end = tracked(), []

        def is_over():
            if not end and tracked() != before:
                end.append(time.monotonic() + seconds)
            return end and time.monotonic() > end[0]
        return is_over

    def while_saving(n):
        """Within the n-th save, between its first file and its last rename."""
        seen = set()

        def is_over():
            # `glob` may find the folder and not its files, as it has been renamed meanwhile
            with contextlib.suppress(FileNotFoundError):
                seen.update(path.parent for path in folder.glob('checkpoints/.*.tmp/*'))
            return len(seen) >= n
        return is_over

    n_saving, out = 0, ''
    # 20 at least, and some of them while a checkpoint was being written, which is not always hit
    for i in range(60):
        if i >= 20 and n_saving > 2:
            break
        is_over = [in_training(rng.uniform(0, 0.3)), while_saving(rng.randint(1, 9)), in_training(rng.uniform(0, 0.3)),
                   after(rng.uniform(0, 0.6))][i % 4]
        # Killed before there is anything to go on with, it starts again
        is_begun = (folder / 'run.pid').exists()
        out += life(project, ['--resume', 'killed'] if is_begun else [text, *RUN], is_over)
        n_saving += any(folder.glob('checkpoints/.*.tmp'))
    assert n_saving > 2
    # It was stopped all over the place, and training has not waited for the last of its lives
    places = [int(step) for step in re.findall(r'Going on with killed from .*/(\d+)$', out, re.MULTILINE)]
    assert len(set(places)) > 4
    result = project.run('--resume', 'killed')
    assert result.returncode == 0, result.stderr

    whole, killed = values_of(project.path / 'logs/test/whole/log.jsonl'), values_of(folder / 'log.jsonl')
    assert max(places) > whole['loss.train'][-1][0] / 10
    assert set(whole) == set(killed)
    for name in set(whole) - {'tokens_per_second'}:
        assert whole[name] == killed[name], name
    # Each step once, also of what differs
    assert [step for step, _ in whole['tokens_per_second']] == [step for step, _ in killed['tokens_per_second']]
    assert len(whole['loss.train']) > 300 and len(whole['loss.valid']) == 24
    # No leftovers
    assert all(path.name.isdecimal() for path in (folder / 'checkpoints').iterdir())
