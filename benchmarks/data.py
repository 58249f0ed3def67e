"""
# From a text to batches: how fast, in how much memory

    python benchmarks/data.py [--megabytes 200 2000] [--bpe-megabytes 50] [--rounds 5]

In some five minutes, on texts of the sizes given:

* how long it takes until the first batch, with no tokens on the disk yet and with them there, and the peak of memory of
  the process for that, with labml_helpers' `TextFileDataset` beside it at a hundredth of the first size (a list of
  one-character strings: more would not fit)
* the same for BPE, whose vocabulary is trained before the clock, beside the way of nanoGPT's `prepare.py` (all of the
  text in memory, encoded document by document on all cores, written as one array) and beside `tokenizers` alone, which
  has the text in memory and throws its tokens away, or hands over their ids; medians of interleaved rounds
* how many tokens a second the loader puts into batches of 64 × 128, from a stream and from packed documents
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
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.data.sources import python_topics
from labml_mlm.data.windows import Windows
from labml_mlm.tokenization import subword as subwords
from labml_mlm.tokenization import train_tokenizer
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.token_cache import TokenCache
from labml_mlm.tokenization.token_file import TokenFile

VOCAB_SIZE = 8192


def write_text(path: Path, megabytes: float):
    """Python's help topics again and again, with their lines in another order each time."""
    rng, lines, n_bytes = random.Random(0), python_topics().splitlines(keepends=True), int(megabytes * 1e6)
    with open(path, 'wb') as f:
        while f.tell() < n_bytes:
            rng.shuffle(lines)
            # Now and then a character that is not ASCII, as in any text
            f.write(''.join([*lines, '—\n']).encode())


def write_documents(path: Path, megabytes: float):
    """JSON lines of some twenty lines of that text each."""
    rng, lines, n_bytes = random.Random(0), python_topics().splitlines(keepends=True), int(megabytes * 1e6)
    with open(path, 'w') as f:
        while f.tell() < n_bytes:
            f.write(json.dumps({'text': ''.join(rng.choices(lines, k=rng.randint(1, 40)))}) + '\n')


def first_batch(path: str, data: str):
    """With characters as tokens."""
    def work():
        cache = TokenCache(Path(data), TextFiles([Path(path)]), valid_fraction=0.1)
        corpus = cache.corpus()
        tokens = cache.tokens(corpus, CharacterTokenizer.from_characters(corpus.characters))
        next(iter(TrainLoader(Windows(tokens.train, seq_len=128), batch_size=64, seed=1)))
    measure(work)


def labml_dataset(path: str):
    """The same for labml_helpers' dataset, which is all of the text as a list."""
    from labml_helpers.datasets.text import TextFileDataset
    measure(lambda: TextFileDataset(Path(path), list))


def bpe_ours(path: str, data: str, is_read: str):
    """From a text of documents to tokens on the disk; also where the text was read before, to train the tokenizer."""
    tokenizer = subwords.SubwordTokenizer.from_file(Path(data) / subwords.FILE)
    cache = TokenCache(Path(data) / 'cache', TextFiles([Path(path)]), valid_fraction=0.1)
    if is_read == 'read':
        cache.corpus()
    measure(lambda: cache.tokens(cache.corpus(), tokenizer))
    shutil.rmtree(Path(data) / 'cache')


def bpe_prepare(path: str, data: str):
    """The same in the way of nanoGPT's `prepare.py`."""
    tokenizer = Tokenizer.from_file(f'{data}/{subwords.FILE}')

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


def bpe_alone(path: str, data: str, with_ids: str):
    """What `tokenizers` takes to encode texts that are in memory, and to hand over the ids if those are wanted."""
    tokenizer = Tokenizer.from_file(f'{data}/{subwords.FILE}')
    with open(path) as f:
        texts = [json.loads(line)['text'] for line in f]

    def work():
        for begin in range(0, len(texts), 1000):
            for one in tokenizer.encode_batch_fast(texts[begin:begin + 1000], add_special_tokens=False):
                if with_ids == 'ids':
                    _ = one.ids
    measure(work)


def measure(work: Callable[[], object]):
    """In a process of its own: prints the seconds that it takes, and the peak of memory before and after, in MB."""
    before, began = peak(), time.perf_counter()
    work()
    print(time.perf_counter() - began, before, peak())


def peak() -> float:
    """Megabytes that were resident at the most."""
    status = Path('/proc/self/status').read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmHWM')) / 1e3


def in_process(function: str, *arguments: Path | str) -> list[float]:
    """What `measure` prints in a process of its own."""
    given = tuple(map(str, arguments))
    code = f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import data; data.{function}{given!r}'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    return [float(number) for number in out.splitlines()[-1].split()]


def loader_speed(loader: TrainLoader, n_rounds: int) -> float:
    """Tokens a second, the median of rounds of 500 batches, in one thread."""
    speeds = []
    for _ in range(n_rounds):
        batches = iter(loader)
        began = time.perf_counter()
        n = sum(batch.numel() if hasattr(batch, 'numel') else batch.n_tokens
                for _, batch in zip(range(500), batches, strict=False))
        speeds.append(n / (time.perf_counter() - began))
    return statistics.median(speeds)


def bpe_results(folder: Path, n_rounds: int) -> dict[str, list[list[float]]]:
    """What `measure` gives for each way in each round."""
    ways = {'tokenizers alone': ('bpe_alone', 'none'), 'tokenizers and ids': ('bpe_alone', 'ids'),
            "nanoGPT's way": ('bpe_prepare',),
            'BPE': ('bpe_ours', 'new'), 'BPE, text read before': ('bpe_ours', 'read')}
    results: dict[str, list] = {name: [] for name in ways}
    for _ in range(n_rounds):
        for name, (function, *more) in ways.items():
            results[name].append(in_process(function, folder / 'text.jsonl', folder, *more))
    return results


def row(name: str, size: float, result: list[float]):
    """Prints a line of the table."""
    seconds, before, after = result
    print(f'{name:24}{size:10,.0f}{seconds:9.2f}{size / seconds:9.1f}{after:10.0f}{before:14.0f}', flush=True)


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--megabytes', type=float, nargs='+', default=[200, 2000])
    parser.add_argument('--bpe-megabytes', type=float, default=50)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    print(f'Python {platform.python_version()}, tokenizers {version("tokenizers")}, {os.cpu_count()} CPUs\n')
    print(f'{"":24}{"text, MB":>10}{"seconds":>9}{"MB/s":>9}{"peak, MB":>10}{"of it before":>14}')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        text = folder / 'text.txt'
        small = arguments.megabytes[0] / 100
        write_text(text, small)
        row('labml_helpers', small, in_process('labml_dataset', text))
        for size in arguments.megabytes:
            write_text(text, size)
            data = folder / f'data-{size}'
            row('characters', size, in_process('first_batch', text, data))
            row('with tokens there', size, in_process('first_batch', text, data))
        [tokens] = [TokenFile(path) for path in data.glob('*.tokens')]
        stream = loader_speed(TrainLoader(Windows(tokens.train, seq_len=128), batch_size=64, seed=1), arguments.rounds)

        write_documents(folder / 'text.jsonl', arguments.bpe_megabytes)
        tokenizer = train_tokenizer.bpe([python_topics()], vocab_size=VOCAB_SIZE)
        (folder / subwords.FILE).write_text(tokenizer.files[subwords.FILE])
        results = bpe_results(folder, arguments.rounds)
        for name, of_name in results.items():
            medians = [statistics.median(values) for values in zip(*of_name, strict=True)]
            row(name, arguments.bpe_megabytes, medians)
        cache = TokenCache(folder / 'packs', TextFiles([folder / 'text.jsonl']), valid_fraction=0.1)
        tokens = cache.tokens(cache.corpus(), tokenizer)
        packs = PackedDocuments(tokens.train, tokens.train_document_ends, seq_len=128, padding_token=0)
        packed = loader_speed(TrainLoader(packs, batch_size=64, seed=1), arguments.rounds)
    print()
    for ours in 'BPE', 'BPE, text read before':
        shares = [statistics.median(a[0] / b[0] for a, b in zip(results[name], results[ours], strict=True))
                  for name in ('tokenizers alone', 'tokenizers and ids')]
        print(f'{ours}: {shares[0]:.0%} of the speed of tokenizers alone, {shares[1]:.0%} of tokenizers and ids')
    print(f'\nThe loader: {stream / 1e6:.0f} million tokens/s in batches of 64 × 128; with packing=documents '
          f'{packed / 1e6:.0f} million, and {len(tokens.train) / (len(packs) * 128):.1%} is no padding')


if __name__ == '__main__':
    main()
