"""
# The cost of data parallelism

    python benchmarks/distributed.py [--sizes tiny mini] [--ranks 2] [--rounds 7] [--steps 10] [--trace FILE]
                                     [name=value ...]

On the CPU, for each size of `benchmarks/step.py`, in one job and in alternation:

* a complete step (forward, loss, backward, clipping, AdamW) of one rank with all cores;
* the same batch on several ranks that divide the cores: with DDP, with FSDP, without communication, and with a single
  all-reduce after the backward pass instead of DDP's overlap. Ratios are medians of those within a round;
* the bytes that all ranks together send per step, counted by the system at the loopback interface;
* the memory that a save with FSDP takes, on the main rank, where the state is gathered, and on the others;
* when the all-reduce of each gradient bucket begins and ends, relative to the backward pass. `--trace` writes a
  complete trace for chrome://tracing or Perfetto.

Finally, the time that the same code takes in a single process, where it does nothing.
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
from step import SIZES, configs, peak_resident, update
from torch import Tensor, nn

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.data.batch import Columns
from labml_mlm.data.loader import TrainLoader
from labml_mlm.distributed.parallel import DDP, SingleProcess
from labml_mlm.distributed.process_group import SINGLE_PROCESS, Ranks, ranks
from labml_mlm.distributed.rendezvous import RankInfo
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.screen import console
from labml_mlm.training.engine import Engine
from labml_mlm.training.state import capture_state

# Sides that communicate
PARALLEL = 'DDP', 'FSDP', 'after backward'


class Isolated(Ranks):
    """Ranks that each have their own columns, and exchange nothing."""

    def all_reduce_sum(self, *values: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: values


class AllReduceAfterBackward(SingleProcess):
    """Replicas whose gradients are all-reduced at once, after the backward pass."""

    def __init__(self, model: nn.Module):
        self._parameters = list(model.parameters())

    @contextlib.contextmanager
    def micro_batch(self, model: Any, *, is_last: bool):
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
        """A training step on a masked batch."""
        self.engine.forward_backward(x, labels, None, None)
        update(self.conf.model, self.conf.optimizer)


def make_sides(size: str, overrides: dict[str, Any]) -> dict[str, Side]:
    """All sides by name."""
    group, n_cores = ranks(), os.cpu_count()
    isolated = Isolated(RankInfo(group.rank, group.size, group.local_rank, None))
    sides = {}
    for name, option, side_ranks in (('one rank', 'ddp', SINGLE_PROCESS), ('DDP', 'ddp', group),
                                     ('FSDP', 'fsdp', group), ('no communication', 'ddp', isolated),
                                     ('after backward', 'ddp', group)):
        conf = configs(size, parallel=option, compile=False, **overrides)
        parallel = {'one rank': SingleProcess(), 'DDP': DDP(), 'FSDP': conf.parallel,
                    'no communication': SingleProcess(), 'after backward': AllReduceAfterBackward(conf.model)}[name]
        engine = Engine(conf.model, precision=conf.precision, is_compiled=False, gradient_accumulation_steps=1,
                        ranks=side_ranks, parallel=parallel, shape=(conf.seq_len, conf.batch_size),
                        n_positions=conf.mlm.max_selected)
        sides[name] = Side(conf, engine, n_cores if name == 'one rank' else max(1, n_cores // group.size))
    return sides


def masked_batches(conf: MLMConfigs, side_ranks: Ranks, n: int) -> list[tuple[Tensor, Tensor]]:
    """Masked batches and labels, this rank's columns of each."""
    batches = []
    for x in TrainLoader(conf.packing('train'), batch_size=conf.batch_size, seed=0):
        mine = side_ranks.shard(x.shape[1])
        batches.append(conf.mlm(x[:, mine], Columns(mine.start, x.shape[1])))
        if len(batches) == n:
            break
    return batches


def loopback_bytes() -> int:
    """Bytes that the loopback interface has received so far."""
    with open('/proc/net/dev') as f:
        return int(next(line for line in f if line.strip().startswith('lo:')).split(':')[1].split()[0])


def memory_of_save(conf: MLMConfigs) -> tuple[float, float]:
    """How much a copy of the state raises peak memory, and the size of the copy; both in MB."""
    with open('/proc/self/clear_refs', 'w') as f:
        # Resets the peak
        f.write('5')
    before = peak_resident()
    tensors, _ = capture_state(conf)
    n_bytes = sum(tensor.numel() * tensor.element_size() for file in tensors.values() if file
                  for tensor in file.values())
    return peak_resident() - before, n_bytes / 1e6


def bucket_times(side: Side, batch: tuple[Tensor, Tensor], n: int) -> list[tuple[float, float, float]]:
    """
    For each gradient bucket of DDP its size in MB, and when its all-reduce begins and ends as fractions of the backward
    pass; medians over `n` steps.
    """
    steps: list[list[tuple[int, float, float]]] = []
    spans = []
    backward = Tensor.backward

    def timed_backward(self: Tensor, *arguments: Any):
        began = time.perf_counter()
        steps.append([])
        backward(self, *arguments)
        spans.append((began, time.perf_counter()))

    def hook(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        began, at, buckets = time.perf_counter(), len(steps[-1]), steps[-1]
        buckets.append((bucket.buffer().nbytes, began, math.nan))
        buffer = bucket.buffer().div_(dist.get_world_size())

        def end(done: Any) -> Tensor:
            buckets[at] = (*buckets[at][:2], time.perf_counter())
            return done.value()[0]
        return dist.all_reduce(buffer, async_op=True).get_future().then(end)

    side.engine._wrapped.register_comm_hook(None, hook)
    Tensor.backward = timed_backward
    try:
        for _ in range(n):
            side.step(*batch)
    finally:
        Tensor.backward = backward
    result = []
    for number in range(len(steps[-1])):
        times = [[(moment - began) / (end - began) for moment in buckets[number][1:]]
                 for buckets, (began, end) in zip(steps, spans, strict=True)]
        result.append((steps[-1][number][0] / 1e6, *(statistics.median(column) for column in zip(*times, strict=True))))
    return result


def measure(arguments: argparse.Namespace, overrides: dict[str, Any]):
    """Runs on each rank: measures all sizes; the main rank prints the results."""
    group = ranks()
    for size in arguments.sizes:
        sides = make_sides(size, overrides)
        batches = {name: masked_batches(side.conf, side.engine.ranks, 4) for name, side in sides.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        n_bytes: dict[str, list[float]] = {name: [] for name in sides}
        for round_index in range(-1, arguments.rounds):
            for name, side in sides.items():
                torch.set_num_threads(side.n_threads)
                dist.barrier()
                before, began = loopback_bytes(), time.perf_counter()
                if name != 'one rank' or group.is_main:
                    for i in range(arguments.steps):
                        side.step(*batches[name][i % 4])
                dist.barrier()
                # Round -1 is warm-up
                if round_index >= 0:
                    seconds[name].append((time.perf_counter() - began) / arguments.steps)
                    n_bytes[name].append((loopback_bytes() - before) / arguments.steps)
        torch.set_num_threads(sides['DDP'].n_threads)
        if arguments.trace:
            with torch.profiler.profile() as profile:
                for batch in batches['DDP'][:3]:
                    sides['DDP'].step(*batch)
            if group.is_main:
                profile.export_chrome_trace(arguments.trace)
        save = torch.tensor(memory_of_save(sides['FSDP'].conf))
        saves = [torch.empty(2) for _ in range(group.size)]
        dist.all_gather(saves, save)
        buckets = bucket_times(sides['DDP'], batches['DDP'][0], arguments.steps)
        if group.is_main:
            n_threads = sides['DDP'].n_threads
            report(sides, seconds, n_bytes, buckets, saves,
                   f'{size}, {group.size} ranks with {n_threads} thread{"s" if n_threads > 1 else ""} each')
    if group.is_main:
        report_single_process(sides['one rank'], statistics.median(seconds['one rank']))


def report(sides: dict[str, Side], seconds: dict[str, list[float]], n_bytes: dict[str, list[float]],
           buckets: list[tuple[float, float, float]], saves: list[Tensor], title: str):
    """Prints the figures of a size."""
    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    n_parameters = sum(p.numel() for p in sides['one rank'].conf.model.parameters())
    print(f'\n{title}: {n_parameters / 1e6:.1f} million parameters\n')
    print(f'{"":18}{"ms per step":>11}{"vs one rank":>13}{"communication":>15}{"MB sent":>9}'
          f'{"bytes per parameter":>21}')
    for name in seconds:
        communication = 1 - 1 / ratio(name, 'no communication') if name in PARALLEL else 0.
        megabytes = statistics.median(n_bytes[name]) / 1e6 if name in PARALLEL else 0.
        print(f'{name:18}{1e3 * statistics.median(seconds[name]):11.1f}{ratio(name, "one rank"):13.2f}'
              f'{communication:15.1%}{megabytes:9.1f}{1e6 * megabytes / n_parameters:21.1f}')
    (peak, state), *others = (save.tolist() for save in saves)
    print(f'\nA save with FSDP, of {state:.0f} MB, raises peak memory by {peak:.0f} MB on the main rank, and by '
          f'{max(other for other, _ in others):.0f} MB on the others')
    print('\nAll-reduce of DDP\'s gradient buckets, as fractions of the backward pass\n')
    print(f'{"MB":>8}{"begins at":>12}{"ends at":>10}')
    for megabytes, begin, end in buckets:
        print(f'{megabytes:8.1f}{begin:12.0%}{end:10.0%}')


def report_single_process(side: Side, step_seconds: float):
    """Prints how long the code for several ranks takes per step in a single process."""
    n, parallel, model = 10_000, SingleProcess(), side.conf.model
    values = torch.tensor(1), torch.tensor(1.)

    def added():
        ranks()
        SINGLE_PROCESS.all_reduce_sum(values[0])()
        SINGLE_PROCESS.all_reduce_sum(*values)()
        with SINGLE_PROCESS.per_rank_rng(values[0].device), parallel.micro_batch(model, is_last=True):
            pass
        SINGLE_PROCESS.delayed_max(0)

    began = time.perf_counter()
    for _ in range(n):
        added()
    seconds = (time.perf_counter() - began) / n
    print(f'\nIn a single process all of this takes {1e6 * seconds:.1f} µs per step, {seconds / step_seconds:.4%} of a '
          'step\n')


def main():
    """Starts the ranks, or is one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--sizes', nargs='+', choices=[*SIZES], default=['tiny', 'mini'])
    parser.add_argument('--ranks', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=10, help='steps of each side per round')
    parser.add_argument('--trace', help='a file for a trace of three steps of the main rank')
    arguments, unparsed = parser.parse_known_args()
    if arguments.ranks < 2:
        parser.error('--ranks: it must be at least 2')
    overrides = parse_overrides(MLMConfigs(), unparsed)
    if 'RANK' in os.environ:
        console.silence()
        measure(arguments, overrides)
    else:
        print(f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, gloo; '
              f'{arguments.rounds} rounds of {arguments.steps} steps, medians', flush=True)
        sys.exit(subprocess.run([sys.executable, '-m', 'torch.distributed.run', f'--nproc_per_node={arguments.ranks}',
                                 *sys.argv], env={'OMP_NUM_THREADS': '1', **os.environ}).returncode)


if __name__ == '__main__':
    with exit_on_error():
        main()
