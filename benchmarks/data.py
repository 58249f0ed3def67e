"""
# From text to batches: speed and memory

    python benchmarks/data.py [--megabytes 200 2000] [--bpe-megabytes 50] [--short-megabytes 20] [--rounds 5]

On texts of the given sizes, in about five minutes:

* **Characters**: time until the first batch, without and with cached tokens, and peak memory of the process.
  labml_helpers' `TextFileDataset` is run on a hundredth of the first size: it holds the text as a list of one-character
  strings, and more would not fit.
* **BPE**: time until the tokens are on the disk; the vocabulary is trained before. Compared with the approach of
  nanoGPT's `prepare.py` (the whole text in memory, encoded document by document on all cores, written as one array),
  and with `tokenizers` alone, which has the text in memory and discards its output, or converts it to ids. Medians
  over interleaved rounds.
* **Short documents**: the same of JSON lines with 50 to 200 bytes each.
* **Loader**: tokens per second in batches of 64 × 128, from a stream and from packed documents.
"""
import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from labml_mlm.data.documents import TextFiles
from labml_mlm.data.loader import TrainLoader
from labml_mlm.data.packing import PackedDocuments, Windows
from labml_mlm.data.sources import python_topics
from labml_mlm.tokenization import subword, train_tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.tokenization.token_file import TokenFile

VOCAB_SIZE = 8192


def write_text(path: Path, megabytes: float):
    """Python's help topics repeated, each time with their lines in another order."""
    rng, lines, n_bytes = random.Random(0), python_topics().splitlines(keepends=True), int(megabytes * 1e6)
    with open(path, 'wb') as f:
        while f.tell() < n_bytes:
            rng.shuffle(lines)
            # Real texts have some characters that are not ASCII
            f.write(''.join([*lines, '—\n']).encode())


def write_documents(path: Path, megabytes: float, *, longest: int = 40):
    """JSON lines with up to so many lines of that text each."""
    rng, lines, n_bytes = random.Random(0), python_topics().splitlines(keepends=True), int(megabytes * 1e6)
    with open(path, 'w') as f:
        while f.tell() < n_bytes:
            f.write(json.dumps({'text': ''.join(rng.choices(lines, k=rng.randint(1, longest)))}) + '\n')


def characters(path: str, data: str):
    """From a text to the first batch, with characters as tokens."""
    def work():
        cache = TokenCache(Path(data), TextFiles([Path(path)]), valid_fraction=0.1)
        corpus = cache.corpus()
        tokens = cache.tokens(corpus, CharacterTokenizer.from_characters(corpus.characters))
        next(iter(TrainLoader(Windows(tokens.train, seq_len=128), batch_size=64, seed=1)))
    measure(work)


def labml_helpers_dataset(path: str):
    """The dataset of labml_helpers, which holds the whole text as a list."""
    from labml_helpers.datasets.text import TextFileDataset
    measure(lambda: TextFileDataset(Path(path), list))


def bpe_token_cache(path: str, data: str, text: str):
    """From documents to tokens on the disk. With `scanned`, the text was scanned before, as to train the tokenizer."""
    tokenizer = subword.SubwordTokenizer.from_file(Path(data) / subword.FILE)
    cache = TokenCache(Path(data) / 'cache', TextFiles([Path(path)]), valid_fraction=0.1)
    if text == 'scanned':
        cache.corpus()
    measure(lambda: cache.tokens(cache.corpus(), tokenizer))
    shutil.rmtree(Path(data) / 'cache')


def bpe_nanogpt(path: str, data: str):
    """From documents to tokens on the disk, as in nanoGPT's `prepare.py`."""
    tokenizer = Tokenizer.from_file(f'{data}/{subword.FILE}')

    def work():
        with open(path) as f:
            texts = [json.loads(line)['text'] for line in f]
        encoded = tokenizer.encode_batch(texts)
        tokens = np.memmap(f'{data}/train.bin', np.uint16, 'w+', shape=(sum(len(one.ids) + 1 for one in encoded),))
        at = 0
        for one in encoded:
            tokens[at:at + len(one.ids)] = one.ids
            tokens[at + len(one.ids)] = 3
            at += len(one.ids) + 1
        tokens.flush()
    measure(work)


def bpe_tokenizers(path: str, data: str, output: str):
    """`tokenizers` on texts in memory; with `ids`, its output is also converted to Python's integers."""
    tokenizer = Tokenizer.from_file(f'{data}/{subword.FILE}')
    with open(path) as f:
        texts = [json.loads(line)['text'] for line in f]

    def work():
        for begin in range(0, len(texts), 1000):
            for one in tokenizer.encode_batch_fast(texts[begin:begin + 1000], add_special_tokens=False):
                if output == 'ids':
                    _ = one.ids
    measure(work)


def measure(work: Callable[[], object]):
    """Called in a separate process. Prints the seconds of `work`, and peak memory before and after it, in MB."""
    before, began = peak_memory(), time.perf_counter()
    work()
    print(time.perf_counter() - began, before, peak_memory())


def peak_memory() -> float:
    """Peak resident memory of this process, in MB."""
    status = Path('/proc/self/status').read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmHWM')) / 1e3


def in_subprocess(function: str, *arguments: Path | str) -> list[float]:
    """Calls a function of this module in a new process. Returns what `measure` prints there."""
    given = tuple(map(str, arguments))
    code = f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import data; data.{function}{given!r}'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    return [float(number) for number in out.splitlines()[-1].split()]


def loader_speed(loader: TrainLoader, n_rounds: int) -> float:
    """Tokens per second in one thread, the median over rounds of 500 batches."""
    speeds = []
    for _ in range(n_rounds):
        batches = iter(loader)
        began = time.perf_counter()
        n = sum(batch.numel() if hasattr(batch, 'numel') else batch.n_tokens
                for _, batch in zip(range(500), batches, strict=False))
        speeds.append(n / (time.perf_counter() - began))
    return statistics.median(speeds)


def bpe_results(folder: Path, text: Path, n_rounds: int) -> dict[str, list[list[float]]]:
    """The results of each side in each round."""
    sides = {'tokenizers alone': ('bpe_tokenizers', 'nothing'), 'tokenizers and ids': ('bpe_tokenizers', 'ids'),
             "nanoGPT's prepare.py": ('bpe_nanogpt',),
             'BPE': ('bpe_token_cache', 'new'), 'BPE, text scanned before': ('bpe_token_cache', 'scanned')}
    results: dict[str, list] = {side: [] for side in sides}
    for _ in range(n_rounds):
        for side, (function, *more) in sides.items():
            results[side].append(in_subprocess(function, text, folder, *more))
    return results


def print_row(name: str, size: float, result: list[float]):
    """Prints a line of the table."""
    seconds, before, after = result
    print(f'{name:24}{size:10,.0f}{seconds:9.2f}{size / seconds:9.1f}{after:10.0f}{before:14.0f}', flush=True)


def print_medians(results: dict[str, list[list[float]]], size: float):
    """Prints a line for each side."""
    for side, rounds in results.items():
        print_row(side, size, [statistics.median(values) for values in zip(*rounds, strict=True)])


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--megabytes', type=float, nargs='+', default=[200, 2000])
    parser.add_argument('--bpe-megabytes', type=float, default=50)
    parser.add_argument('--short-megabytes', type=float, default=20)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    print(f'Python {platform.python_version()}, tokenizers {version("tokenizers")}, {os.cpu_count()} CPUs\n')
    print(f'{"":24}{"text, MB":>10}{"seconds":>9}{"MB/s":>9}{"peak, MB":>10}{"before, MB":>14}')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        text = folder / 'text.txt'
        small = arguments.megabytes[0] / 100
        write_text(text, small)
        print_row('labml_helpers', small, in_subprocess('labml_helpers_dataset', text))
        for size in arguments.megabytes:
            write_text(text, size)
            data = folder / f'data-{size}'
            print_row('characters', size, in_subprocess('characters', text, data))
            print_row('cached tokens', size, in_subprocess('characters', text, data))
        [tokens] = [TokenFile(path) for path in data.glob('*.tokens')]
        stream = loader_speed(TrainLoader(Windows(tokens.train, seq_len=128), batch_size=64, seed=1), arguments.rounds)

        write_documents(folder / 'text.jsonl', arguments.bpe_megabytes)
        tokenizer = train_tokenizer.bpe([python_topics()], vocab_size=VOCAB_SIZE)
        (folder / subword.FILE).write_text(tokenizer.files[subword.FILE])
        results = bpe_results(folder, folder / 'text.jsonl', arguments.rounds)
        print_medians(results, arguments.bpe_megabytes)
        write_documents(folder / 'short.jsonl', arguments.short_megabytes, longest=3)
        print('\nshort documents')
        short = bpe_results(folder, folder / 'short.jsonl', arguments.rounds)
        short['characters'] = [in_subprocess('characters', folder / 'short.jsonl', folder / f'short-{i}')
                               for i in range(arguments.rounds)]
        print_medians(short, arguments.short_megabytes)
        cache = TokenCache(folder / 'packed', TextFiles([folder / 'text.jsonl']), valid_fraction=0.1)
        tokens = cache.tokens(cache.corpus(), tokenizer)
        windows = PackedDocuments(tokens.train, tokens.train_ends, seq_len=128, padding_token=0)
        packed = loader_speed(TrainLoader(windows, batch_size=64, seed=1), arguments.rounds)
    print()
    for of, found in ('', results), (' of short documents', short):
        for side in 'BPE', 'BPE, text scanned before':
            fractions = [statistics.median(a[0] / b[0] for a, b in zip(found[other], found[side], strict=True))
                         for other in ('tokenizers alone', 'tokenizers and ids')]
            print(f'{side}{of}: {fractions[0]:.0%} of the throughput of tokenizers alone, {fractions[1]:.0%} of '
                  'tokenizers and ids')
    print(f'\nThe loader: {stream / 1e6:.0f} million tokens/s in batches of 64 × 128; with packing=documents '
          f'{packed / 1e6:.0f} million, and {len(tokens.train) / (len(windows) * 128):.1%} of positions are not '
          'padding')


if __name__ == '__main__':
    main()
