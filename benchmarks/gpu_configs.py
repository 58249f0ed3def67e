"""Configs and steps for the parts of `gpu.py`."""
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from labml.internal.tracker import tracker_singleton
from step import SIZES, configs, operations_per_token, synchronize
from torch import Tensor

from labml_mlm import MLMConfigs
from labml_mlm.data.batch import Batch

# On the CPU, to test the script
_TINY = {'d_model': 32, 'transformer.n_layers': 2, 'transformer.n_heads': 2, 'batch_size': 4, 'seq_len': 32}
# Seconds that a side is measured, and the most steps
_SECONDS, _MOST_STEPS = 4., 50


def build(size: str, *, device: str, **values: Any) -> MLMConfigs:
    """Our configs of a size of `step.py`, of the smallest one on the CPU, on a text that is long enough."""
    tracker_singleton().reset_writers()
    values = {'text': 'python_topics', 'device': device, 'compile': False, 'checkpoint_interval': None,
              'baselines': None, **(_TINY if device == 'cpu' else {}), **values}
    conf_values = SIZES[size] | values
    n_needed = 3 * conf_values.get('batch_size', 64) * conf_values.get('seq_len', 32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'text.txt'
        path.write_text('the quick brown fox jumps over the lazy dog\n' * (n_needed // 44 + 100))
        return configs(size, **{**values, 'text': 'file', 'text_path': str(path)})


def random_batches(conf: MLMConfigs, n: int, *, batch_size: int | None = None) -> list[Tensor]:
    """Batches of random tokens, `[seq_len, batch_size]`, on the CPU, as a loader gives them."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, conf.n_tokens, (conf.seq_len, batch_size or conf.batch_size), generator=generator)
            for _ in range(n)]


def packed_batches(conf: MLMConfigs, n: int, *, batch_size: int) -> list[Batch]:
    """The same, as documents of `seq_len` / 16 to `seq_len` / 2 tokens each, without padding."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for tokens in random_batches(conf, n, batch_size=batch_size):
        lengths = torch.randint(max(1, conf.seq_len // 16), conf.seq_len // 2, (conf.seq_len, batch_size),
                                generator=generator)
        # Where documents begin; beyond the end is thrown away
        begins = torch.zeros(conf.seq_len + 1, batch_size, dtype=torch.long)
        begins.scatter_(0, lengths.cumsum(dim=0).clamp(max=conf.seq_len), 1)
        document_ids = begins[:-1].cumsum(dim=0) + 1
        result.append(Batch(tokens, torch.zeros_like(tokens, dtype=torch.bool), document_ids))
    return result


def train_step(conf: MLMConfigs) -> Callable[[Any], None]:
    """A step of training as a run takes it: from a batch of a loader to metrics."""
    def step(batch: Any):
        with conf.mode.update(is_train=True):
            conf.step(batch, None)
        conf.skipped_steps.check(conf.max_skipped_steps)
    return step


def seconds_per_step(step: Callable[[Any], None], batches: list[Any], device: torch.device, *, n_warmup: int = 3,
                     seconds: float = _SECONDS) -> float:
    """The mean over as many steps as take some seconds, after others, which may compile."""
    stream = _endless(batches)
    for _ in range(n_warmup):
        step(next(stream))
    one, n = _timed(step, stream, device, 1), 2
    n = max(n, min(_MOST_STEPS, int(seconds / one)))
    return _timed(step, stream, device, n)


def rate(conf: MLMConfigs, seconds: float, *, batch_size: int, peak: float | None) -> dict[str, float | None]:
    """Figures of a step that takes so many seconds."""
    tokens = conf.seq_len * batch_size / seconds
    flops = operations_per_token(conf) * tokens
    return {'ms/step': 1e3 * seconds, 'tokens/s': tokens, 'TFLOP/s': flops / 1e12,
            'of peak': None if peak is None else flops / 1e12 / peak}


def shown(figures: dict[str, Any]) -> str:
    """Those figures as a line."""
    of_peak = '' if figures.get('of peak') is None else f', {figures["of peak"]:.1%} of the peak'
    memory = f', {figures["memory, GB"]:.1f} GB' if figures.get('memory, GB') else ''
    return (f'batch {figures["batch"]}: {figures["ms/step"]:.1f} ms per step, {figures["tokens/s"]:,.0f} tokens/s, '
            f'{figures["TFLOP/s"]:.1f} TFLOP/s{of_peak}{memory}')


def _endless(batches: list[Any]) -> Iterator[Any]:
    while True:
        yield from batches


def _timed(step: Callable[[Any], None], stream: Iterator[Any], device: torch.device, n: int) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(n):
        step(next(stream))
    synchronize(device)
    return (time.perf_counter() - began) / n
