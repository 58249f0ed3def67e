"""
# Time and memory of a step by size

    python benchmarks/scaling.py [--only NAME] [--points 6] [--steps 5] [--json FILE]

Time and peak memory of a training step by `seq_len`, vocabulary size, number of layers and batch size, of ours and of
Hugging Face's BERT (`nan` where `transformers` cannot be imported). One of them grows at a time, from d_model 256, d_ff
1024, 4 heads, 2 layers, vocabulary 1,000 and batch 4 × 128. Each point is a separate process: the median time of its
steps, and its peak memory minus that after all imports. The last line of each table has the slopes on logarithmic
scales: 1 is proportional growth, 2 quadratic.
"""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import step
import torch

BASE: dict[str, Any] = {'d_model': 256, 'transformer.n_heads': 4, 'transformer.ffn.d_ff': 1024,
                        'transformer.n_layers': 2, 'n_tokens': 1000, 'seq_len': 128, 'batch_size': 4}
SWEEPS = {'seq_len': [128, 256, 512, 1024, 2048, 4096], 'n_tokens': [1000, 3000, 10_000, 30_000, 100_000],
          'transformer.n_layers': [1, 2, 4, 8], 'batch_size': [4, 8, 16, 32]}
SIDES = 'ours', 'HF BERT'


def make_step(side: str, name: str, value: int) -> tuple[step.Step, step.MLMConfigs]:
    """The step of a side with one size changed. Raises `ImportError` if it needs a package that cannot be imported."""
    conf = step.configs('tiny', **{**BASE, name: value, 'compile': False})
    if side == 'ours':
        return step.our_step(conf), conf
    model = step.hugging_face(conf, 'Bert')
    return step.hugging_face_step(conf, model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)), conf


def measure(side: str, name: str, value: int, n_steps: int):
    """Called in a separate process: prints seconds per step and MB, or `null` if the side cannot be imported."""
    before = step.peak_resident()
    try:
        take_step, conf = make_step(side, name, value)
    except ImportError:
        print('null')
        return
    times = []
    for batch in step.make_batches(conf, n_steps + 1):
        step.synchronize(conf.device)
        began = time.perf_counter()
        take_step(batch)
        step.synchronize(conf.device)
        times.append(time.perf_counter() - began)
    is_cuda = conf.device.type == 'cuda'
    memory = torch.cuda.max_memory_allocated() / 1e6 if is_cuda else step.peak_resident() - before
    # The first one is warm-up
    print(json.dumps([statistics.median(times[1:]), memory]))


def point(side: str, name: str, value: int, n_steps: int) -> list[float] | None:
    """Runs `measure` in a new process. Returns what it prints."""
    folder = str(Path(__file__).parent)
    code = f'import sys; sys.path[:0] = [{folder!r}]; import scaling; scaling.measure{(side, name, value, n_steps)!r}'
    out = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def slope(xs: list[float], ys: list[float]) -> float:
    """Of the least-squares line on logarithmic scales."""
    fit = statistics.linear_regression([math.log(x) for x in xs], [math.log(max(y, 1e-9)) for y in ys])
    return fit.slope


def main():
    """Prints a table for each size that grows."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--only', choices=SWEEPS)
    parser.add_argument('--points', type=int, default=6, help='of each table, the smallest ones')
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--json', help='a file for the figures')
    arguments = parser.parse_args()
    print(f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads')
    results = {}
    for name in [arguments.only] if arguments.only else SWEEPS:
        print(f'\n{name:>22}' + ''.join(f'{side + ", ms":>14}{"MB":>9}' for side in SIDES))
        values, points = SWEEPS[name][:arguments.points], {side: [] for side in SIDES}
        for value in values:
            cells = ''
            for side in SIDES:
                points[side].append(point(side, name, value, arguments.steps))
                seconds, memory = points[side][-1] or (math.nan, math.nan)
                cells += f'{1e3 * seconds:14.1f}{memory:9,.0f}'
            print(f'{value:22,}{cells}', flush=True)
        slopes = ''
        for side in SIDES:
            columns = zip(*points[side], strict=True) if all(points[side]) and len(values) > 1 else [[], []]
            slopes += ''.join(f'{slope(values, list(column)) if column else math.nan:{width}.2f}'
                              for column, width in zip(columns, (14, 9), strict=True))
        print(f'{"slope":>22}{slopes}')
        results[name] = {'values': values, **points}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
