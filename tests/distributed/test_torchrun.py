"""torchrun itself, as users start it: restarts, several machines, and signals."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


def torchrun(project, *arguments: str, command=(sys.executable, '-m', 'torch.distributed.run'), **env):
    """torchrun in a process group of its own."""
    return subprocess.Popen([*command, *arguments], cwd=project.path, env=project.environment(**env), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def workers(process) -> dict[int, int]:
    """Process ids of the ranks that torchrun has started, by rank."""
    found = {}
    for path in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            environment = dict(line.partition('=')[::2] for line in (path / 'environ').read_text().split('\0'))
            if (path / 'stat').read_text().rpartition(')')[2].split()[1] == str(process.pid):
                found[int(environment['RANK'])] = int(path.name)
    return found


def test_restarted_ranks_resume_the_run(project, runs, trained):
    options = ['epochs=5', 'transformer.dropout=0.1']
    process = torchrun(project, '--nproc_per_node=2', '--max-restarts=3', project.script.name, *runs.arguments,
                       *options)
    saved, killed = set(), []

    def new():
        return {path.name for path in project.path.glob('logs/test/*/checkpoints/[0-9]*')} - saved

    # Each rank once, after the first checkpoint since the last restart
    while len(killed) < 2 and process.poll() is None:
        time.sleep(0.05)
        if new():
            killed.append(workers(process)[len(killed)])
            os.kill(killed[-1], signal.SIGKILL)
            time.sleep(1)
            saved |= new()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(killed) == 2 and out.count('Resuming') == 2
    assert err.count('Another rank failed') == 2
    [folder] = project.runs
    assert runs.metrics(folder.name) == trained(2, *options).metrics


KILLED = '''
import os
import signal
from labml_mlm import MLMConfigs, train
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

write = CheckpointFolder.write


def killed(*arguments, **options):
    if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments, **options)


CheckpointFolder.write = killed
train(MLMConfigs(), name='test')
'''


def test_restarted_ranks_without_a_checkpoint_start_from_the_beginning(project, runs, trained):
    """The main rank is killed when it writes the first checkpoint, after the metrics of a validation."""
    project.script.write_text(KILLED)
    process = torchrun(project, '--nproc_per_node=2', '--max-restarts=1', project.script.name, *runs.arguments,
                       'checkpoint_interval=none', RUN_UUID='stopped')
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert 'Resuming stopped from the beginning' in out
    assert runs.metrics('stopped') == trained(2).metrics


def test_error_is_reported_before_torchrun_ends_all_ranks(project, runs):
    process = torchrun(project, '--nproc_per_node=3', project.script.name, *runs.arguments)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count('batch_size=8 is that of all 3 ranks together') == 1


OUT_OF_MEMORY = '''
import os
from labml_mlm import MLMConfigs, train
from labml_mlm.distributed import parallel
from labml_mlm.training import serialization

gathered, full_tensor = [], parallel.full_tensor


def failing(tensor):
    gathered.append(tensor)
    if len(gathered) > 30 and os.environ['RANK'] == '0':
        raise MemoryError('no memory')
    return full_tensor(tensor)


serialization.full_tensor = failing
train(MLMConfigs(), name='test')
'''


def test_failed_gather_of_shards_ends_all_ranks(project, runs):
    """While the others wait for it in the middle of a save."""
    project.script.write_text(OUT_OF_MEMORY)
    process = torchrun(project, '--nproc_per_node=2', project.script.name, *runs.arguments, 'parallel=fsdp')
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count('MemoryError: no memory\n') == 1 and 'Another rank failed' not in err


def two_machines(project, *arguments):
    """
    Starts two torchruns, as on two machines. Returns their processes, and those of the second one's ranks, at the first
    checkpoint. The first one has the store of the rendezvous. They detect the failure of a machine sooner than by
    default, and wait less for others to join.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    machines = [torchrun(project, '--nproc_per_node=1', '--rdzv_backend=c10d', '--max-restarts=3',
                         f'--rdzv_endpoint={address}', '--rdzv_id=job',
                         f'--rdzv_conf=is_host={is_host},last_call_timeout=10,keep_alive_interval=1', *arguments)
                for is_host in (1, 0)]
    while not any(project.path.glob('logs/test/*/checkpoints/[0-9]*')):
        time.sleep(0.05)
        assert all(machine.poll() is None for machine in machines)
    return machines, workers(machines[1]).values()


TWO_MACHINES = ['epochs=3', 'checkpoint_interval=10']


def test_rank_failure_on_one_of_two_machines(project, runs, trained):
    machines, [pid] = two_machines(project, '--nnodes=2', project.script.name, *runs.arguments, *TWO_MACHINES)
    os.kill(pid, signal.SIGKILL)
    ends = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ends
    assert ''.join(out for out, _ in ends).count('Resuming') == 1
    [folder] = project.runs
    assert runs.metrics(folder.name) == trained(2, *TWO_MACHINES).metrics


def test_failure_of_one_of_two_machines(project, runs, trained):
    """The other one resumes alone, after torchrun has waited for more machines."""
    [left, failed], pids = two_machines(project, '--nnodes=1:2', project.script.name, *runs.arguments, *TWO_MACHINES)
    for pid in (failed.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    failed.communicate()
    out, err = left.communicate(timeout=120)
    assert left.returncode == 0, err
    assert out.count('Resuming') == 1 and 'ranks 2 → 1' in out
    [folder] = project.runs
    whole, resumed = trained(1, *TWO_MACHINES).metrics, runs.metrics(folder.name)
    for name in whole:
        assert max(abs(a - b) for (_, a), (_, b) in zip(whole[name], resumed[name], strict=True)) <= 2e-6, name


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL])
def test_stopped_job_saves_the_last_step(project, runs, number):
    """
    By a signal to torchrun, by Ctrl-C, which ranks receive from the terminal and from torchrun, or by an end of
    torchrun of which it tells nobody.
    """
    # Those that torchrun forwards by default, and one more
    process = torchrun(project, '--nproc_per_node=2', '--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1',
                       project.script.name, *runs.arguments, 'epochs=1000', 'checkpoint_interval=20',
                       RUN_UUID='stopped')
    folder = project.path / 'logs/test/stopped/checkpoints'
    while not any(folder.glob('[0-9]*')):
        time.sleep(0.05)
        assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    [message] = [line for line in err.splitlines() if line.startswith('Interrupted after')]
    tokens = int(re.search('after ([0-9,]+) tokens', message)[1].replace(',', ''))
    assert max(int(path.name) for path in folder.iterdir()) == tokens
    assert project.status() == 'interrupted'


def test_labml_launch(project, runs):
    """labml's wrapper passes no options to torchrun, which reads them from the environment, too."""
    process = torchrun(project, 'launch', project.script.name, *runs.arguments,
                       command=[str(Path(sys.executable).with_name('labml'))], PET_NPROC_PER_NODE='2')
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    [folder] = project.runs
    assert json.loads((folder / 'configs.json').read_bytes())['versions']['ranks'] == 2
    assert out.count('Validation loss') == 1
