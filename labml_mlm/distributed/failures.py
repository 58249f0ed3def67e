"""A rank that is gone: how the others find that out, and end with one message."""

import atexit
import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from labml_mlm.distributed.rendezvous import is_agents_store, torch_is_silent

# Seconds for which the main rank waits for what others have to say of an error
_LINGERING = 2.
# What torch's engines say when the other end is gone; most of it are plain errors at run time
_LOST = 'gloo', 'NCCL', 'Connection closed', 'Connection reset', 'Broken pipe', 'ProcessGroup', 'Timed out'
# Under what name ranks count how many of them have told of an error
_TOLD = 'labml_mlm/told'


def is_lost(error: BaseException) -> bool:
    """Is that what torch's engines say when another rank is gone?"""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError)
                                                 and any(word in str(error) for word in _LOST))


def leave_group():
    """Leaves the process group, at the end of a process."""
    with contextlib.suppress(Exception):
        dist.destroy_process_group()


@contextlib.contextmanager
def ending_together(ranks: Any, advice: Callable[[], str]) -> Iterator[None]:
    """
    Within it, one of the `ranks` that is gone ends this process with code 1, and one of those that are left says so,
    with `advice`. Any other error is for the rank where it occurs to tell.
    """
    try:
        yield
    except Exception as e:
        if ranks.size == 1:
            raise
        is_first = _is_first_to_tell(ranks)
        if not is_lost(e):
            raise
        if is_first:
            reason = re.sub(r'^\[\S*\] ', '', str(e)).partition('\n')[0].partition('. ')[0]
            _say(f'Another rank is gone, or does not answer, and this one ends, too (rank {ranks.rank} of '
                 f'{ranks.size}: {reason}). {advice()}'.rstrip())
        _linger(ranks)
        _end()


def _is_first_to_tell(ranks: Any) -> bool:
    with torch_is_silent():
        try:
            return ranks.store.add(_TOLD, 1) == 1
        except Exception:  # the store is gone, too
            return ranks.rank == 1 or ranks.local_rank == 0


def _linger(ranks: Any):
    """Where the store ends with the main rank, that one waits until the others have asked it, too."""
    deadline = time.monotonic() + (_LINGERING if ranks.is_main and not is_agents_store() else 0.)
    with contextlib.suppress(Exception):
        while time.monotonic() < deadline and ranks.store.add(_TOLD, 0) < ranks.size:
            time.sleep(0.05)


def _say(message: str):
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)


def _end():
    """Ends the process with code 1, at once: what is left of a process group would wait for those that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    atexit.unregister(leave_group)
    atexit._run_exitfuncs()
    os._exit(1)

