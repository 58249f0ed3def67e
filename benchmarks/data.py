"""
# From a text to batches: how fast, in how much memory

    python benchmarks/data.py [--megabytes 200 2000] [--rounds 5]

In some two minutes, on texts of the sizes given:

* how long it takes until the first batch, with no tokens on the disk yet and with them there, and the peak of memory of
  the process for that, with labml_helpers' `TextFileDataset` beside it at a hundredth of the first size (a list of
  one-character strings: more would not fit)
* how many tokens a second the loader puts into batches of 64 × 128
"""
import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from labml_mlm.text import python_topics


def write_text(path: Path, megabytes: float):
    """Python's help topics again and again, with their lines in another order each time."""
    rng, lines, n_bytes = random.Random(0), python_topics().splitlines(keepends=True), int(megabytes * 1e6)
    with open(path, 'wb') as f:
        while f.tell() < n_bytes:
            rng.shuffle(lines)
            # Now and then a character that is not ASCII, as in any text
            f.write(''.join([*lines, '—\n']).encode())


def first_batch(path: str, data: str):
    """In a process of its own: prints seconds until the first batch, and the peak of memory in megabytes."""
    began = time.perf_counter()
    from labml_mlm.corpus import code_points  # noqa: F401  torch and labml are imported before the clock
    from labml_mlm.data import TrainLoader
    from labml_mlm.documents import Files
    from labml_mlm.token_cache import TokenCache
    from labml_mlm.tokenizer import CharacterTokenizer

    began, before = time.perf_counter(), _peak()
    cache = TokenCache(Path(data), Files([Path(path)]), valid_share=0.1)
    corpus = cache.corpus()
    tokens = cache.tokens(corpus, CharacterTokenizer.from_characters(corpus.characters))
    next(iter(TrainLoader(tokens.train, seq_len=128, batch_size=64, seed=1)))
    print(time.perf_counter() - began, before, _peak())


def labml_dataset(path: str):
    """The same for labml_helpers' dataset, which is all of the text as a list."""
    from labml_helpers.datasets.text import TextFileDataset

    began, before = time.perf_counter(), _peak()
    TextFileDataset(Path(path), list)
    print(time.perf_counter() - began, before, _peak())


def loader_speed(data: Path, n_rounds: int) -> list[float]:
    """Tokens a second of the loader, in rounds of 500 batches, in one thread."""
    from labml_mlm.data import TrainLoader
    from labml_mlm.token_file import TokenFile

    loader = TrainLoader(TokenFile(next(data.glob('*.tokens'))).train, seq_len=128, batch_size=64, seed=1)
    speeds = []
    for _ in range(n_rounds):
        batches = iter(loader)
        began, n = time.perf_counter(), 0
        for _, batch in zip(range(500), batches, strict=False):
            n += batch.numel()
        speeds.append(n / (time.perf_counter() - began))
    return speeds


def _peak() -> float:
    """Megabytes that were resident at the most."""
    status = Path('/proc/self/status').read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmHWM')) / 1e3


def _in_process(function: str, *arguments: str) -> list[float]:
    code = f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import data; data.{function}{arguments!r}'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    return [float(number) for number in out.splitlines()[-1].split()]


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--megabytes', type=float, nargs='+', default=[200, 2000])
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    print(f'Python {platform.python_version()}, {os.cpu_count()} CPUs\n')
    print(f'{"":24}{"text, MB":>10}{"seconds":>9}{"MB/s":>7}{"peak, MB":>10}{"of it before":>14}')

    def row(name: str, size: float, result: list[float]):
        seconds, before, peak = result
        print(f'{name:24}{size:10,.0f}{seconds:9.2f}{size / seconds:7.0f}{peak:10.0f}{before:14.0f}')

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / 'text.txt'
        small = arguments.megabytes[0] / 100
        write_text(text, small)
        row('labml_helpers', small, _in_process('labml_dataset', str(text)))
        for size in arguments.megabytes:
            write_text(text, size)
            data = Path(folder) / f'data-{size}'
            row('first run', size, _in_process('first_batch', str(text), str(data)))
            row('with its tokens there', size, _in_process('first_batch', str(text), str(data)))
        speed = statistics.median(loader_speed(data, arguments.rounds))
    print(f'\nThe loader: {speed / 1e6:.0f} million tokens/s in batches of 64 × 128')


if __name__ == '__main__':
    main()
