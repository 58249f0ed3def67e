"""Is torch's compiler there, and is it worth its time?"""
import importlib.util
import os
import shutil

import torch

from labml_mlm.model.transformer import TransformerMLM

# Devices that it is for; that for Macs is a prototype
COMPILED = 'cpu', 'cuda'
# It needs one of these on a CPU, and Triton one of those on a GPU
_COMPILERS = {'cpu': ('g++', 'c++', 'clang++'), 'cuda': ('gcc', 'cc', 'clang')}
_VARIABLES = {'cpu': 'CXX', 'cuda': 'CC'}
# Operations per second that these models reach without a compiler
_CPU_SPEED = 5e10
_GPU_SPEED = 5e13
# Compilation pays from so many seconds of training on
_WORTH_COMPILING = 300.


def missing_compiler(device: torch.device) -> str | None:
    """What torch's compiler lacks for one of its devices, in words; `None` if nothing."""
    if device.type == 'cuda' and importlib.util.find_spec('triton') is None:
        return "there is no package `triton` here, which torch's compiler needs on a GPU"
    names = _COMPILERS[device.type]
    if not any(map(shutil.which, (os.environ.get(_VARIABLES[device.type], ''), *names))):
        return f'there is no compiler here, none of {", ".join(names)}'
    return None


def should_compile(model: TransformerMLM, *, n_tokens: int = 0, seconds: float | None = None) -> bool:
    """
    Does compilation save more time than it takes, in a run of so many tokens, or of so many seconds? An estimate from
    the size of the model and the kind of device, not from a clock, so that a resumed run is compiled as it was before.
    """
    device = next(model.parameters()).device
    if device.type not in COMPILED or missing_compiler(device) is not None:
        return False
    if seconds is not None:
        return seconds > _WORTH_COMPILING
    # Forward and backward take 6 operations per weight and token; embeddings are look-ups
    n_weights = sum(weight.numel() for weight in model.encoder.parameters())
    speed = _CPU_SPEED * torch.get_num_threads() if device.type == 'cpu' else _GPU_SPEED
    return 6 * n_weights * n_tokens / speed > _WORTH_COMPILING
