"""
# The overhead of a step besides the model

    python benchmarks/overhead.py [--rounds 7] [--steps 20] [name=value ...]

How much time loader, masking and metrics (with labml's tracker, its file writer and its console writer) add to a bare
step: forward, loss, backward, clipping and update, on batches that are already masked.

* `everything else` is `MLMConfigs.step` with an engine that returns a fixed output and an optimizer that does nothing.
  (The difference between a complete and a bare step is not measured: it is much smaller than the variation between
  steps.)
* The lines below are single components; `word masking` and `span masking` are alternatives to `masking`.
* `live view` is what the view on a terminal adds to a step, as if each took 0.1 seconds. It draws in a thread, which
  waits so long that it takes at most 0.4% of the time.

All run in alternation in one process; figures are medians over the rounds, and percentages those of ratios within a
round.
"""
import argparse
import contextlib
import functools
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
from labml_mlm.inference.pretrained import silent
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.screen import console
from labml_mlm.screen.console import PlainWriter
from labml_mlm.screen.live_view import LiveView
from labml_mlm.training.progress import work_left


def build(overrides: list[str], **values: Any) -> MLMConfigs:
    """The configs of a run, built."""
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', 'n_prompts': 0, **parse_overrides(conf, overrides), **values})
    with silent():
        conf.init()
    conf.model.train()
    return conf


def make_components(overrides: list[str], stack: contextlib.ExitStack) -> dict[str, Callable[[], None]]:
    """The functions to measure, by name."""
    conf, idle = build(overrides), build(overrides, grad_norm_clip=None)
    batches, idle_batches = endless(conf), endless(idle)
    batch = next(batches)
    masked = itertools.cycle([conf.mlm(next(batches).to(conf.device)) for _ in range(20)])
    output = conf.engine.forward_backward(*next(masked), None, None)

    def bare_step():
        conf.engine.forward_backward(*next(masked), None, None)
        nn.utils.clip_grad_norm_(conf.model.parameters(), max_norm=1.)
        conf.optimizer.step()
        conf.optimizer.zero_grad()

    def idle_step():
        with idle.mode.update(is_train=True), tracker.namespace('train'):
            idle.step(next(idle_batches), None)

    def track():
        with tracker.namespace('train'):
            tracker.add_global_step(batch.numel())
            conf.step_metrics.add({'loss.': output.loss, 'accuracy.': output.loss})
            tracker.add('lr', 1e-3)
            tracker.add('tokens_per_second', 1e4)
            conf.step_metrics.save()

    # One real step first: the learning-rate schedule warns if the optimizer has not taken any
    idle_step()
    idle.engine.forward_backward = lambda *_: output
    idle.optimizer.step = lambda: None
    word_mlm, span_mlm = (build(overrides, masking=kind).mlm for kind in ('word', 'span'))
    return {'bare step': bare_step, 'everything else': idle_step, 'loader': lambda: next(batches),
            'masking': lambda: conf.mlm(batch.to(conf.device)), 'word masking': lambda: word_mlm(batch.to(conf.device)),
            'span masking': lambda: span_mlm(batch.to(conf.device)), 'tracker': track,
            'live view': make_view(conf, stack)}


def make_view(conf: MLMConfigs, stack: contextlib.ExitStack) -> Callable[[], None]:
    """A function that shows a step on a live view, until the end of `stack`. It draws nothing."""
    view = LiveView(functools.partial(work_left, conf), clock=itertools.count(step=0.1).__next__)
    view._terminal = contextlib.nullcontext()
    epochs = view.epochs(0, 1)
    stack.callback(epochs.close)
    next(epochs)
    stack.enter_context(view.phase('Train', is_track_time=False))

    def show():
        view.update(0.5)
        view.add({'loss.train': 2., 'accuracy.train': 0.5, 'lr': 1e-3, 'tokens_per_second': 1e4})

    return show


def endless(conf: MLMConfigs) -> Iterator[torch.Tensor]:
    """Full batches of one epoch after another."""
    for batch in itertools.chain.from_iterable(conf.train_loader for _ in itertools.count()):
        if batch.shape[1] == conf.batch_size:
            yield batch


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=20, help='steps of each component per round')
    arguments, overrides = parser.parse_known_args()
    console.set_up()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        writer = MetricsWriter(Path(folder) / 'log.jsonl')
        tracker_singleton().reset_writers()
        tracker_singleton().add_writer(writer)
        tracker_singleton().add_writer(PlainWriter(interval=float('inf')))
        seconds: dict[str, list[float]] = {}
        components = make_components(overrides, stack)
        for round_index in range(-1, arguments.rounds):
            for name, component in components.items():
                began = time.perf_counter()
                for _ in range(arguments.steps):
                    component()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                # Round -1 is warm-up
                if round_index >= 0:
                    seconds.setdefault(name, []).append((time.perf_counter() - began) / arguments.steps)
        writer.finish()
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads')
    print(f'{arguments.rounds} rounds of {arguments.steps} steps, medians\n')
    for name, times in seconds.items():
        fraction = statistics.median(a / b for a, b in zip(times, seconds['bare step'], strict=True))
        print(f'{name:15}{1e3 * statistics.median(times):8.2f} ms{fraction:9.2%} of the bare step')


if __name__ == '__main__':
    with exit_on_error():
        main()
