"""
# Rendezvous of the ranks

torchrun tells each process it starts, by environment variables, its rank and the address of a store that all ranks
share. When a rank fails, torchrun restarts all of them, and the store still holds what the ranks wrote before.
"""
import contextlib
import datetime
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch.distributed as dist

from labml_mlm.common.errors import UserError

# Seconds until all ranks must have joined
JOIN_TIMEOUT = 120.


class RankInfo(NamedTuple):
    """This process, as torchrun's environment describes it."""
    rank: int
    # World size
    size: int
    # Among the ranks of this machine
    local_rank: int
    # Host and port of the store
    address: tuple[str, int] | None


def rank_from_environment(environment: Mapping[str, str]) -> RankInfo | None:
    """
    The rank that an environment describes; `None` if it describes none.

    Raises `UserError` if it contradicts itself.
    """
    given = {name: environment[name] for name in ('RANK', 'WORLD_SIZE') if environment.get(name)}
    if not given or given == {'WORLD_SIZE': '1'}:
        return None
    if len(given) == 1:
        [(name, value)] = given.items()
        missing = 'RANK' if name == 'WORLD_SIZE' else 'WORLD_SIZE'
        raise UserError(f'the environment has {name}={value} and no {missing}: torchrun sets both, and a single '
                        'process needs neither')
    rank, size = (_integer(environment, name) for name in ('RANK', 'WORLD_SIZE'))
    if size < 1:
        raise UserError(f'WORLD_SIZE={size} in the environment: it is the number of processes, at least 1')
    if not 0 <= rank < size:
        raise UserError(f'RANK={rank} in the environment: with WORLD_SIZE={size} it must be from 0 to {size - 1}')
    host = environment.get('MASTER_ADDR')
    if not host or not environment.get('MASTER_PORT'):
        if size == 1:
            return RankInfo(rank, size, 0, None)
        missing = 'MASTER_PORT' if host else 'MASTER_ADDR'
        raise UserError(f'{size} processes have no rendezvous: the environment has WORLD_SIZE={size} and no {missing}. '
                        'torchrun sets both')
    local_rank = _integer(environment, 'LOCAL_RANK') if environment.get('LOCAL_RANK') else rank
    return RankInfo(rank, size, local_rank, (host, _integer(environment, 'MASTER_PORT')))


def connect_store(info: RankInfo) -> Any:
    """
    The store that all ranks share, one of `torch.distributed`'s.

    Raises `UserError` if there is none within `JOIN_TIMEOUT`.
    """
    host, port = info.address
    is_host = info.rank == 0 and not uses_agent_store()
    try:
        return dist.TCPStore(host, port, is_master=is_host, wait_for_workers=False,
                             timeout=datetime.timedelta(seconds=JOIN_TIMEOUT))
    except (RuntimeError, ValueError) as e:
        reason = str(e).partition('\n')[0].partition('. ')[0]
        raise UserError(f'rank {info.rank} of {info.size} cannot reach MASTER_ADDR={host} MASTER_PORT={port}: '
                        f'{reason}') from None


def uses_agent_store() -> bool:
    """Is the store torchrun's, so that it outlives all ranks? Otherwise it is rank 0's."""
    return os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'


def join(store: Any, info: RankInfo) -> str:
    """
    A name for this rendezvous that no earlier one has used.

    A store that outlives a restart still holds what was agreed before. So rank 0 makes up a name and calls the
    rendezvous complete once every rank has answered to that name; and no rank believes it before it finds its own
    answer among them.

    Raises `UserError` if not all ranks have joined within `JOIN_TIMEOUT`.
    """
    mine, deadline = uuid.uuid4().hex, time.monotonic() + JOIN_TIMEOUT
    if info.rank == 0:
        store.set('labml_mlm/meeting', mine)
        answers = [f'labml_mlm/{mine}/{rank}' for rank in range(1, info.size)]
        while missing := [rank for rank, key in enumerate(answers, start=1) if not store.check([key])]:
            if time.monotonic() > deadline:
                raise UserError(f'{len(missing)} of {info.size} ranks did not join within {JOIN_TIMEOUT:g} s: '
                                f'{", ".join(map(str, missing[:9]))}{"…" if len(missing) > 9 else ""}')
            time.sleep(0.05)
        store.set(f'labml_mlm/{mine}', b''.join(map(store.get, answers)))
        return mine
    while time.monotonic() < deadline:
        try:
            with silence_torch():
                if store.check(['labml_mlm/meeting']):
                    meeting = store.get('labml_mlm/meeting').decode()
                    store.set(f'labml_mlm/{meeting}/{info.rank}', mine)
                    if store.check([f'labml_mlm/{meeting}']) and mine in store.get(f'labml_mlm/{meeting}').decode():
                        return meeting
        except dist.DistError:
            # The store was rank 0's, which has reported why it ended
            raise SystemExit(2) from None
        time.sleep(0.05)
    raise UserError(f'rank {info.rank} of {info.size} waited {JOIN_TIMEOUT:g} s for the other ranks to join')


@contextlib.contextmanager
def silence_torch() -> Iterator[None]:
    """Inside, nothing goes to stderr, where torch prints stack traces from C++."""
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _integer(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f'{name}={environment[name]} in the environment: it must be an integer') from None
