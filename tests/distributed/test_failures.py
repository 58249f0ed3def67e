import signal
import time

import pytest
import torch.distributed as dist

from labml_mlm.distributed.failures import is_rank_failure


def test_rank_failure_is_told_from_other_errors():
    assert is_rank_failure(RuntimeError('[/gloo/transport/tcp/pair.cc:553] Connection closed by peer'))
    assert is_rank_failure(dist.DistNetworkError('failed to recv'))
    assert is_rank_failure(dist.DistBackendError('NCCL communicator was aborted'))
    assert not is_rank_failure(RuntimeError('shapes do not match'))
    assert not is_rank_failure(ValueError('gloo'))


@pytest.mark.parametrize('rank, parallel', [(0, 'ddp'), pytest.param(1, 'ddp', marks=pytest.mark.long),
                                            pytest.param(1, 'fsdp', marks=pytest.mark.long)])
def test_killed_rank_is_reported_once_and_ends_all(project, runs, rank, parallel):
    job = runs.start(3, 'stopped', 'batch_size=9', 'epochs=1000', f'parallel={parallel}')
    began = time.monotonic()
    ended = runs.stop(job, rank=rank)
    assert time.monotonic() - began < 60
    codes = [result.returncode for result in ended]
    assert codes == [-signal.SIGKILL if i == rank else 1 for i in range(3)]
    [message] = ''.join(result.stderr for result in ended).splitlines()
    assert 'Another rank failed or does not answer, so this one exits' in message
    assert '--resume stopped' in message and 'The last checkpoint is at' in message
    # The main rank may have been killed during a save
    assert rank == 0 or not list(project.path.glob('logs/test/stopped/checkpoints/.*'))


FAILING = '''
import os
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    def step(self, batch, batch_idx):
        super().step(batch, batch_idx)
        if batch_idx.idx == 3 and os.environ['RANK'] == '1':
            raise KeyError('mine')


train(Configs(), name='test')
'''


def test_error_in_user_code_at_one_rank_ends_all(project, runs):
    """With a single traceback."""
    project.script.write_text(FAILING)
    main, other = runs.start(2, 'failed').wait()
    assert (main.returncode, main.stderr) == (1, '')
    assert other.returncode == 1 and other.stderr.count('Traceback') == 1 and other.stderr.endswith("'mine'\n")
    assert project.status() == 'crashed'
