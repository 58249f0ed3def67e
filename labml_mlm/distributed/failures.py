"""Rank failure: detected once, reported once, all ranks exit."""
import atexit
import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from labml_mlm.distributed.rendezvous import silence_torch, uses_agent_store

# Seconds that rank 0, if the store is its own, waits for the other ranks to ask who reports
_STORE_GRACE = 2.
# In the messages of torch's backends when a peer is gone; most of them are plain `RuntimeError`s
_PEER_GONE = 'gloo', 'NCCL', 'Connection closed', 'Connection reset', 'Broken pipe', 'ProcessGroup', 'Timed out'
# Key of the number of ranks that have noticed the failure
_NOTICED = 'labml_mlm/told'


def is_rank_failure(error: BaseException) -> bool:
    """Does torch's backend report that another rank is gone?"""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError)
                                                 and any(word in str(error) for word in _PEER_GONE))


@contextlib.contextmanager
def exit_on_rank_failure(ranks: Any, advice: Callable[[], str]) -> Iterator[None]:
    """
    Ends this process with code 1 when another of the `ranks` fails. The first that notices reports it, with `advice`;
    any other error is reported by the rank where it occurs.
    """
    try:
        yield
    except Exception as e:
        if ranks.size == 1:
            raise
        is_first = _is_first(ranks)
        if not is_rank_failure(e):
            raise
        if is_first:
            reason = re.sub(r'^\[\S*\] ', '', str(e)).partition('\n')[0].partition('. ')[0]
            _report(f'Another rank failed or does not answer, so this one exits (rank {ranks.rank} of '
                    f'{ranks.size}: {reason}). {advice()}'.rstrip())
        _keep_store(ranks)
        _exit(ranks)


def _is_first(ranks: Any) -> bool:
    with silence_torch():
        try:
            return ranks.store.add(_NOTICED, 1) == 1
        except Exception:  # the store is gone, too
            return ranks.rank == 1 or ranks.local_rank == 0


def _keep_store(ranks: Any):
    """A store that ends with rank 0 is kept until the other ranks have asked it."""
    deadline = time.monotonic() + (_STORE_GRACE if ranks.is_main and not uses_agent_store() else 0.)
    with contextlib.suppress(Exception):
        while time.monotonic() < deadline and ranks.store.add(_NOTICED, 0) < ranks.size:
            time.sleep(0.05)


def _report(message: str):
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)


def _exit(ranks: Any):
    """Exits with code 1 at once: the process group would wait for the ranks that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    atexit.unregister(ranks.leave)
    atexit._run_exitfuncs()
    os._exit(1)
