"""
# Where the time of a step goes

    python benchmarks/step_profile.py [--size tiny] [--layers N] [--compiled] [--steps 10] [--rows 16]

Our step with `recipe=char_labml_nn_size` by operator, as torch's profiler sees it on a CPU. `ms` is without the
operators inside, the fastest of the calls with the same shapes times their number; `share` is of the fastest step
without the profiler, in CPU time. So other processes disturb both little. `floor` is what the machine needs at least,
by what the process measures before:

* products of matrices, and attention: their operations, at the rate of a large product
* sums, copies, norms and element by element: the bytes that they read and write, at the bandwidth of a copy of 4 MB.
  What lies in a nearer cache may be faster

Views, lists of tensors, and loops of the compiler, whose shapes are not known, have no floor. `outside` is the rest of
a step: Python, and autograd's bookkeeping. All of it is on one thread.
"""
import argparse
import collections
import functools
import math
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from step import SIZES, configs, make_batches, our_step
from torch.profiler import ProfilerActivity, profile

from labml_mlm.screen import console

# Products of the shapes of two of the inputs, `[…, n, k]` and `[…, k, m]`
PRODUCTS = {'aten::mm': (0, 1), 'aten::addmm': (1, 2), 'aten::bmm': (0, 1), 'aten::baddbmm': (1, 2)}
# Products of queries and keys, or of the same size, that attention computes, and the input that the queries are
ATTENTION = {'aten::_scaled_dot_product_flash_attention_for_cpu': (2, 0),
             'aten::_scaled_dot_product_flash_attention_for_cpu_backward': (5, 1)}
# Those whose inputs are read, and an output as large as the largest is written
ELEMENTWISE = {f'aten::{name}' for name in ('add', 'add_', 'mul', 'mul_', 'div', 'lerp', 'lerp_', 'gelu',
                                            'gelu_backward', 'native_layer_norm', 'native_layer_norm_backward')}
# Those with a result among the inputs, or a small one
ONE_WAY = {f'aten::{name}' for name in ('copy_', 'fill_', 'sum', 'linalg_vector_norm')}


class Machine(NamedTuple):
    """Operations and bytes per second."""
    peak: float
    bandwidth: float


def measured_machine() -> Machine:
    """Those of this one; a copy reads and writes."""
    n, source, target = 1024, torch.zeros(2 ** 20), torch.zeros(2 ** 20)
    a, b = torch.randn(n, n), torch.randn(n, n)
    return Machine(peak=2 * n ** 3 / fastest(lambda: a @ b, 10),
                   bandwidth=2 * source.nbytes / fastest(lambda: target.copy_(source), 50))


def fastest(run: Callable[[], Any], times: int) -> float:
    """Seconds of CPU time."""
    best = math.inf
    for _ in range(times):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best


def floor_seconds(name: str, shapes: list[list[int]], machine: Machine) -> float | None:
    """What a call of an operator takes at least; `None` if its shapes do not tell."""
    sizes = [math.prod(shape) for shape in shapes if shape]
    if name in PRODUCTS:
        left, right = (shapes[index] for index in PRODUCTS[name])
        return 2 * math.prod(left) * right[-1] / machine.peak
    if name in ATTENTION:
        n_products, first = ATTENTION[name]
        queries, keys = shapes[first], shapes[first + 1]
        return n_products * 2 * math.prod(queries) * keys[-2] / machine.peak
    if name in ELEMENTWISE | ONE_WAY:
        # Numbers count as nothing
        return 4 * (sum(sizes) + max(sizes, default=0) * (name in ELEMENTWISE)) / machine.bandwidth
    return None


def profiled(step: Any, batches: list[torch.Tensor]) -> list[Any]:
    """The events of a step for each batch."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as profiler:
        for batch in batches:
            step(batch)
    return list(profiler.events())


def rows(events: list[Any], n_steps: int, machine: Machine) -> list[tuple[str, float, float | None, float]]:
    """Name, milliseconds, their floor if it is known, and calls, of each operator in a step; the longest first."""
    times: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    floors: dict[tuple[str, str], float | None] = {}
    for event in events:
        key = event.name, str(event.input_shapes)
        times[key].append(event.self_cpu_time_total / 1e3)
        floors[key] = floor_seconds(event.name, event.input_shapes, machine)
    found: dict[str, list[Any]] = {}
    for key, calls in times.items():
        row = found.setdefault(key[0], [0., 0., 0.])
        row[0] += min(calls) * len(calls) / n_steps
        row[1] = None if row[1] is None or floors[key] is None else row[1] + 1e3 * floors[key] * len(calls) / n_steps
        row[2] += len(calls) / n_steps
    return sorted(((name, *row) for name, row in found.items()), key=lambda row: -row[1])


def print_table(table: list[tuple[str, float, float | None, float]], step_ms: float, n_rows: int):
    """Prints the longest rows, all others together, and the rest of a step."""
    others = table[n_rows:]
    known = sum(row[1] for row in table)
    table = [*table[:n_rows], (f'{len(others)} others', sum(row[1] for row in others), None,
                               sum(row[3] for row in others)), ('outside', step_ms - known, None, None)]
    print(f'{"":58}{"ms":>8}{"share":>8}{"floor":>8}{"calls":>8}')
    for name, ms, floor, calls in table:
        print(f'{name.removeprefix("aten::")[:57]:58}{ms:8.2f}{ms / step_ms:8.1%}'
              f'{"" if floor is None else f"{floor:.2f}":>8}{"" if calls is None else f"{calls:.0f}":>8}')


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--size', choices=SIZES, default='tiny')
    parser.add_argument('--layers', type=int, help='in place of those of the size')
    parser.add_argument('--compiled', action='store_true')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--rows', type=int, default=16)
    arguments = parser.parse_args()
    console.set_up()
    torch.set_num_threads(1)
    if arguments.compiled:
        from torch._inductor import config
        # The compiler's loops tell the profiler their names
        config.cpp.enable_kernel_profile = True
    layers = {} if arguments.layers is None else {'transformer.n_layers': arguments.layers}
    conf = configs(arguments.size, recipe='char_labml_nn_size', device='cpu', compile=arguments.compiled, **layers)
    step, batches = our_step(conf), make_batches(conf, arguments.steps)
    machine = measured_machine()
    for batch in batches[:3]:
        step(batch)
    step_ms = 1e3 * min(fastest(functools.partial(step, batch), 1) for batch in batches)
    events = profiled(step, batches)
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, one thread; matrix products '
          f'{machine.peak / 1e9:,.0f} GFLOP/s, copies {machine.bandwidth / 1e9:,.0f} GB/s')
    print(f'{arguments.size}, recipe=char_labml_nn_size, {conf.transformer.n_layers} layers, '
          f'{"compiled" if arguments.compiled else "eager"}: a step takes {step_ms:.1f} ms\n')
    print_table(rows(events, len(batches), machine), step_ms, arguments.rows)


if __name__ == '__main__':
    main()
