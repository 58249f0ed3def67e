"""
# What several ranks cost

    python benchmarks/distributed.py [--sizes tiny mini] [--ranks 2] [--rounds 7] [--steps 10] [--trace FILE]

Of each size of `benchmarks/step.py`, in one run and taking turns, on the CPU:

* a whole step (forward, loss, backward, clipping, AdamW) of one rank with all cores;
* the same batch on several ranks with one core each, as replicas and as slices; without any communication; and with
  gradients that are added up only after the backward pass. Shares are medians of those within a round;
* the bytes that a step sends, counted where they pass, at the loopback interface of the system;
* the memory that a save of slices takes, where they are gathered and elsewhere;
* when in the backward pass each bucket of gradients leaves, and when it is back. `--trace` writes all of it for a
  viewer of traces (chrome://tracing, Perfetto).

Last comes what a run of one process pays for that there could be others.
"""
import argparse
import contextlib
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from step import SIZES, configs, resident, update
from torch import Tensor, nn

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exits
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.data.batch import Columns
from labml_mlm.data.loader import TrainLoader
from labml_mlm.distributed.parallel import DDP, SingleProcess
from labml_mlm.distributed.process_group import SINGLE_PROCESS, Ranks, ranks
from labml_mlm.distributed.rendezvous import RankInfo
from labml_mlm.tracking import console as screen
from labml_mlm.training.engine import Engine
from labml_mlm.training.state import capture_state


class Mute(Ranks):
    """Ranks that each have their columns, and tell each other nothing."""

    def sum(self, *values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: values


class Late(SingleProcess):
    """Replicas that add up their gradients after the backward pass, all at once."""

    def __init__(self, model: nn.Module):
        self._parameters = list(model.parameters())

    @contextlib.contextmanager
    def part(self, model: Any, *, is_last: bool):
        yield
        flat = torch.cat([p.grad.flatten() for p in self._parameters])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for p, gradient in zip(self._parameters, flat.split([p.numel() for p in self._parameters]), strict=True):
            p.grad.copy_(gradient.view_as(p))


class Side(NamedTuple):
    """A way to take a step."""
    conf: MLMConfigs
    engine: Engine
    n_threads: int

    def step(self, x: Tensor, labels: Tensor):
        """Takes it."""
        self.engine.forward_backward(x, labels, None, None)
        update(self.conf.model, self.conf.optimizer)


def sides(size: str, values: dict[str, Any]) -> dict[str, Side]:
    """What takes turns, by name."""
    us, n_cores = ranks(), os.cpu_count()
    mute = Mute(RankInfo(us.rank, us.size, us.local_rank, None))
    found = {}
    for name, parallel, who in (('one rank', 'ddp', SINGLE_PROCESS), ('replicas', 'ddp', us), ('slices', 'fsdp', us),
                                ('no communication', 'ddp', mute), ('after backward', 'ddp', us)):
        conf = configs(size, parallel=parallel, compile=False, **values)
        how = {'one rank': SingleProcess(), 'replicas': DDP(), 'slices': conf.parallel,
               'no communication': SingleProcess(), 'after backward': Late(conf.model)}[name]
        engine = Engine(conf.model, precision=conf.precision, is_compiled=False, gradient_accumulation_steps=1,
                        ranks=who, parallel=how, shape=(conf.seq_len, conf.batch_size),
                        n_positions=conf.mlm.max_selected)
        found[name] = Side(conf, engine, n_cores if name == 'one rank' else max(1, n_cores // us.size))
    return found


def batches(conf: MLMConfigs, who: Ranks, n: int) -> list[tuple[Tensor, Tensor]]:
    """Masked batches, or the columns of them."""
    found = []
    for x in TrainLoader(conf.packing('train'), batch_size=conf.batch_size, seed=0):
        mine = who.shard(x.shape[1])
        found.append(conf.mlm(x[:, mine], Columns(mine.start, x.shape[1])))
        if len(found) == n:
            break
    return found


def loopback() -> int:
    """Bytes that have come through the loopback interface so far."""
    with open('/proc/net/dev') as f:
        return int(next(line for line in f if line.strip().startswith('lo:')).split(':')[1].split()[0])


def memory_of_save(conf: MLMConfigs) -> tuple[float, float]:
    """Megabytes more than before that a copy of the state takes at its peak, and how many of that it is."""
    with open('/proc/self/clear_refs', 'w') as f:
        # From here on the peak is counted anew
        f.write('5')
    before = resident()
    tensors, _ = capture_state(conf)
    n_bytes = sum(tensor.numel() * tensor.element_size() for of_file in tensors.values() for tensor in of_file.values())
    return resident() - before, n_bytes / 1e6


def buckets(side: Side, batch: tuple[Tensor, Tensor], n: int) -> list[tuple[float, float, float]]:
    """Of each bucket megabytes, and when it leaves and is back, as shares of the backward pass; medians."""
    events: list[list[tuple[int, float, float]]] = []
    spans = []
    backward = Tensor.backward

    def timed(self: Tensor, *arguments: Any):
        began = time.perf_counter()
        events.append([])
        backward(self, *arguments)
        spans.append((began, time.perf_counter()))

    def hook(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        left, at, of_step = time.perf_counter(), len(events[-1]), events[-1]
        of_step.append((bucket.buffer().nbytes, left, math.nan))
        buffer = bucket.buffer().div_(dist.get_world_size())

        def back(done: Any) -> Tensor:
            of_step[at] = (*of_step[at][:2], time.perf_counter())
            return done.value()[0]
        return dist.all_reduce(buffer, async_op=True).get_future().then(back)

    side.engine._training.register_comm_hook(None, hook)
    Tensor.backward = timed
    try:
        for _ in range(n):
            side.step(*batch)
    finally:
        Tensor.backward = backward
    found = []
    for number in range(len(events[-1])):
        at = [[(moment - began) / (end - began) for moment in of_step[number][1:]]
              for of_step, (began, end) in zip(events, spans, strict=True)]
        found.append((events[-1][number][0] / 1e6, *(statistics.median(column) for column in zip(*at, strict=True))))
    return found


def measure(arguments: argparse.Namespace, given: dict[str, Any]):
    """As one of the ranks: measures a size, and the main one prints it."""
    us = ranks()
    for size in arguments.sizes:
        found = sides(size, given)
        own = {name: batches(side.conf, side.engine.ranks, 4) for name, side in found.items()}
        seconds: dict[str, list[float]] = {name: [] for name in found}
        n_bytes: dict[str, list[float]] = {name: [] for name in found}
        for round_index in range(-1, arguments.rounds):
            for name, side in found.items():
                torch.set_num_threads(side.n_threads)
                dist.barrier()
                before, began = loopback(), time.perf_counter()
                if name != 'one rank' or us.is_main:
                    for i in range(arguments.steps):
                        side.step(*own[name][i % 4])
                dist.barrier()
                # The round before the first one warms up
                if round_index >= 0:
                    seconds[name].append((time.perf_counter() - began) / arguments.steps)
                    n_bytes[name].append((loopback() - before) / arguments.steps)
        torch.set_num_threads(found['replicas'].n_threads)
        if arguments.trace:
            with torch.profiler.profile() as profile:
                for batch in own['replicas'][:3]:
                    found['replicas'].step(*batch)
            if us.is_main:
                profile.export_chrome_trace(arguments.trace)
        save = torch.tensor(memory_of_save(found['slices'].conf))
        saves = [torch.empty(2) for _ in range(us.size)]
        dist.all_gather(saves, save)
        of_buckets = buckets(found['replicas'], own['replicas'][0], arguments.steps)
        if us.is_main:
            report(found, seconds, n_bytes, of_buckets, saves, f'{size}, {us.size} ranks of '
                   f'{found["replicas"].n_threads} threads')
    if us.is_main:
        alone(found['one rank'], statistics.median(seconds['one rank']))


def report(found: dict[str, Side], seconds: dict[str, list[float]], n_bytes: dict[str, list[float]],
           of_buckets: list[tuple[float, float, float]], saves: list[Tensor], title: str):
    """Prints the figures of a size."""
    def share(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    n_parameters = sum(p.numel() for p in found['one rank'].conf.model.parameters())
    print(f'\n{title}: {n_parameters / 1e6:.1f} million parameters\n')
    print(f'{"":18}{"ms a step":>10}{"of one rank":>13}{"communication":>15}{"MB sent":>9}{"bytes a parameter":>19}')
    for name in seconds:
        communication = 1 - 1 / share(name, 'no communication') if name in ('replicas', 'slices', 'after backward') \
            else 0.
        megabytes = statistics.median(n_bytes[name]) / 1e6 if communication else 0.
        print(f'{name:18}{1e3 * statistics.median(seconds[name]):10.1f}{share(name, "one rank"):13.2f}'
              f'{communication:15.1%}{megabytes:9.1f}{1e6 * megabytes / n_parameters:19.1f}')
    (peak, state), *others = (save.tolist() for save in saves)
    print(f'\nIn a save of slices, {state:.0f} MB, the peak of memory grows by {peak:.0f} MB at the main rank, and by '
          f'{max(other for other, _ in others):.0f} MB elsewhere')
    print('\nBuckets of gradients, in shares of the backward pass\n')
    print(f'{"MB":>8}{"leaves at":>12}{"back at":>10}')
    for megabytes, left, back in of_buckets:
        print(f'{megabytes:8.1f}{left:12.0%}{back:10.0%}')


def alone(side: Side, step: float):
    """Prints what one process pays in each step."""
    ones, n = SINGLE_PROCESS, 10_000
    parts, model, values = SingleProcess(), side.conf.model, (torch.tensor(1), torch.tensor(1.))

    def added():
        ranks()
        ones.sum(values[0])()
        ones.sum(*values)()
        with ones.per_rank_rng(values[0].device), parts.part(model, is_last=True):
            pass
        ones.delayed_max(0)

    began = time.perf_counter()
    for _ in range(n):
        added()
    each = (time.perf_counter() - began) / n
    print(f'\nA run of one process pays {1e6 * each:.1f} µs a step for all of this, {each / step:.4%} of a step\n')


def main():
    """Starts the ranks, or is one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--sizes', nargs='+', choices=[*SIZES], default=['tiny', 'mini'])
    parser.add_argument('--ranks', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=10, help='steps of each side in a round')
    parser.add_argument('--trace', help='a file for a trace of three steps of the main rank')
    arguments, unparsed = parser.parse_known_args()
    values = parse_overrides(MLMConfigs(), unparsed)
    if 'RANK' in os.environ:
        screen.silence()
        measure(arguments, values)
    else:
        print(f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, gloo; '
              f'{arguments.rounds} rounds of {arguments.steps} steps, medians', flush=True)
        sys.exit(subprocess.run([sys.executable, '-m', 'torch.distributed.run', f'--nproc_per_node={arguments.ranks}',
                                 *sys.argv], env={'OMP_NUM_THREADS': '1', **os.environ}).returncode)


if __name__ == '__main__':
    with exits():
        main()
