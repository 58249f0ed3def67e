"""
# What checkpoints cost

    python benchmarks/checkpoint.py [--rounds 7] [--steps 40] [name=value ...]

In some two minutes, two figures, on the default model (or that of the overrides) and `python_topics`:

* the share of training time at the default interval: rounds of steps with one save in them take turns with rounds
  without, and what a save adds is spread over `checkpoint_interval` steps;
* how long a step waits for a save: for the copy to memory alone, whatever the disk does. Each `fsync` of the slow side
  takes 0.3 seconds more, as on a disk that is busy.
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
from labml_mlm.configs.overrides import parse_overrides
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.tracking import console as screen
from labml_mlm.training.checkpointer import Checkpointer
from labml_mlm.training.state import capture_state


def steps(conf: MLMConfigs, saver: Checkpointer | None, n: int) -> list[float]:
    """Seconds of each of `n` training steps; the second one saves."""
    seconds = []
    with conf.mode.update(is_train=True), tracker.namespace('train'):
        for i, batch in zip(range(n), conf.train_loader, strict=False):
            began = time.perf_counter()
            conf.step(batch, None)
            conf.progress.end_step(conf.train_loader)
            if saver is not None and i == 1:
                saver.save(conf)
            seconds.append(time.perf_counter() - began)
    return seconds


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=40, help='steps in a round')
    arguments, values = parser.parse_known_args()

    screen.set_up()
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', **parse_overrides(conf, values)})
    conf.init()
    n_parameters = sum(p.numel() for p in conf.model.parameters())
    fsync = os.fsync

    def slow_fsync(handle: int):
        time.sleep(0.3)
        fsync(handle)

    # By side: seconds a step, and seconds of the longest step of each round
    mean, longest, copies = ({name: [] for name in ('none', 'a save', 'slow disk')} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        log = MetricsWriter(Path(folder) / 'log.jsonl')
        tracker_singleton().reset_writers()
        tracker_singleton().add_writer(log)
        saver = Checkpointer(Path(folder) / 'checkpoints', interval=None, keep=2)
        saver.log = log
        for round_index in range(-1, arguments.rounds):
            for name in mean:
                os.fsync = slow_fsync if name == 'slow disk' else fsync
                seconds = steps(conf, None if name == 'none' else saver, arguments.steps)
                saver.finish()
                os.fsync = fsync
                began = time.perf_counter()
                capture_state(conf)
                # The round before the first one warms up
                if round_index >= 0:
                    mean[name].append(statistics.mean(seconds))
                    longest[name].append(max(seconds))
                    copies[name].append(time.perf_counter() - began)
        assert saver.error is None, saver.error
        n_bytes = sum(path.stat().st_size for path in Path(folder).glob('checkpoints/*/*')) / 2

    step = statistics.median(mean['none'])
    added = statistics.median(a - b for a, b in zip(mean['a save'], mean['none'], strict=True)) * arguments.steps
    copy = statistics.median(copies['none'])
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
          f'{torch.get_num_threads()} threads, {conf.device}')
    print(f'{n_parameters / 1e6:.1f} million parameters, {n_bytes / 1e6:.1f} MB a checkpoint; '
          f'{arguments.rounds} rounds of {arguments.steps} steps, medians\n')
    # Less than nothing is noise
    adds = f'adds {1000 * added:.1f} ms in all' if added > copy else 'adds nothing to that which can be measured'
    print(f'A step takes {1000 * step:.1f} ms, the copy of the state {1000 * copy:.1f} ms, and a save {adds}')
    print(f'At an interval of {conf.checkpoint_interval} steps that is '
          f'{max(added, copy) / (conf.checkpoint_interval * step):.3%} of training time\n')
    print(f'{"":12}{"longest step, ms":>18}')
    for name, seconds in longest.items():
        print(f'{name:12}{1000 * statistics.median(seconds):18.1f}')


if __name__ == '__main__':
    with exit_on_error():
        main()
