"""
# What a run is started from, and how that is left

A script is a command: what is wrong ends the process, with one message and an exit code. In a notebook and at Python's
prompt the process goes on. There the arguments are those of the kernel, and errors are exceptions.

Either way a process may train any number of runs, one after the other. With `in_own_process` each of them is as
if it was alone, and what it changes in labml, in torch and in the process is put back.
"""
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

import torch
from labml import logger
from labml.logger import Text

from labml_mlm.common import labml_compat
from labml_mlm.common.exit import is_interactive
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.items.schema import computed_values
from labml_mlm.screen import console
from labml_mlm.training.signals import SignalHandler
from labml_mlm.training.state import rng_state, set_rng_state

# How to read and write what is the same for all of torch
_SETTINGS = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
)


def is_command() -> bool:
    """Is a script run, with arguments of its own? So is that of `%run script.py …` in a notebook."""
    return not is_interactive() or hasattr(sys.modules['__main__'], '__file__')


def command_line() -> list[str]:
    """The arguments of the script; none where there is no script."""
    return sys.argv[1:] if is_command() else []


def give_home():
    """Says so where labml, which writes to the home folder when a run starts, needs a temporary one."""
    with console.silent():
        message = labml_compat.give_home()
    if message is not None:
        logger.log(message, Text.warning)


@contextlib.contextmanager
def in_own_process() -> Iterator[None]:
    """Inside, it is as if nothing was trained before; afterwards the process is as it was."""
    with labml_compat.in_own_labml(), console.in_own_streams(), _in_own_torch(), _in_own_signals():
        yield


@contextlib.contextmanager
def in_training(conf: MLMConfigs) -> Iterator[None]:
    """Inside, `conf` is trained; afterwards no thread of the run goes on."""
    with conf._in_run():
        try:
            yield
        finally:
            computed = computed_values(conf)
            # Each would wait for more, and keep a copy of the model
            if 'checkpointer' in computed:
                conf.checkpointer.close()
                if conf.checkpointer.log is not None:
                    conf.checkpointer.log.close()
            if 'engine' in computed:
                conf.engine.forget_compiled()


@contextlib.contextmanager
def _in_own_torch() -> Iterator[None]:
    """Afterwards torch's settings, and all global random numbers, are as before."""
    before = [(get, set_to, get()) for get, set_to in _SETTINGS]
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ('enabled', 'benchmark', 'deterministic')}
    rng = rng_state()
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        if device is not None:
            torch.cuda.set_device(device)
        for get, set_to, value in before:
            if get() != value:
                set_to(value)
        for name, value in flags.items():
            setattr(cudnn, name, value)
        set_rng_state(rng)


@contextlib.contextmanager
def _in_own_signals() -> Iterator[None]:
    """Afterwards signals are handled as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SignalHandler.signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # `None` is a handler that is not Python's
            if handler is not None:
                signal.signal(number, handler)
