"""
# What a step takes beside the model

    python benchmarks/overhead.py [--rounds 7] [--steps 20] [name=value ...]

How much loader, masking, and metrics with labml's tracker (its writers of file and lines) add to the bare step:
forward, loss, backward, clipping and update of batches that are masked already. They are measured together, as the step
of a run in which the model has nothing to do: `MLMConfigs.step` with an engine that gives always the same output and an
optimizer that does nothing; and some of them alone. All take turns in one process, and shares are medians of those
within a round. (The difference between a whole step and a bare one is not measured: it is much smaller than what a step
takes more or less from one time to the next.)
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
from typing import Any

import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton
from torch import nn

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.inference.load import silent
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.tracking import console as screen
from labml_mlm.tracking.console import PlainWriter


def built(overrides: list[str], **values: Any) -> MLMConfigs:
    """Configs of a run."""
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', 'n_prompts': 0, **parse_overrides(conf, overrides), **values})
    with silent():
        conf.init()
    conf.model.train()
    return conf


def parts(overrides: list[str]) -> dict[str, Callable[[], None]]:
    """What is measured, by name."""
    conf, idle = built(overrides), built(overrides, grad_norm_clip=None)
    batches, idle_batches = endless(conf), endless(idle)
    batch = next(batches)
    masked = itertools.cycle([conf.mlm(next(batches).to(conf.device)) for _ in range(20)])
    output = conf.engine.forward_backward(*next(masked), None, None)

    def bare():
        conf.engine.forward_backward(*next(masked), None, None)
        nn.utils.clip_grad_norm_(conf.model.parameters(), max_norm=1.)
        conf.optimizer.step()
        conf.optimizer.zero_grad()

    def step():
        with idle.mode.update(is_train=True), tracker.namespace('train'):
            idle.step(next(idle_batches), None)

    def tracking():
        with tracker.namespace('train'):
            tracker.add_global_step(batch.numel())
            conf.step_metrics.add({'loss.': output.loss, 'accuracy.': output.loss})
            tracker.add('lr', 1e-3)
            tracker.add('tokens_per_second', 1e4)
            conf.step_metrics.save()

    # Once as it is, as the schedule wants to see it
    step()
    idle.engine.forward_backward = lambda *_: output
    idle.optimizer.step = lambda: None
    words, of_spans = (built(overrides, masking=units).mlm for units in ('word', 'span'))
    return {'bare step': bare, 'all beside it': step, 'loader': lambda: next(batches),
            'masking': lambda: conf.mlm(batch.to(conf.device)), 'of words': lambda: words(batch.to(conf.device)),
            'of spans': lambda: of_spans(batch.to(conf.device)), 'tracker': tracking}


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
    with tempfile.TemporaryDirectory() as folder:
        writer = MetricsWriter(Path(folder) / 'log.jsonl')
        tracker_singleton().reset_writers()
        tracker_singleton().add_writer(writer)
        tracker_singleton().add_writer(PlainWriter(interval=float('inf')))
        seconds: dict[str, list[float]] = {}
        measured = parts(overrides)
        for round_index in range(-1, arguments.rounds):
            for name, part in measured.items():
                began = time.perf_counter()
                for _ in range(arguments.steps):
                    part()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                # The round before the first one warms up
                if round_index >= 0:
                    seconds.setdefault(name, []).append((time.perf_counter() - began) / arguments.steps)
        writer.finish()
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads')
    print(f'{arguments.rounds} rounds of {arguments.steps} steps, medians\n')
    for name, times in seconds.items():
        share = statistics.median(a / b for a, b in zip(times, seconds['bare step'], strict=True))
        print(f'{name:14}{1e3 * statistics.median(times):9.2f} ms{share:9.2%} of the bare step')


if __name__ == '__main__':
    with exit_on_error():
        main()
