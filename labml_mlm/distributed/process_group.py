"""
# Several processes that train one model

torchrun starts a process for each GPU, here called a *rank*, and tells it by its environment which one it is and where
they meet. All of them have the same configs and take the same steps, each with its own columns of every batch; what
they have to know of each other goes through `Ranks`. One of them, rank 0, is the *main* rank: only it prints, tracks
and saves.

Where there is one process only, `Ranks` does nothing.
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
from labml_mlm.common.exit import said_of
from labml_mlm.distributed.failures import is_lost, leave_group
from labml_mlm.distributed.rendezvous import Place, is_agents_store, meet, place_of, store_of

# Until a rank that is there, but does not answer, is given up: in training, and while the main one makes tokens
_STEP_TIMEOUT = datetime.timedelta(minutes=10)
_PATIENCE = datetime.timedelta(hours=2)
# For which the others wait for what the main rank has to say
_ENDING = 0.5


class Ranks:
    """
    ## All processes that train one model

    * `place` says which of them this is
    * `store` is what they share beside their process group, a store of `torch.distributed`
    * `patient` is a process group for the start, where one may have to wait long for another
    """

    def __init__(self, place: Place | None = None, *, store: Any = None, patient: Any = None):
        self.rank, self.size, self.local_rank, _ = place or Place(0, 1, 0, None)
        self.store = store
        self.is_main = self.rank == 0
        self._patient = patient
        self._pending: tuple[Any, Tensor] | None = None
        # Within a `main_first`
        self._is_nested = False
        # An error that all of them know of
        self._agreed: Exception | None = None

    def share(self, n: int) -> slice:
        """Which of `n` things in a row are this rank's."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def sum(self, *values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        """
        Begins to add up numbers over all ranks; what it returns waits for the sums, and gives them. Each is a tensor
        without dimensions.
        """
        if self.size == 1:
            return lambda: values
        total = torch.stack([value.double() for value in values])
        work = dist.all_reduce(total, async_op=True)

        def sums() -> tuple[Tensor, ...]:
            work.wait()
            return tuple(part.to(value.dtype) for part, value in zip(total, values, strict=True))
        return sums

    def latest(self, value: int) -> int:
        """
        The largest `value` of all ranks at the call before this one, the same at every rank; so none has to wait for
        one that is less than a call behind. Alone it is `value`.
        """
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        before, self._pending = self._pending, (dist.all_reduce(largest, dist.ReduceOp.MAX, async_op=True), largest)
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def settle(self):
        """There is no further `latest`."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None

    @contextlib.contextmanager
    def own_random_numbers(self, device: torch.device) -> Iterator[None]:
        """
        Within it each rank draws its own from torch's global generators, for dropout; before and after that they draw
        the same.
        """
        if self.size == 1:
            yield
            return
        seed = int(torch.randint(2 ** 62, ()))
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            torch.manual_seed(seed + self.rank)
            yield

    def of_main(self, value: Any) -> Any:
        """What the main rank gives for `value`, anything that can be pickled."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._patient)
        return values[0]

    def tensor_of_main(self, value: Tensor | None) -> Tensor:
        """A tensor on the CPU that the main rank gives; the others give `None`."""
        if self.size == 1:
            return value
        shape, dtype = self.of_main(None if value is None else (value.shape, value.dtype))
        value = torch.empty(shape, dtype=dtype) if value is None else value.contiguous()
        # Bytes, as not all types of numbers can be sent
        dist.broadcast(value.reshape(-1).view(torch.uint8), src=0)
        return value

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """
        An error of one rank is one of all: the main rank raises it, or a `UserError` that tells whose it is, and the
        others end without a word.
        """
        error = None
        try:
            yield
        except Exception as e:
            # It may be told in other words by now
            is_agreed = self._agreed is not None and self._agreed in (e, e.__context__)
            if self.size == 1 or is_lost(e) or is_agreed:
                raise
            error = e
        self.check(error)

    def check(self, error: Exception | None = None):
        """Has there been an error at any rank? The end of `together`, or a look at the others in its midst."""
        if self.size == 1:
            return
        errors = self._gather(None if error is None else _text_of(error))
        if not any(errors):
            return
        is_known = isinstance(error, UserError | OSError)
        if not self.is_main and (is_known or error is None or errors[0]):
            # torchrun ends the main rank as soon as this one has ended, and it has something to say before
            time.sleep(_ENDING)
            raise SystemExit(2)
        if error is None:
            rank = next(i for i, text in enumerate(errors) if text)
            error = UserError(f'rank {rank} of {self.size}: {errors[rank]}')
        self._agreed = error
        raise error

    def main_first(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, which the main rank calls before the others do; for what is kept on the disk."""
        if self.size == 1 or self._is_nested:
            return function()
        self._is_nested = True
        try:
            with self.together():
                made = function() if self.is_main else None
            return made if self.is_main else function()
        finally:
            self._is_nested = False

    def check_same(self, what: Mapping[str, Any]):
        """Raises `UserError` at all ranks if they do not have the same, and names the first difference."""
        if self.size == 1:
            return
        as_text = functools.partial(json.dumps, sort_keys=True, default=str)
        text = as_text(what)
        if len(set(self._gather(hashlib.sha256(text.encode()).hexdigest()))) == 1:
            return
        texts = self._gather(text)
        with self.together():
            if self.is_main:
                rank = next(i for i, other in enumerate(texts) if other != text)
                main, other = what, json.loads(texts[rank])
                name = next(name for name in sorted({*main, *other})
                            if (name in main) != (name in other) or as_text(main[name]) != as_text(other[name]))
                raise UserError(f'rank {rank} of {self.size} was started with {_value(name, other)}, and the main rank '
                                f'with {_value(name, main)}: all have to be started alike')

    def _gather(self, value: Any) -> list[Any]:
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._patient)
        return values

@functools.cache
def ranks() -> Ranks:
    """
    Those of this process, which joins them at the first call.

    Raises `UserError` if the environment makes no sense, or if they do not come together in time.
    """
    place = place_of(os.environ)
    if place is None or place.address is None:
        return Ranks(place)
    if place.size == 1:
        return Ranks(place, store=store_of(place) if is_agents_store() else None)
    store = store_of(place)
    store = dist.PrefixStore(meet(store, place), store)
    dist.init_process_group('cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo', store=store,
                            rank=place.rank, world_size=place.size, timeout=_STEP_TIMEOUT)
    atexit.register(leave_group)
    return Ranks(place, store=store, patient=dist.new_group(timeout=_PATIENCE, backend='gloo'))


def job() -> Any:
    """A store that outlives torchrun's restarts, if this process was started by it."""
    store = ranks().store
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store


def _text_of(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return said_of(error) if isinstance(error, OSError) else f'{type(error).__name__}: {error}'


def _value(name: str, values: Mapping[str, Any]) -> str:
    return f'{name}={values[name]}' if name in values else f'no {name}'


# For what knows of no others
ALONE = Ranks()

