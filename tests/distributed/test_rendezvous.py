import threading

import pytest
import torch.distributed as dist
from support.project import SMALL

from labml_mlm.common.errors import UserError
from labml_mlm.distributed import rendezvous
from labml_mlm.distributed.rendezvous import RankInfo, join, rank_from_environment


def test_environment_of_a_single_process():
    assert rank_from_environment({}) is None
    assert rank_from_environment({'WORLD_SIZE': '1', 'MASTER_ADDR': 'somewhere'}) is None
    assert rank_from_environment({'RANK': '0', 'WORLD_SIZE': '1'}) == RankInfo(0, 1, 0, None)


def test_environment_of_torchrun():
    environment = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'host', 'MASTER_PORT': '29500'}
    assert rank_from_environment(environment) == RankInfo(5, 8, 1, ('host', 29500))
    del environment['LOCAL_RANK']
    assert rank_from_environment(environment).local_rank == 5


@pytest.mark.parametrize('environment, message', [
    ({'RANK': '0'}, 'the environment has RANK=0 and no WORLD_SIZE'),
    ({'WORLD_SIZE': '2'}, 'the environment has WORLD_SIZE=2 and no RANK'),
    ({'RANK': '2', 'WORLD_SIZE': '2'}, 'RANK=2 in the environment: with WORLD_SIZE=2 it must be from 0 to 1'),
    ({'RANK': '-1', 'WORLD_SIZE': '2'}, 'RANK=-1 in the environment: with WORLD_SIZE=2 it must be from 0 to 1'),
    ({'RANK': '0', 'WORLD_SIZE': '0'}, 'WORLD_SIZE=0 in the environment: it is the number of processes, at least 1'),
    ({'RANK': 'x', 'WORLD_SIZE': '2'}, 'RANK=x in the environment: it must be an integer'),
    ({'RANK': '0', 'WORLD_SIZE': '2'}, '2 processes have no rendezvous: .* no MASTER_ADDR'),
    ({'RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'host'}, '2 processes have no rendezvous: .* no MASTER_PORT'),
    ({'RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'host', 'MASTER_PORT': 'x'},
     'MASTER_PORT=x in the environment: it must be an integer'),
])
def test_contradictory_environment_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        rank_from_environment(environment)


def join_all(store, size, monkeypatch, timeout=5.):
    """The names of the rendezvous by rank, and the errors of ranks."""
    monkeypatch.setattr(rendezvous, 'JOIN_TIMEOUT', timeout)
    names, errors = {}, []

    def run_rank(rank):
        try:
            names[rank] = join(store, RankInfo(rank, size, rank, None))
        except UserError as e:
            errors.append(str(e))

    threads = [threading.Thread(target=run_rank, args=[rank]) for rank in range(size)]
    # The main rank joins last
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    return names, errors


def test_each_rendezvous_has_its_own_name(monkeypatch):
    """torchrun's store outlives its restarts, and still has the entries of earlier ones."""
    store = dist.HashStore()
    names = set()
    for _ in range(3):
        found, errors = join_all(store, 3, monkeypatch)
        assert errors == [] and len(found) == 3
        [name] = set(found.values())
        names.add(name)
    assert len(names) == 3


def test_ranks_that_do_not_join_are_reported(monkeypatch):
    store = dist.HashStore()
    # An earlier rendezvous, which was complete
    join_all(store, 2, monkeypatch)
    monkeypatch.setattr(rendezvous, 'JOIN_TIMEOUT', 0.3)
    with pytest.raises(UserError, match='rank 1 of 2 waited 0.3 s for the other ranks to join'):
        join(store, RankInfo(1, 2, 1, None))
    with pytest.raises(UserError, match='11 of 12 ranks did not join within 0.3 s: 1, 2, 3, 4, 5, 6, 7, 8, 9…'):
        join(store, RankInfo(0, 12, 0, None))


def test_rank_that_finds_no_others_is_refused(project):
    project.script.write_text('from labml_mlm import MLMConfigs, train\n'
                              'from labml_mlm.distributed import rendezvous\n\nrendezvous.JOIN_TIMEOUT = 0.5\n'
                              'train(MLMConfigs(), name="test")\n')
    environment = {'WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '29871'}
    result = project.run(*SMALL, env={**environment, 'RANK': '0'})
    assert (result.returncode, result.stderr) == (2, '1 of 2 ranks did not join within 0.5 s: 1\n')
    result = project.run(*SMALL, env={**environment, 'RANK': '1'})
    assert result.returncode == 2
    assert 'rank 1 of 2 cannot reach MASTER_ADDR=localhost MASTER_PORT=29871' in result.stderr


def test_missing_rank_ends_all_others(project):
    """The main rank reports it, and the others that have joined exit, too."""
    project.script.write_text('import os\nfrom labml_mlm import MLMConfigs, train\n'
                              'from labml_mlm.distributed import rendezvous\n\n'
                              'rendezvous.JOIN_TIMEOUT = 2 if os.environ["RANK"] == "0" else 20\n'
                              'if os.environ["RANK"] != "2":\n    train(MLMConfigs(), name="test")\n')
    main, other, _ = project.ranks(3, *SMALL).wait()
    assert (main.returncode, main.stderr) == (2, '1 of 3 ranks did not join within 2 s: 2\n')
    assert (other.returncode, other.stdout, other.stderr) == (2, '', '')
