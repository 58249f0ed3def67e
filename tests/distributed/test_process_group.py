"""What ranks know of each other, without a process for each."""
import threading

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.common.errors import UserError
from labml_mlm.distributed import rendezvous
from labml_mlm.distributed.failures import exit_on_rank_failure, is_rank_failure
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.distributed.rendezvous import RankInfo, join, rank_from_environment


def test_an_environment_of_one_process():
    assert rank_from_environment({}) is None
    assert rank_from_environment({'WORLD_SIZE': '1', 'MASTER_ADDR': 'somewhere'}) is None
    assert rank_from_environment({'RANK': '0', 'WORLD_SIZE': '1'}) == RankInfo(0, 1, 0, None)


def test_an_environment_of_torchrun():
    environment = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'host', 'MASTER_PORT': '29500'}
    assert rank_from_environment(environment) == RankInfo(5, 8, 1, ('host', 29500))
    del environment['LOCAL_RANK']
    assert rank_from_environment(environment).local_rank == 5


@pytest.mark.parametrize('environment, message', [
    ({'RANK': '0'}, 'RANK=0 is set in the environment, and WORLD_SIZE is not'),
    ({'WORLD_SIZE': '2'}, 'WORLD_SIZE=2 is set in the environment, and RANK is not'),
    ({'RANK': '2', 'WORLD_SIZE': '2'}, 'RANK=2 in the environment: with WORLD_SIZE=2 it is from 0 to 1'),
    ({'RANK': '-1', 'WORLD_SIZE': '2'}, 'RANK=-1 in the environment: with WORLD_SIZE=2 it is from 0 to 1'),
    ({'RANK': '0', 'WORLD_SIZE': '0'}, 'WORLD_SIZE=0 in the environment: it is the number of processes, at least 1'),
    ({'RANK': 'x', 'WORLD_SIZE': '2'}, 'RANK=x in the environment: it is a whole number'),
    ({'RANK': '0', 'WORLD_SIZE': '2'}, '2 processes have no place to meet: .*MASTER_ADDR is not'),
    ({'RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'host'}, '2 processes have no place to meet: .*MASTER_PORT is'),
    ({'RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'host', 'MASTER_PORT': 'x'}, 'MASTER_PORT=x .* whole number'),
])
def test_an_environment_that_makes_no_sense(environment, message):
    with pytest.raises(UserError, match=message):
        rank_from_environment(environment)


@given(st.integers(0, 100), st.integers(1, 12))
def test_shares_are_all_things_in_order(n, size):
    shares = [list(range(n))[Ranks(RankInfo(rank, size, rank, None)).shard(n)] for rank in range(size)]
    assert [thing for share in shares for thing in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_there_is_nobody_to_ask():
    alone, numbers = Ranks(), (torch.tensor(2), torch.tensor(0.5))
    before = torch.get_rng_state()
    assert alone.sum(*numbers)() == numbers
    assert [alone.delayed_max(value) for value in (0, 15, 0)] == [0, 15, 0]
    assert alone.broadcast('x') == alone.main_first(lambda: 'x') == 'x'
    with alone.per_rank_rng(torch.device('cpu')):
        pass
    alone.check_same({'a': 1})
    alone.check()
    alone.finish_delayed_max()
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), alone.synchronize_errors(), exit_on_rank_failure(alone, lambda: ''):
        raise KeyError('mine')


def test_what_says_that_a_rank_is_gone():
    assert is_rank_failure(RuntimeError('[/gloo/transport/tcp/pair.cc:553] Connection closed by peer'))
    assert is_rank_failure(dist.DistNetworkError('failed to recv'))
    assert is_rank_failure(dist.DistBackendError('NCCL communicator was aborted'))
    assert not is_rank_failure(RuntimeError('shapes do not match'))
    assert not is_rank_failure(ValueError('gloo'))


def all_meet(store, size, monkeypatch, timeout=5.):
    """What all ranks call their meeting, and what went wrong."""
    monkeypatch.setattr(rendezvous, 'JOIN_TIMEOUT', timeout)
    found, errors = {}, []

    def of_rank(rank):
        try:
            found[rank] = join(store, RankInfo(rank, size, rank, None))
        except UserError as e:
            errors.append(str(e))

    threads = [threading.Thread(target=of_rank, args=[rank]) for rank in range(size)]
    # The main rank is the last to come
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    return found, errors


def test_each_meeting_has_a_name_of_its_own(monkeypatch):
    """torchrun's store outlives its restarts, and still has all that was said before."""
    store = dist.HashStore()
    names = set()
    for _ in range(3):
        found, errors = all_meet(store, 3, monkeypatch)
        assert errors == [] and len(found) == 3
        [name] = set(found.values())
        names.add(name)
    assert len(names) == 3


def test_ranks_that_do_not_come(monkeypatch):
    monkeypatch.setattr(rendezvous, 'JOIN_TIMEOUT', 0.3)
    store = dist.HashStore()
    # A meeting of before, which was complete
    all_meet(store, 2, monkeypatch)
    monkeypatch.setattr(rendezvous, 'JOIN_TIMEOUT', 0.3)
    with pytest.raises(UserError, match='rank 1 of 2 has waited 0.3 s for all others'):
        join(store, RankInfo(1, 2, 1, None))
    with pytest.raises(UserError, match='of 12 ranks, 11 did not come within 0.3 s: 1, 2, 3, 4, 5, 6, 7, 8, 9…'):
        join(store, RankInfo(0, 12, 0, None))
