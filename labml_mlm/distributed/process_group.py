"""
# The ranks of a run

torchrun starts a process for each GPU, a *rank*. All ranks have the same configs and take the same steps, each with its
own columns of every batch; whatever they exchange goes through `Ranks`. Only rank 0, the *main* rank, prints, tracks
and saves.

In a single process, `Ranks` does nothing.
"""
import atexit
import contextlib
import datetime
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import os_error_text
from labml_mlm.distributed.failures import is_rank_failure
from labml_mlm.distributed.rendezvous import RankInfo, connect_store, join, rank_from_environment, uses_agent_store

# Time-outs of collectives: in training, and at the start, where the others wait for the main rank to tokenize
_STEP_TIMEOUT = datetime.timedelta(minutes=10)
_START_TIMEOUT = datetime.timedelta(hours=2)
# Seconds that the other ranks give the main rank to report an error
_REPORT_GRACE = 0.5


class Ranks:
    """
    ## All processes that train one model

    * `info` says which of them this is
    * `store` is what they share besides the process group, a store of `torch.distributed`
    * `start_group` is a process group with a long time-out, for the start, and `step_group` one for tensors on the CPU
      in training; nothing else may hold them
    """

    def __init__(self, info: RankInfo | None = None, *, store: Any = None, start_group: Any = None,
                 step_group: Any = None):
        self.rank, self.size, self.local_rank, _ = info or RankInfo(0, 1, 0, None)
        self.store = store
        self.is_main = self.rank == 0
        self._start_group = start_group
        self._step_group = step_group
        self._pending: tuple[Any, Tensor] | None = None
        self._is_in_main_first = False
        # The error that all ranks raise, once they have agreed on one
        self._agreed: Exception | None = None

    def shard(self, n: int) -> slice:
        """Which of `n` things in a row are this rank's."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def all_reduce_sum(self, *values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        """
        Starts to sum 0-dimensional tensors over all ranks. Returns a function that waits for the sums and returns them.
        """
        if self.size == 1:
            return lambda: values
        total = torch.stack([value.double() for value in values])
        work = dist.all_reduce(total, group=self._step_group if total.device.type == 'cpu' else None, async_op=True)

        def wait() -> tuple[Tensor, ...]:
            work.wait()
            return tuple(part.to(value.dtype) for part, value in zip(total, values, strict=True))
        return wait

    def delayed_max(self, value: int) -> int:
        """
        The maximum of `value` over all ranks at their *previous* call, and the same at every rank; 0 at the first call.
        No rank waits for one that is less than a call behind. In a single process, `value` itself.
        """
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        work = dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._step_group, async_op=True)
        previous, self._pending = self._pending, (work, largest)
        if previous is None:
            return 0
        previous[0].wait()
        return int(previous[1])

    def finish_delayed_max(self):
        """Waits for the last `delayed_max`, so that nothing is in flight."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None

    @contextlib.contextmanager
    def per_rank_rng(self, device: torch.device) -> Iterator[None]:
        """
        Inside, torch's global generators give each rank its own random numbers, for dropout. Outside, all ranks draw
        the same.
        """
        if self.size == 1:
            yield
            return
        seed = int(torch.randint(2 ** 62, ()))
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            torch.manual_seed(seed + self.rank)
            yield

    def broadcast(self, value: Any) -> Any:
        """The main rank's `value`, anything that can be pickled."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._start_group)
        return values[0]

    def broadcast_tensor(self, value: Tensor | None) -> Tensor:
        """The main rank's `value`, a tensor on the CPU; the other ranks pass `None`."""
        if self.size == 1:
            return value
        shape, dtype = self.broadcast(None if value is None else (value.shape, value.dtype))
        value = torch.empty(shape, dtype=dtype) if value is None else value.contiguous()
        # As bytes, because backends do not send every type
        dist.broadcast(value.reshape(-1).view(torch.uint8), src=0, group=self._step_group)
        return value

    @contextlib.contextmanager
    def synchronize_errors(self) -> Iterator[None]:
        """
        An error inside, at one rank, ends all ranks: the main rank raises it, or a `UserError` that names the rank, and
        the others exit without a message.
        """
        error = None
        try:
            yield
        except Exception as e:
            # It may have been reworded since
            is_agreed = self._agreed is not None and self._agreed in (e, e.__context__)
            if self.size == 1 or is_rank_failure(e) or is_agreed:
                raise
            error = e
        self.check_errors(error)

    def check_errors(self, error: Exception | None = None):
        """The end of `synchronize_errors`, or a checkpoint inside of it: has any rank raised an error?"""
        if self.size == 1:
            return
        errors = self._all_gather(None if error is None else _error_text(error))
        if not any(errors):
            return
        is_known = isinstance(error, UserError | OSError)
        if not self.is_main and (is_known or error is None or errors[0]):
            # torchrun ends the main rank as soon as this one exits, and the main rank must report first
            time.sleep(_REPORT_GRACE)
            raise SystemExit(2)
        if error is None:
            rank = next(i for i, text in enumerate(errors) if text)
            error = UserError(f'rank {rank} of {self.size}: {errors[rank]}')
        self._agreed = error
        raise error

    def main_first(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, which the main rank calls before the other ranks do: it fills a cache on disk."""
        if self.size == 1 or self._is_in_main_first:
            return function()
        self._is_in_main_first = True
        try:
            with self.synchronize_errors():
                result = function() if self.is_main else None
            return result if self.is_main else function()
        finally:
            self._is_in_main_first = False

    def check_same(self, values: Mapping[str, Any]):
        """Raises `UserError` at all ranks if their `values` differ. It names the first difference."""
        if self.size == 1:
            return
        as_text = functools.partial(json.dumps, sort_keys=True, default=str)
        text = as_text(values)
        if len(set(self._all_gather(hashlib.sha256(text.encode()).hexdigest()))) == 1:
            return
        texts = self._all_gather(text)
        with self.synchronize_errors():
            if self.is_main:
                rank = next(i for i, other in enumerate(texts) if other != text)
                main, other = values, json.loads(texts[rank])
                name = next(name for name in sorted({*main, *other})
                            if (name in main) != (name in other) or as_text(main[name]) != as_text(other[name]))
                raise UserError(f'rank {rank} of {self.size} was started with {_shown(name, other)}, and the main rank '
                                f'with {_shown(name, main)}: all ranks must be started alike')

    def leave(self):
        """
        Leaves the process group, at the end of the process.

        Threads of gloo hold the tensors of the last collectives a moment longer than it takes to wait for these. If
        they come from Python, it takes Python to free them, and a thread that asks for it while the interpreter shuts
        down aborts the process ([pytorch#179291](https://github.com/pytorch/pytorch/pull/179291)). The threads of a
        group end with it, and that of the ranks' own groups is here. The default group lives on in a sharded model, and
        in modules of torch that were imported after it was made; DDP gives it only tensors from C++.
        """
        self._pending = None
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
        # The last references
        self._start_group = self._step_group = None

    def _all_gather(self, value: Any) -> list[Any]:
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._start_group)
        return values


# For parts that are used without ranks
SINGLE_PROCESS = Ranks()


@functools.cache
def ranks() -> Ranks:
    """
    The ranks of this run. The first call joins the process group.

    Raises `UserError` if the environment contradicts itself, or if the ranks do not join in time.
    """
    info = rank_from_environment(os.environ)
    if info is None or info.address is None:
        return Ranks(info)
    if info.size == 1:
        return Ranks(info, store=connect_store(info) if uses_agent_store() else None)
    store = connect_store(info)
    store = dist.PrefixStore(join(store, info), store)
    dist.init_process_group('cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo', store=store,
                            rank=info.rank, world_size=info.size, timeout=_STEP_TIMEOUT)
    start_group, step_group = (dist.new_group(timeout=timeout, backend='gloo')
                               for timeout in (_START_TIMEOUT, _STEP_TIMEOUT))
    result = Ranks(info, store=store, start_group=start_group, step_group=step_group)
    atexit.register(result.leave)
    return result


def job_store() -> Any:
    """A store that outlives torchrun's restarts; `None` if torchrun did not start this process."""
    store = ranks().store
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store


def _error_text(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return os_error_text(error) if isinstance(error, OSError) else f'{type(error).__name__}: {error}'


def _shown(name: str, values: Mapping[str, Any]) -> str:
    return f'{name}={values[name]}' if name in values else f'no {name}'
