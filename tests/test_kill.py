"""A run that is killed again and again is, step by step, the run that never stopped."""
import os
import random
import signal
import time

from conftest import SMALL, values_of

# Some seconds of training: 62 steps and four validations an epoch, and hardly a moment without a save
RUN = [*SMALL, 'epochs=20', 'batch_size=8', 'inner_iterations=4', 'checkpoint_interval=3', 'n_prompts=0',
       'transformer.dropout=0.1']


def life(fork_server, project, arguments, condition):
    """Starts the run, or goes on with it, and kills it when the condition holds. Returns whether that came too late."""
    pid = fork_server.start(project, *arguments, env={'RUN_UUID': 'killed'})
    while not condition():
        time.sleep(0.001)
        if not os.path.exists(f'/proc/{pid}/stat') or open(f'/proc/{pid}/stat').read().split()[2] == 'Z':
            break
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return fork_server.wait() != -signal.SIGKILL


def test_losses_of_killed_and_resumed_are_those_of_never_stopped(fork_server, project):
    text = f'text_path={project.text}'
    fork_server.start(project, text, *RUN, env={'RUN_UUID': 'whole'})
    assert fork_server.wait() == 0, (project.path / 'out.txt').read_text()

    rng = random.Random(0)
    folder = project.path / 'logs/test/killed'
    lives, while_saving = 0, 0
    while lives < 24:
        if lives % 3 == 2:
            # Between the first file of a checkpoint and its last rename
            def condition():
                return any(folder.glob('checkpoints/.*.tmp/*'))
        else:
            deadline = time.monotonic() + rng.uniform(0.1, 0.7)

            def condition(deadline=deadline):
                return time.monotonic() > deadline
        is_new = not (folder / 'run.pid').exists()
        assert not life(fork_server, project, [text, *RUN] if is_new else ['--resume', 'killed'], condition), \
            (project.path / 'out.txt').read_text()[-3000:]
        while_saving += any(folder.glob('checkpoints/.*.tmp'))
        lives += 1
    assert while_saving > 2
    fork_server.start(project, '--resume', 'killed')
    assert fork_server.wait() == 0, (project.path / 'out.txt').read_text()[-3000:]
    assert 'Traceback' not in (project.path / 'out.txt').read_text()

    whole, killed = values_of(project.path / 'logs/test/whole/log.jsonl'), values_of(folder / 'log.jsonl')
    assert set(whole) == set(killed)
    for name in set(whole) - {'tokens_per_second'}:
        assert whole[name] == killed[name], name
    # Each step once, also of what differs
    assert [step for step, _ in whole['tokens_per_second']] == [step for step, _ in killed['tokens_per_second']]
    assert len(whole['loss.train']) > 1000 and len(whole['loss.valid']) == 80
    # No leftovers
    assert all(path.name.isdecimal() for path in (folder / 'checkpoints').iterdir())
