"""
# On a GPU: is it right, does it wait, and how fast is it?

    python benchmarks/gpu.py [--minutes 8] [--json FILE] [--device cuda|cpu] [--peak TFLOPS]

Everything in order of worth, each part in a process of its own that ends when its time is up. Figures are printed as
they come, and written to the JSON file after each part; a part that fails is named, and the others go on. The exit code
is 1 then, and 2 where there is no GPU.

1. `machine`: card, driver, torch.
2. `tests`: `tests/gpu`, which compares with the CPU, and tries masks, resumption, metrics, bf16 and packed documents.
3. `waits`: how often ten steps wait for the GPU, by masking and optimizer.
4. `base`: BERT-base sizes, seq_len 512, bf16. Tokens/s, share of the peak and memory up to the largest batch; eagerly
   and compiled; packed documents; what Muon adds; Hugging Face's models where `transformers` is installed.
5. `profile`: the ten longest kernels of three steps, and how long the GPU waits for the host.
6. `recipes`: `char_mlm.py` and `subword_mlm.py`, seconds to the accuracy that they have on 2 CPU cores.

What a part leaves is for those after it. Shares are of the card's dense bf16 peak (`gpu_cards.py`, or `--peak`), by the
operations that `step.py` counts. With `--device cpu` sizes are tiny: that tests the script, and measures nothing.
"""
import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_base
import gpu_profile
import gpu_recipes
import gpu_tests
import gpu_waits
import torch
from gpu_cards import peak_of
from gpu_part import Part, run_part

from labml_mlm.common.files import write_atomically


def machine(part: Part):
    """What the figures are of."""
    part.add('Python', platform.python_version())
    part.add('torch', torch.__version__)
    if part.is_tiny:
        return
    name = torch.cuda.get_device_name()
    properties = torch.cuda.get_device_properties(0)
    part.add('card', name)
    part.add('memory, GB', properties.total_memory / 1e9, f'{properties.total_memory / 1e9:.0f}')
    part.add('CUDA', torch.version.cuda)
    part.add('peak, TFLOP/s', part.peak or peak_of(name))
    try:
        driver = subprocess.run(['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader', '--id=0'],
                                capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as e:
        driver = f'none: {e}'
    part.add('driver', driver)


def _is_cuda_here() -> bool:
    """Asked in a process of its own: forks of one that has asked cannot use a GPU."""
    process = multiprocessing.get_context('fork').Process(target=lambda: sys.exit(not torch.cuda.is_available()))
    process.start()
    process.join()
    return process.exitcode == 0


# In order of worth, with the seconds of each within 8 minutes
PARTS: dict[str, tuple[Callable[[Part], None], float]] = {
    'machine': (machine, 15.), 'tests': (gpu_tests.run, 130.), 'waits': (gpu_waits.run, 40.),
    'base': (gpu_base.run, 170.), 'profile': (gpu_profile.run, 35.), 'recipes': (gpu_recipes.run, 90.)}


def main() -> int:
    """Prints figures part by part. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--minutes', type=float, default=8., help='time for everything')
    parser.add_argument('--json', help='a file for the figures')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda', help='cpu: tiny sizes, to test the script')
    parser.add_argument('--peak', type=float, metavar='TFLOPS', help='of the card, dense, in bf16')
    arguments = parser.parse_args()
    if not arguments.minutes > 0:
        parser.error(f'--minutes {arguments.minutes:g}: it must be above 0')
    if arguments.peak is not None and not arguments.peak > 0:
        parser.error(f'--peak {arguments.peak:g}: it must be above 0')
    if arguments.device == 'cuda' and not _is_cuda_here():
        print('there is no CUDA device here. --device cpu tests the script', file=sys.stderr)
        return 2
    end = time.monotonic() + 60 * arguments.minutes
    results: dict[str, Any] = {'command': sys.argv, 'device': arguments.device, 'minutes': arguments.minutes,
                               'parts': {}}
    # Seconds that parts before have left
    saved = 0.
    with tempfile.TemporaryDirectory() as folder:
        for name, (run, weight) in PARTS.items():
            seconds = min(end - time.monotonic(), weight * arguments.minutes / 8 + saved)
            print(f'{name} (at most {max(0., seconds):.0f} s)', flush=True)
            if seconds <= 0:
                results['parts'][name] = {'status': 'time is up', 'error': None, 'seconds': 0., 'figures': {}}
            else:
                results['parts'][name] = run_part(run, device=arguments.device, peak=arguments.peak, seconds=seconds,
                                                  path=Path(folder) / name)
                saved = max(0., seconds - results['parts'][name]['seconds'])
            result = results['parts'][name]
            error = f': {result["error"]}' if result['error'] else ''
            print(f'{name}: {result["status"]} after {result["seconds"]:.0f} s{error}\n', flush=True)
            if arguments.json:
                write_atomically(Path(arguments.json), json.dumps(results, indent=1).encode())
            if name == 'machine' and result['status'] == 'failed':
                return 1
    return int(any(result['status'] == 'failed' for result in results['parts'].values()))


if __name__ == '__main__':
    sys.exit(main())
