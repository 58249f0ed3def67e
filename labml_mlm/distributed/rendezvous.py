"""
# Where ranks meet

torchrun tells each process that it starts, by its environment, which one it is and where a store is that all of them
share. It starts them anew when one has failed, and the store is still that of before.
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

# Seconds until all ranks have to be there
JOIN_TIMEOUT = 120.


class Place(NamedTuple):
    """What torchrun's environment says."""
    rank: int
    size: int
    # Among those of this machine
    local_rank: int
    # Host and port where they meet
    address: tuple[str, int] | None


def place_of(environment: Mapping[str, str]) -> Place | None:
    """
    What an environment says; `None` if it tells of no ranks.

    Raises `UserError` if it contradicts itself.
    """
    given = {name: environment[name] for name in ('RANK', 'WORLD_SIZE') if environment.get(name)}
    if not given or given == {'WORLD_SIZE': '1'}:
        return None
    if len(given) == 1:
        [(name, value)] = given.items()
        missing = 'RANK' if name == 'WORLD_SIZE' else 'WORLD_SIZE'
        raise UserError(f'{name}={value} is set in the environment, and {missing} is not: torchrun sets both, and a '
                        'run of one process needs none')
    rank, size = (_number(environment, name) for name in ('RANK', 'WORLD_SIZE'))
    if size < 1:
        raise UserError(f'WORLD_SIZE={size} in the environment: it is the number of processes, at least 1')
    if not 0 <= rank < size:
        raise UserError(f'RANK={rank} in the environment: with WORLD_SIZE={size} it is from 0 to {size - 1}')
    host = environment.get('MASTER_ADDR')
    if not host or not environment.get('MASTER_PORT'):
        if size == 1:
            return Place(rank, size, 0, None)
        missing = 'MASTER_PORT' if host else 'MASTER_ADDR'
        raise UserError(f'{size} processes have no place to meet: WORLD_SIZE={size} is set in the environment, and '
                        f'{missing} is not. torchrun sets all of it')
    local_rank = _number(environment, 'LOCAL_RANK') if environment.get('LOCAL_RANK') else rank
    return Place(rank, size, local_rank, (host, _number(environment, 'MASTER_PORT')))


def store_of(place: Place) -> Any:
    """
    The store that all ranks share, one of `torch.distributed`.

    Raises `UserError` if there is none within `JOIN_TIMEOUT`.
    """
    host, port = place.address
    is_host = place.rank == 0 and not is_agents_store()
    try:
        return dist.TCPStore(host, port, is_master=is_host, wait_for_workers=False,
                             timeout=datetime.timedelta(seconds=JOIN_TIMEOUT))
    except (RuntimeError, ValueError) as e:
        reason = str(e).partition('\n')[0].partition('. ')[0]
        raise UserError(f'rank {place.rank} of {place.size} finds nobody at MASTER_ADDR={host} MASTER_PORT={port}: '
                        f'{reason}') from None


def is_agents_store() -> bool:
    """Is the store torchrun's, so that it outlives all ranks? Elsewhere it is the main rank's."""
    return os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'


def meet(store: Any, place: Place) -> str:
    """
    A name for the meeting of all ranks that nobody has used before. A store that outlives a restart still has all that
    was agreed upon before it: so the main rank thinks of a name, and calls the meeting complete once every rank has
    answered to that very name; and no rank takes it for complete without its own answer being in it.

    Raises `UserError` if not all have come within `JOIN_TIMEOUT`.
    """
    mine, deadline = uuid.uuid4().hex, time.monotonic() + JOIN_TIMEOUT
    if place.rank == 0:
        store.set('labml_mlm/meeting', mine)
        answers = [f'labml_mlm/{mine}/{rank}' for rank in range(1, place.size)]
        while missing := [rank for rank, key in enumerate(answers, start=1) if not store.check([key])]:
            if time.monotonic() > deadline:
                raise UserError(f'of {place.size} ranks, {len(missing)} did not come within {JOIN_TIMEOUT:g} s: '
                                f'{", ".join(map(str, missing[:9]))}{"…" if len(missing) > 9 else ""}')
            time.sleep(0.05)
        store.set(f'labml_mlm/{mine}', b''.join(map(store.get, answers)))
        return mine
    while time.monotonic() < deadline:
        try:
            with torch_is_silent():
                if store.check(['labml_mlm/meeting']):
                    meeting = store.get('labml_mlm/meeting').decode()
                    store.set(f'labml_mlm/{meeting}/{place.rank}', mine)
                    if store.check([f'labml_mlm/{meeting}']) and mine in store.get(f'labml_mlm/{meeting}').decode():
                        return meeting
        except dist.DistError:
            # It was the main rank's, which has said why it has ended
            raise SystemExit(2) from None
        time.sleep(0.05)
    raise UserError(f'rank {place.rank} of {place.size} has waited {JOIN_TIMEOUT:g} s for all others')


@contextlib.contextmanager
def torch_is_silent() -> Iterator[None]:
    """Within it nothing goes to stderr: torch prints stack traces of its own there."""
    sys.stderr.flush()
    stderr, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nothing)


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise UserError(f'{name}={environment[name]} in the environment: it is a whole number') from None

