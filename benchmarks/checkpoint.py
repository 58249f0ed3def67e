"""
# The cost of checkpoints

    python benchmarks/checkpoint.py [--rounds 7] [--steps 40] [name=value ...]

Trains the default model (or that of the overrides) on `python_topics`, in alternating rounds without a save, with one
save, and with one save to a slow disk. Takes about two minutes and prints

* the fraction of training time at the default interval: what a save adds to a round, spread over
  `checkpoint_interval` steps;
* the longest step of a round. A step waits only for the copy to memory, however slow the disk is: on the slow disk each
  `fsync` takes another 0.3 seconds.
"""
import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.screen import console
from labml_mlm.training.checkpointer import Checkpointer
from labml_mlm.training.state import capture_state

SIDES = 'no save', 'save', 'slow disk'


def train_steps(conf: MLMConfigs, checkpointer: Checkpointer | None, n: int) -> list[float]:
    """Seconds of each of `n` training steps; the second one saves if there is a `checkpointer`."""
    seconds = []
    with conf.mode.update(is_train=True), tracker.namespace('train'):
        for i, batch in zip(range(n), conf.train_loader, strict=False):
            began = time.perf_counter()
            conf.step(batch, None)
            conf.progress.end_step(conf.train_loader)
            if checkpointer is not None and i == 1:
                checkpointer.save(conf)
            seconds.append(time.perf_counter() - began)
    return seconds


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=40, help='steps per round')
    arguments, overrides = parser.parse_known_args()

    console.set_up()
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', **parse_overrides(conf, overrides)})
    conf.init()
    n_parameters = sum(p.numel() for p in conf.model.parameters())
    fsync = os.fsync

    def slow_fsync(handle: int):
        time.sleep(0.3)
        fsync(handle)

    # Seconds by side, one value per round: of the mean step, of the longest step, and of a copy of the state
    mean, longest, copies = ({side: [] for side in SIDES} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsWriter(Path(folder) / 'log.jsonl')
        tracker_singleton().reset_writers()
        tracker_singleton().add_writer(log)
        checkpointer = Checkpointer(Path(folder) / 'checkpoints', interval=None, keep=2)
        checkpointer.log = log
        for round_index in range(-1, arguments.rounds):
            for side in SIDES:
                os.fsync = slow_fsync if side == 'slow disk' else fsync
                seconds = train_steps(conf, None if side == 'no save' else checkpointer, arguments.steps)
                checkpointer.finish()
                os.fsync = fsync
                began = time.perf_counter()
                capture_state(conf)
                # Round -1 is warm-up
                if round_index >= 0:
                    mean[side].append(statistics.mean(seconds))
                    longest[side].append(max(seconds))
                    copies[side].append(time.perf_counter() - began)
        assert checkpointer.error is None, checkpointer.error
        n_bytes = sum(path.stat().st_size for path in Path(folder).glob('checkpoints/*/*')) / 2

    step = statistics.median(mean['no save'])
    added = statistics.median(a - b for a, b in zip(mean['save'], mean['no save'], strict=True)) * arguments.steps
    copy = statistics.median(copies['no save'])
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads, {conf.device}')
    print(f'{n_parameters / 1e6:.1f} million parameters, {n_bytes / 1e6:.1f} MB per checkpoint; '
          f'{arguments.rounds} rounds of {arguments.steps} steps, medians\n')
    # A save takes at least as long as the copy: less than that is noise
    adds = f'adds {1000 * added:.1f} ms in total' if added > copy else 'adds nothing measurable to that'
    print(f'A step takes {1000 * step:.1f} ms, the copy of the state {1000 * copy:.1f} ms, and a save {adds}')
    print(f'At an interval of {conf.checkpoint_interval} steps that is '
          f'{max(added, copy) / (conf.checkpoint_interval * step):.3%} of training time\n')
    print(f'{"":12}{"longest step, ms":>18}')
    for side, seconds in longest.items():
        print(f'{side:12}{1000 * statistics.median(seconds):18.1f}')


if __name__ == '__main__':
    with exit_on_error():
        main()
