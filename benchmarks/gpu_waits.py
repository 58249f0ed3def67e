"""How often ten steps wait for the GPU, and where: by masking and optimizer."""
import collections
import contextlib
import warnings
from pathlib import Path
from typing import Any

import torch
from gpu_configs import build, random_batches, train_step
from gpu_part import Part

N_STEPS = 10
# By name, with what they change. labml_nn's optimizers wait, as they cannot leave out a step on the GPU
SIDES: dict[str, dict[str, Any]] = {
    **{f'{masking}, {optimizer}': {'masking': masking, 'optimizer': optimizer}
       for masking in ('token', 'word', 'span') for optimizer in ('mlm', 'muon')},
    'bf16': {'precision': 'bf16'},
    "labml_nn's Adam, which waits": {'optimizer.optimizer': 'Adam'},
}


def run(part: Part):
    """Figures are the waits of each side in ten steps; all but those of labml_nn's optimizer should be 0."""
    names = list(SIDES)[:3] if part.is_tiny else SIDES
    waiting = [name for name in names if _measure(part, name) and 'waits' not in name]
    if waiting:
        raise RuntimeError(f'steps wait for the GPU with {"; ".join(waiting)}')


def _measure(part: Part, name: str) -> int:
    conf = build('tiny', device=part.device, **SIDES[name])
    # They are waited for on purpose once they are so late, which keeps Python from running ahead
    conf.step_metrics.max_late = conf.skipped_steps.max_late = 2 * N_STEPS
    step, batches = train_step(conf), random_batches(conf, N_STEPS + 1)
    step(batches[0])
    with warnings.catch_warnings(record=True) as caught, _sync_warnings(part.device):
        warnings.simplefilter('always')
        for batch in batches[1:]:
            step(batch)
    places = collections.Counter(f'{Path(warning.filename).name}:{warning.lineno}' for warning in caught
                                 if 'called a synchronizing' in str(warning.message))
    n = sum(places.values())
    where = ', '.join(f'{n} at {place}' for place, n in places.most_common(5))
    part.add(name, {'waits': n, 'where': dict(places)}, f'{n} waits in {N_STEPS} steps' + f': {where}' * bool(where))
    return n


@contextlib.contextmanager
def _sync_warnings(device: str):
    """Inside, torch warns of whatever waits for the GPU; there is none to wait for on the CPU."""
    if device == 'cuda':
        torch.cuda.set_sync_debug_mode('warn')
    try:
        yield
    finally:
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('default')
