"""
# Masking rate and time

    python benchmarks/masking.py [--batches 40] [name=value ...]

The fraction of maskable tokens that is selected, by `masking` and sequence length, and the time for a batch of 2,048
tokens; `masking_prob` is 0.15 unless overridden. Masking of single tokens keeps the rate at any length of at least
1 / `masking_prob`. A word or a span is selected as a whole, and each sequence gets at least one; so the rate is kept
while none of them is longer than `masking_prob` × `seq_len`, and is higher in shorter sequences.
"""
import argparse
import os
import platform
import statistics
import time

import torch
from overhead import build, endless

from labml_mlm.common.exit import exit_on_error
from labml_mlm.screen import console

LENGTHS = 8, 16, 32, 64, 128, 256, 512
TOKENS = 2048
KINDS = 'token', 'word', 'span'


def measure(kind: str, seq_len: int, *, n_batches: int, overrides: list[str]) -> tuple[float, float]:
    """The masking rate, and seconds per batch."""
    conf = build(overrides, masking=kind, seq_len=seq_len, batch_size=max(1, TOKENS // seq_len))
    n_selected = n_maskable = 0
    seconds = []
    for batch, _ in zip(endless(conf), range(n_batches), strict=False):
        batch = batch.to(conf.device)
        began = time.perf_counter()
        _, labels = conf.mlm(batch)
        if batch.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        n_selected += int((labels != conf.padding_token).sum())
        n_maskable += int(conf.mlm.is_maskable[batch].sum())
    return n_selected / n_maskable, statistics.median(seconds)


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--batches', type=int, default=40)
    arguments, overrides = parser.parse_known_args()
    console.set_up()
    rows = [[measure(kind, seq_len, n_batches=arguments.batches, overrides=overrides) for kind in KINDS]
            for seq_len in LENGTHS]
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads; {arguments.batches} batches of {TOKENS:,} tokens\n')
    print(f'{"seq_len":>8}' + ''.join(f'{kind:>9}{"ms":>8}' for kind in KINDS))
    for seq_len, row in zip(LENGTHS, rows, strict=True):
        print(f'{seq_len:8}' + ''.join(f'{rate:9.3f}{1e3 * seconds:8.2f}' for rate, seconds in row))


if __name__ == '__main__':
    with exit_on_error():
        main()
