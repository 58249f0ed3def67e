"""
# How threads wait, quiet and beside other processes

    python benchmarks/waiting.py [--rounds 3] [--seconds 10] [--busy 0,1,2] [name=value ...]

Threads of OpenMP that wait for each other spin, which takes the core from whom they wait for if another process wants
it. Trains `recipe=char_labml_nn_size` for some seconds in processes of their own, by turns:

* `spinning` as long as libgomp does by default, `GOMP_SPINCOUNT=300000`
* `briefly` as `labml_mlm` has it, `GOMP_SPINCOUNT=1000`
* `passive`, `OMP_WAIT_POLICY=passive`
* `one thread`

each beside so many processes that compute without a pause (`--busy`). Figures are medians of tokens per second, and of
ratios to `spinning` within a round.
"""
import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from labml import tracker

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.inference.pretrained import silent
from labml_mlm.items.overrides import parse_overrides

SIDES = {'spinning': {'GOMP_SPINCOUNT': '300000'}, 'briefly': {'GOMP_SPINCOUNT': '1000'},
         'passive': {'OMP_WAIT_POLICY': 'passive'}, 'one thread': {'OMP_NUM_THREADS': '1'}}
# Those that say how threads wait, and how many there are
_VARIABLES = 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS'
_WARM_UP = 5


def tokens_per_second(seconds: float, overrides: list[str]) -> float:
    """Trains for some seconds."""
    conf = MLMConfigs()
    conf._set_values({'recipe': 'char_labml_nn_size', 'text': 'python_topics', 'n_prompts': 0, 'baselines': 'none'})
    conf._set_values(parse_overrides(conf, overrides))
    with silent():
        conf.init()
    batches = itertools.chain.from_iterable(conf.train_loader for _ in itertools.count())
    n_tokens, began = 0, time.perf_counter()
    for i, batch in enumerate(batches):
        with conf.mode.update(is_train=True), tracker.namespace('train'):
            conf.step(batch, None)
        n_tokens += batch.numel()
        if i + 1 == _WARM_UP:
            n_tokens, began = 0, time.perf_counter()
        if i + 1 > _WARM_UP and time.perf_counter() - began >= seconds:
            break
    return n_tokens / (time.perf_counter() - began)


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """Inside, `n` other processes compute."""
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(n)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(side: str, arguments: argparse.Namespace, overrides: list[str]) -> float:
    """Tokens per second of one side, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES} | SIDES[side]
    command = [sys.executable, __file__, '--worker', '--seconds', str(arguments.seconds), *overrides]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--seconds', type=float, default=10.)
    parser.add_argument('--busy', default='0,1,2', help='numbers of other processes')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    arguments, overrides = parser.parse_known_args()
    if arguments.worker:
        # labml's line stands before it
        print(f'\n{tokens_per_second(arguments.seconds, overrides)}')
        return
    parse_overrides(MLMConfigs(), overrides)
    print(f'{len(os.sched_getaffinity(0))} cores, {arguments.rounds} rounds of {arguments.seconds:g} s, medians\n')
    print(f'{"beside":8}' + ''.join(f'{side:>22}' for side in SIDES))
    for n in map(int, arguments.busy.split(',')):
        with busy(n):
            rounds = [{side: measure(side, arguments, overrides) for side in SIDES} for _ in range(arguments.rounds)]
        cells = [f'{statistics.median(found[side] for found in rounds):,.0f}/s '
                 f'{statistics.median(found[side] / found["spinning"] for found in rounds):5.2f}' for side in SIDES]
        print(f'{n:<8}' + ''.join(f'{cell:>22}' for cell in cells), flush=True)


if __name__ == '__main__':
    with exit_on_error():
        main()
