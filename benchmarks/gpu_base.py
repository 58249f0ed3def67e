"""
BERT-base on the device: tokens per second, share of the peak, memory; beside Hugging Face's, eagerly and compiled, with
packed documents, and what Muon adds.
"""
import functools
import gc
from collections.abc import Sequence
from typing import Any

import torch
from gpu_cards import peak_of
from gpu_configs import build, packed_batches, random_batches, rate, seconds_per_step, shown, train_step
from gpu_part import Missing, Part
from step import HUGGING_FACE, hugging_face, hugging_face_step, synchronize

# Sequences of a batch that are tried, until memory ends
_BATCHES = 32, 64, 128, 256, 512, 1024
_FEW_BATCHES = 2, 4
# The least for the goal of Muon
_MUON_BATCH = 256
# Seconds that a side takes, eagerly and compiled
_EAGER, _COMPILED = 12., 60.


def run(part: Part):
    """Figures by side; each has its batch size."""
    peak = part.peak or (None if part.is_tiny else peak_of(torch.cuda.get_device_name()))
    part.add('peak, TFLOP/s', peak, 'none: an unknown card, give --peak TFLOPS' if peak is None else f'{peak:g}')
    measure = functools.partial(_measure, part, peak)
    largest, found = 0, {}
    for batch_size in _FEW_BATCHES if part.is_tiny else _BATCHES:
        figures = measure(f'ours, batch {batch_size}', 'ours', batch_sizes=[batch_size])
        if figures is None:
            break
        largest, found['ours'] = batch_size, figures
    if not largest:
        part.finish()
        return
    found['ours, compiled'] = measure('ours, compiled', 'ours', batch_sizes=[largest], is_compiled=True)
    for how in ('masked',) if part.is_tiny else ('masked', 'flex'):
        measure(f'ours, packed documents, {how}', 'packed', batch_sizes=[largest, largest // 2], packed_attention=how)
    part.measure("Muon's share", functools.partial(_muon_share, part.device, min(largest, _MUON_BATCH)), seconds=_EAGER,
                 show=lambda figures: f'{figures["share"]:.1%} of a step of {figures["batch"]} sequences, '
                                      f'{figures["ms"]:.1f} ms')
    for is_compiled in (True, False):
        for name in HUGGING_FACE:
            side = name + ', compiled' * is_compiled
            found[side] = measure(side, name, batch_sizes=[largest // n for n in (1, 2, 4)], is_compiled=is_compiled)
    _add_ratios(part, found)
    part.finish()


def _measure(part: Part, peak: float | None, label: str, kind: str, *, batch_sizes: Sequence[int],
             is_compiled: bool = False, **values: Any) -> dict[str, Any] | None:
    """Figures of a side at the first of some batch sizes that fits; `None`, and why, if there are none."""
    def figures() -> dict[str, Any]:
        for batch_size in batch_sizes:
            try:
                seconds, conf = _time(kind, part.device, batch_size=batch_size, is_compiled=is_compiled, **values)
                of_bf16 = peak if conf.precision == torch.bfloat16 or part.is_tiny else None
                memory = None if part.is_tiny else torch.cuda.max_memory_allocated() / 1e9
                return {'batch': batch_size, **rate(conf, seconds, batch_size=batch_size, peak=of_bf16),
                        'precision': str(conf.precision).removeprefix('torch.'), 'memory, GB': memory}
            except torch.OutOfMemoryError:
                print(f'    {label}: memory does not suffice for a batch of {batch_size}', flush=True)
            finally:
                _free(part.device)
        raise Missing(f'memory does not suffice for a batch of {batch_sizes[-1]}')
    return part.measure(label, figures, seconds=_COMPILED if is_compiled else _EAGER, show=shown)


def _time(kind: str, device: str, *, batch_size: int, is_compiled: bool, **values: Any) -> tuple[float, Any]:
    """Seconds per step, and the configs."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    packing = {'packing': 'documents'} if kind == 'packed' else {}
    conf = build('base', device=device, batch_size=batch_size, **packing, **values,
                 compile=is_compiled and kind == 'ours' and device == 'cuda')
    if kind in HUGGING_FACE:
        if not _has_transformers():
            raise Missing('transformers is not installed')
        try:
            theirs = hugging_face(conf, HUGGING_FACE[kind])
        except ImportError as e:
            raise Missing(str(e)) from None
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True)
        step = hugging_face_step(conf, theirs, optimizer, is_compiled=is_compiled)
    else:
        step = train_step(conf)
    make = packed_batches if kind == 'packed' else random_batches
    n, n_warmup, seconds = (2, 1, 0.) if device == 'cpu' else (4, 3, 4.)
    batches = make(conf, n, batch_size=batch_size)
    return seconds_per_step(step, batches, conf.device, n_warmup=n_warmup, seconds=seconds), conf


def _add_ratios(part: Part, found: dict[str, dict[str, Any] | None]):
    """Ours beside the faster of Hugging Face's two under the same setting."""
    for how in ('', ', compiled'):
        theirs = [figures['tokens/s'] for name in HUGGING_FACE if (figures := found.get(name + how))]
        ours = found.get('ours' + how)
        if ours and theirs:
            part.add(f'ratio to the faster one{how}', ours['tokens/s'] / max(theirs),
                     f'{ours["tokens/s"] / max(theirs):.2f}')


def _muon_share(device: str, batch_size: int) -> dict[str, float]:
    """The time of the updates of matrices, as a part of a step."""
    try:
        conf = build('base', device=device, batch_size=batch_size, optimizer='muon')
        batches = random_batches(conf, 2, batch_size=batch_size)
        step = train_step(conf)
        seconds = seconds_per_step(step, batches, conf.device, n_warmup=1, seconds=2. if device == 'cuda' else 0.)
        for p in conf.model.parameters():
            p.grad = torch.zeros_like(p)
        muon = conf.optimizer.parts[0]
        update = seconds_per_step(lambda _: muon.step(), batches, conf.device, n_warmup=2,
                                  seconds=1. if device == 'cuda' else 0.)
        return {'share': update / seconds, 'batch': batch_size, 'ms': 1e3 * update}
    finally:
        _free(device)


def _free(device: str):
    """Gives the memory of a side back."""
    gc.collect()
    torch.compiler.reset()
    if device == 'cuda':
        synchronize(torch.device(device))
        torch.cuda.empty_cache()


@functools.cache
def _has_transformers() -> bool:
    try:
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True
