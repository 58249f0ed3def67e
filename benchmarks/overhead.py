"""
# What a step takes beside the model

    python benchmarks/overhead.py [--rounds 7] [--steps 20] [name=value ...]

How much loader, masking, and metrics with labml's tracker (its writers of file and lines) add to the bare step:
forward, loss, backward, clipping and update of batches that are masked already. Each is measured alone, and beside it
the whole step as a run does it; all take turns in one process, and shares are medians of those within a round.
"""
import argparse
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton
from torch import nn

from labml_mlm import MLMConfigs, screen
from labml_mlm.log_file import FileWriter
from labml_mlm.overrides import parse_overrides
from labml_mlm.pretrained import silent
from labml_mlm.screen import PlainWriter


def parts(conf: MLMConfigs) -> dict[str, Callable[[], None]]:
    """What is measured, by name."""
    batches = endless(conf)
    batch = next(batches)
    masked = conf.mlm(batch.to(conf.device))
    loss, accuracy = torch.tensor(1., requires_grad=True), torch.tensor(0.5)

    def whole():
        with conf.mode.update(is_train=True), tracker.namespace('train'):
            conf.step(next(batches), None)

    def bare():
        conf.engine.forward_backward(*masked, None, None)
        nn.utils.clip_grad_norm_(conf.model.parameters(), max_norm=1.)
        conf.optimizer.step()
        conf.optimizer.zero_grad()

    def tracking():
        with tracker.namespace('train'):
            tracker.add_global_step(batch.numel())
            tracker.add('loss.', loss)
            tracker.add('accuracy.', accuracy)
            tracker.add('lr', 1e-3)
            tracker.add('tokens_per_second', 1e4)
            tracker.save()

    return {'bare step': bare, 'loader': lambda: next(batches), 'masking': lambda: conf.mlm(batch.to(conf.device)),
            'tracker': tracking, 'whole step': whole}


def endless(conf: MLMConfigs) -> Iterator[torch.Tensor]:
    """Full batches of one epoch after the other."""
    for batch in itertools.chain.from_iterable(conf.train_loader for _ in itertools.count()):
        if batch.shape[1] == conf.batch_size:
            yield batch


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=20, help='steps of each part in a round')
    arguments, overrides = parser.parse_known_args()
    screen.set_up()
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', 'n_prompts': 0, **parse_overrides(conf, overrides)})
    with silent():
        conf.init()
    conf.model.train()
    with tempfile.TemporaryDirectory() as folder:
        writer = FileWriter(Path(folder) / 'log.jsonl')
        tracker_singleton().reset_writers()
        tracker_singleton().add_writer(writer)
        tracker_singleton().add_writer(PlainWriter(interval=float('inf')))
        seconds: dict[str, list[float]] = {}
        measured = parts(conf)
        for round_index in range(-1, arguments.rounds):
            for name, part in measured.items():
                began = time.perf_counter()
                for _ in range(arguments.steps):
                    part()
                if conf.device.type == 'cuda':
                    torch.cuda.synchronize(conf.device)
                # The round before the first one warms up
                if round_index >= 0:
                    seconds.setdefault(name, []).append((time.perf_counter() - began) / arguments.steps)
        writer.finish()
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads, {conf.device}')
    n_tokens = conf.batch_size * conf.seq_len
    print(f'{arguments.rounds} rounds of {arguments.steps} steps of {n_tokens:,} tokens, medians\n')
    for name, times in seconds.items():
        share = statistics.median(a / b for a, b in zip(times, seconds['bare step'], strict=True))
        print(f'{name:12}{1e3 * statistics.median(times):9.2f} ms{share:9.2%} of the bare step')
    added = [sum(one) / bare for bare, *one in zip(*(seconds[name] for name in
                                                     ('bare step', 'loader', 'masking', 'tracker')), strict=True)]
    print(f'\nLoader, masking and tracker add {statistics.median(added):.2%} to the bare step')


if __name__ == '__main__':
    main()
