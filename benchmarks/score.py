"""
# Pseudo-log-likelihood: one pass a mask or in batches

    python benchmarks/score.py [--rounds 5] [--texts 256] [name=value ...]

Texts per second of `score_texts`, on pieces of `python_topics` of 8 to 32 characters (up to the `seq_len` of the
default run), beside a loop that masks one token of one text at a time, as most scripts do. The model is the default one
(or that of the overrides) before training, as what it says does not matter here. Sides run in alternation; figures are
medians over the rounds. Both give the same sums, which is checked. With one thread on a CPU, seconds are those of the
processor, so that other programs do not count.

The third side is what batches can reach at most: the encoder alone, on as many sequences of the same lengths, those of
a length together, with no padding, no masking and no vocabulary.

All multiply about as much: what batches save is the time in which a core waits. So the ratio grows as the model and
the texts get smaller, and with the number of cores; on one core it is less than 10 for the default model.
"""
import argparse
import os
import platform
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import torch

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.evaluation.score import score_texts
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.screen import console

# Tokens of a batch of the encoder alone
_BATCH_TOKENS = 1 << 12


@torch.no_grad()
def one_by_one(pretrained: Pretrained, text: str) -> float:
    """The sum, by one pass for each token."""
    total = 0.
    ids = pretrained.ids(text).to(pretrained.device)
    for position in pretrained.configs._is_maskable.to(ids.device)[ids].nonzero()[:, 0].tolist():
        masked = ids.clone()
        masked[position] = pretrained.configs.mask_token
        # `[seq_len, 1, n_tokens]`
        logits = pretrained.model.predict(masked[:, None])
        total += logits[position, 0].float().log_softmax(dim=-1)[ids[position]].item()
    return total


@torch.no_grad()
def encoder_alone(pretrained: Pretrained, texts: list[str]):
    """Encodes as many sequences as there are masks in texts, of one length in each batch, at one position each."""
    lengths: Counter[int] = Counter()
    for text in texts:
        ids = pretrained.ids(text)
        lengths[len(ids)] += int(pretrained.configs._is_maskable[ids].sum())
    for n, n_masks in lengths.items():
        # `[n, n_masks]`, `[1, n_masks]`
        x = torch.randint(pretrained.configs.n_tokens, (n, n_masks), device=pretrained.device)
        positions = torch.zeros_like(x[:1])
        for part, at in zip(*(t.split(max(1, _BATCH_TOKENS // n), dim=1) for t in (x, positions)), strict=True):
            pretrained.model.encode(part, positions=at)


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--texts', type=int, default=256)
    arguments, overrides = parser.parse_known_args()

    console.set_up()
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', **parse_overrides(conf, overrides)})
    conf.init()
    # Read before the rounds
    _ = conf.valid_mlm
    pretrained = Pretrained(model=conf.model.eval(), tokenizer=conf.tokenizer, configs=conf,
                            checkpoint=Checkpoint(Path(), {}), about='')
    rng, texts = random.Random(0), []
    while len(texts) < arguments.texts:
        begin = rng.randrange(len(conf.text) - 32)
        text = conf.text[begin:begin + rng.randint(8, 32)]
        # Spaces alone are no token of some tokenizers
        texts += [text] * bool(text.strip())

    is_one_thread = pretrained.device.type == 'cpu' and torch.get_num_threads() == 1
    now = time.process_time if is_one_thread else time.perf_counter
    rates = {'one pass a mask': [], 'batches': [], 'encoder alone': []}
    for round_index in range(-1, arguments.rounds):
        # A tenth of the texts is enough for the slow side
        sample = texts[:max(1, len(texts) // 10)]
        began = now()
        expected = [one_by_one(pretrained, text) for text in sample]
        middle = now()
        found = [of_text.pll for of_text in score_texts(pretrained, texts)]
        scored = now()
        encoder_alone(pretrained, texts)
        end = now()
        torch.testing.assert_close(torch.tensor(found[:len(sample)]), torch.tensor(expected), rtol=1e-4, atol=1e-4)
        # Round -1 is warm-up
        if round_index >= 0:
            rates['one pass a mask'].append(len(sample) / (middle - began))
            rates['batches'].append(len(texts) / (scored - middle))
            rates['encoder alone'].append(len(texts) / (end - scored))

    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads, {pretrained.device}')
    print(f'{arguments.rounds} rounds of {arguments.texts} texts, medians\n')
    print(f'{"":17}{"texts/s":>10}{"ratio":>8}')
    for side, rate in rates.items():
        ratio = statistics.median(b / a for a, b in zip(rates['one pass a mask'], rate, strict=True))
        print(f'{side:17}{statistics.median(rate):10,.1f}{ratio:8.1f}')


if __name__ == '__main__':
    with exit_on_error():
        main()
