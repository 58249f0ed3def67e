"""
# Filling in masks: one text at a time or in batches

    python benchmarks/fill_mask.py [--rounds 5] [--texts 1024] [name=value ...]

Texts per second of `FillMask`, on pieces of `python_topics` of 8 to 32 characters (up to the `seq_len` of the default
run) with one `[MASK]` each. The model is the default one (or that of the overrides) before training, as the quality of
its predictions does not matter here. Sides run in alternation; figures are medians over the rounds.
"""
import argparse
import os
import platform
import random
import statistics
import time
from pathlib import Path

import torch

from labml_mlm import FillMask, MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.screen import console


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--texts', type=int, default=1024)
    arguments, overrides = parser.parse_known_args()

    console.set_up()
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', **parse_overrides(conf, overrides)})
    conf.init()
    fill_mask = FillMask(Pretrained(model=conf.model.eval(), tokenizer=conf.tokenizer, configs=conf,
                                    checkpoint=Checkpoint(Path(), {}), about=''))
    rng, texts = random.Random(0), []
    for _ in range(arguments.texts):
        begin, length = rng.randrange(len(conf.text) - 32), rng.randint(8, 32)
        masked = begin + rng.randrange(length)
        texts.append(f'{conf.text[begin:masked]}[MASK]{conf.text[masked + 1:begin + length]}')

    rates = {'one at a time': [], 'batches': []}
    for round_index in range(-1, arguments.rounds):
        for side, rate in rates.items():
            # A tenth of the texts is enough for the slow side
            sample = texts[:max(1, len(texts) // 10)] if side == 'one at a time' else texts
            began = time.perf_counter()
            filled = [fill_mask(text) for text in sample] if side == 'one at a time' else fill_mask(sample)
            assert len(filled) == len(sample)
            # Round -1 is warm-up
            if round_index >= 0:
                rate.append(len(sample) / (time.perf_counter() - began))

    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads, {fill_mask.pretrained.device}')
    print(f'{arguments.rounds} rounds of {arguments.texts} texts, medians\n')
    print(f'{"":15}{"texts/s":>10}{"ratio":>8}')
    for side, rate in rates.items():
        ratio = statistics.median(b / a for a, b in zip(rates['one at a time'], rate, strict=True))
        print(f'{side:15}{statistics.median(rate):10,.0f}{ratio:8.1f}')


if __name__ == '__main__':
    with exit_on_error():
        main()
