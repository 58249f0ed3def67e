"""What ranks exchange: errors, signals, random numbers and the work of the main rank."""
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.project import TRAIN

from labml_mlm.distributed.failures import exit_on_rank_failure
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo

# Dropout draws random numbers at each rank. Several batches in a validation
DROPOUT = ['transformer.dropout=0.2', 'valid_batch_size=16', 'epochs=2']


@given(st.integers(0, 100), st.integers(1, 12))
def test_shards_cover_everything_in_order(n, size):
    shards = [list(range(n))[Ranks(RankInfo(rank, size, rank, None)).shard(n)] for rank in range(size)]
    assert [i for shard in shards for i in shard] == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_single_process_exchanges_nothing():
    ranks, numbers = Ranks(), (torch.tensor(2), torch.tensor(0.5))
    before = torch.get_rng_state()
    assert ranks.all_reduce_sum(*numbers)() == numbers
    assert [ranks.delayed_max(value) for value in (0, 15, 0)] == [0, 15, 0]
    assert ranks.broadcast('x') == ranks.main_first(lambda: 'x') == 'x'
    with ranks.per_rank_rng(torch.device('cpu')):
        pass
    ranks.check_same({'a': 1})
    ranks.check_errors()
    ranks.finish_delayed_max()
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), ranks.synchronize_errors(), exit_on_rank_failure(ranks, lambda: ''):
        raise KeyError('mine')


# Each rank prints how many threads of gloo there are before it leaves, and after, and what the default group has sent
LEAVES = """
import os
import time
import torch
import torch.distributed as dist
from labml_mlm.distributed.process_group import ranks

def threads():
    names = [open(f'/proc/self/task/{task}/comm').read().strip() for task in os.listdir('/proc/self/task')]
    return names.count('pt_gloo_runloop')

# FSDP holds the default group
joined, default = ranks(), dist.group.WORLD
assert joined.delayed_max(1) == 0 and joined.delayed_max(2) == 1
assert joined.all_reduce_sum(torch.tensor(3))() == (6,)
assert joined.broadcast('x') == 'x'
assert joined.broadcast_tensor(torch.tensor([5]) if joined.is_main else None) == 5
deadline = time.monotonic() + 30
while threads() < 6 and time.monotonic() < deadline:
    time.sleep(0.01)
before, sent = threads(), default._get_sequence_number_for_group()
joined.leave()
os.write(1, f'{before} -> {threads()}, {sent}\\n'.encode())
"""


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='needs the names of threads in /proc')
def test_threads_with_tensors_of_python_end_before_the_interpreter(tmp_path):
    # One that asks for Python while the interpreter shuts down aborts the process
    (tmp_path / 'leaves.py').write_text(LEAVES)
    result = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                             'leaves.py'], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ['6 -> 2, 0'] * 2


def test_main_rank_tokenizes_and_writes_the_run(trained):
    project, folder, _, main = trained(2)
    assert main.stdout.count('written by 0') == 1
    # labml would append the rank to the uuid, and show another folder
    assert str(folder) in main.stdout and '.' not in folder.name
    assert 'Validation loss' in main.stdout
    assert (folder / 'run.pid').exists() and 'distributed_world_size: 0' in (folder / 'run.yaml').read_text()
    assert json.loads((folder / 'configs.json').read_bytes())['versions']['ranks'] == 2
    assert project.status() == 'completed'
    assert len(list(project.path.glob('data/tokens/*.tokens'))) == 1
    # No leftovers of incomplete checkpoints
    assert all(path.name.isdecimal() for path in (folder / 'checkpoints').iterdir())


@pytest.mark.parametrize('parallel', ['ddp', pytest.param('fsdp', marks=pytest.mark.long)])
def test_killed_run_resumes_with_the_random_numbers_of_each_rank(runs, trained, parallel):
    options = [*DROPOUT, f'parallel={parallel}']
    ended = runs.stop(runs.start(2, 'stopped', *options))
    assert ended[0].returncode == -signal.SIGKILL
    assert runs.resume(2, 'stopped') == trained(2, *options).metrics


@pytest.mark.parametrize('rank, parallel', [(0, 'ddp'), pytest.param(1, 'fsdp', marks=pytest.mark.long)])
def test_signal_at_one_rank_stops_all_at_the_same_step(runs, trained, rank, parallel):
    options = [*DROPOUT, f'parallel={parallel}']
    # After the first validation
    main, other = runs.stop(runs.start(2, 'stopped', *options, 'checkpoint_interval=1000'), number=signal.SIGTERM,
                            rank=rank)
    assert [main.returncode, other.returncode] == [143, 143]
    assert (other.stdout, other.stderr) == ('', '')
    [message] = main.stderr.splitlines()
    assert message.startswith('Interrupted after') and message.endswith('--resume stopped')
    assert runs.resume(2, 'stopped') == trained(2, *options).metrics


SIGNAL_IN_VALIDATION = '''
import itertools
import os
import signal
from labml_mlm import MLMConfigs, train

batches = itertools.count(1)


class Configs(MLMConfigs):
    def step(self, batch, batch_idx):
        super().step(batch, batch_idx)
        if not self.mode.is_train and next(batches) == 2 and os.environ.get('STOP_RANK') == os.environ['RANK']:
            os.kill(os.getpid(), signal.SIGTERM)


train(Configs(), name='test')
'''


@pytest.mark.parametrize('parallel', ['ddp', pytest.param('fsdp', marks=pytest.mark.long)])
def test_signal_in_a_validation_repeats_it_on_resume(project, runs, trained, parallel):
    project.script.write_text(SIGNAL_IN_VALIDATION)
    options = [*DROPOUT, f'parallel={parallel}']
    main, other = runs.start(2, 'stopped', *options, env={'STOP_RANK': '1'}).wait()
    assert [main.returncode, other.returncode] == [143, 143]
    assert main.stderr.startswith('Interrupted after') and (other.stdout, other.stderr) == ('', '')
    assert 'loss.valid' not in runs.metrics('stopped')
    assert runs.resume(2, 'stopped') == trained(2, *options).metrics


WRONG_ARGUMENTS = [
    (['batch_size=7'], 'batch_size=7 is that of all 2 ranks together: it must be a multiple of 2'),
    (['batch_size=8', 'gradient_accumulation_steps=3'],
     'batch_size=8 cannot be split into gradient_accumulation_steps=3 equal micro-batches on each of 2 ranks'),
    (['batch_sise=8'], '`batch_sise`: there is no such item. Did you mean `batch_size`?'),
    (['text_path=nothing.txt'], 'nothing.txt cannot be read: No such file or directory'),
    (['parallel=ddq'], 'parallel=ddq'),
    (['parallel=fsdp', 'compile=true'], 'compile=true is incompatible with parallel=fsdp'),
    (['--resume', 'nothing'], 'nothing'),
]


def test_error_at_all_ranks_is_reported_once(runs):
    messages = runs.refused(2, *(arguments for arguments, _ in WRONG_ARGUMENTS))
    for message, (_, expected) in zip(messages, WRONG_ARGUMENTS, strict=True):
        assert expected in message


def test_ranks_must_have_the_same_arguments(runs):
    messages = runs.refused(3, [], [], of_rank={0: {'2': ['optimizer.learning_rate=1e-3']},
                                                1: {'1': ['--resume', 'x']}})
    assert messages[0] == ('rank 2 of 3 was started with optimizer.learning_rate=0.001, and the main rank with '
                           'optimizer.learning_rate=0.002: all ranks must be started alike')
    assert 'rank 1 of 3 was started with --resume=x, and the main rank with --resume=None' in messages[1]


def test_ranks_must_have_the_same_text(project, runs):
    """Each has a home folder of its own; at rank 1 a text is missing, or differs."""
    homes = [project.path / str(rank) for rank in range(2)]
    for home in homes:
        home.mkdir()
    text = project.text.read_text()
    (homes[0] / 'text.txt').write_text(text)
    (homes[0] / 'other.txt').write_text(text)
    (homes[1] / 'other.txt').write_text(text + 'more')
    missing, differs = runs.refused(
        2, ['text_path=~/text.txt'], ['text_path=~/other.txt'],
        script="import os\n\nos.environ['HOME'] += '/' + os.environ['RANK']\n"
               'from labml_mlm import MLMConfigs as CONFIGS, train\n')
    assert re.fullmatch(r'rank 1 of 2: .*/1/text.txt cannot be read: No such .*', missing)
    assert differs == (f'rank 1 of 2 was started with characters={len(text) + 4}, and the main rank with '
                       f'characters={len(text)}: all ranks must be started alike')


UNREADABLE = '''
from labml_mlm.runs.checkpoint import Checkpoint


def load_tensors(self, name):
    raise OSError(28, 'No space left on device', str(self.path))


Checkpoint.load_tensors = load_tensors
''' + TRAIN


def test_error_of_the_main_rank_alone_ends_all(project, runs, trained):
    runs.copy(trained(2), 'whole')
    project.script.write_text(UNREADABLE)
    main, other = project.ranks(2, '--resume', 'whole', 'epochs=2').wait()
    assert (main.returncode, other.returncode) == (1, 2)
    assert main.stderr.startswith('No space left on device') and other.stderr == ''
