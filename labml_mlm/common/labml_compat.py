"""
# Where labml needs help

* `MultiHeadAttention.forward` of labml_nn calls `tracker.debug`, which labml 0.5 dropped, so every attention of
  labml_nn fails. Importing this module adds a `tracker.debug` that ignores its value.
* labml's notebook output imports `display` from a place where IPython 9 no longer has it. Importing this module in a
  notebook puts it back. labml also takes a kernel for that of PyCharm where the shell's variable `_` is missing, and
  needs `ipywidgets` there; importing this module makes it a notebook like any other where there is none.
* labml rewrites `indicators.yaml` and `configs.yaml` while it trains, and a full disk would end the run.
  `tolerate_full_disk` makes it try again later; both files only repeat what other files have.
* labml keeps the uuid of the computer and the list of its projects in `~/.labml`. `give_home` has them in a temporary
  folder where that cannot be written.
* labml has one tracker. Inside `untracked` there is another one, whose values go nowhere.
* labml has one experiment, project, monitor and logger, and leaves in them what a run has set. Inside `in_own_labml`
  they are a run's own, as in a new process.
"""
import contextlib
import copy
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from labml import tracker
from labml.configs import BaseConfigs
from labml.internal import experiment as labml_experiment
from labml.internal import lab as labml_lab
from labml.internal import logger as labml_logger
from labml.internal import monitor as labml_monitor
from labml.internal import tracker as labml_tracker
from labml.internal.app.logs import APP_CONSOLE_LOGS
from labml.internal.computer import configs as labml_computer
from labml.internal.computer.configs import computer_singleton
from labml.internal.experiment import experiment_singleton
from labml.internal.logger.destinations import factory
from labml.internal.tracker import tracker_singleton

from labml_mlm.common.errors import UserError

# labml's home folders that were made here
_temporary: list[tempfile.TemporaryDirectory] = []


def _debug(name: str, value: Any):
    pass


if not hasattr(tracker, 'debug'):
    tracker.debug = _debug

if 'IPython' in sys.modules:
    import IPython.core.display
    import IPython.display

    if not hasattr(IPython.core.display, 'display'):
        IPython.core.display.display = IPython.display.display
    if importlib.util.find_spec('ipywidgets') is None:
        factory.is_ipynb_pycharm = lambda: False


def tolerate_full_disk(conf: BaseConfigs):
    """From here on, labml's own writes for a started experiment may fail, and are tried again."""
    tracker_, processor = tracker_singleton(), experiment_singleton().configs_processor
    save_indicators = tracker_.save_indicators

    def save_and_try_again(file: PurePath | None = None):
        try:
            save_indicators(file)
        except OSError:
            tracker_.is_indicators_updated = True

    def save_configs():
        with contextlib.suppress(OSError):
            processor._on_configs_updated()

    tracker_.save_indicators = save_and_try_again
    conf._set_update_callback(save_configs)


def give_home() -> str | None:
    """
    Has labml's files of the computer in a temporary folder, up to the end of the process, if there is no home folder
    that can be written. Returns a message that says so, or `None` if there is one.

    Raises `UserError` if there is no temporary folder either.
    """
    try:
        computer = computer_singleton()
        # Also without permissions, and on a disk that is full or read-only. labml lists its other folders
        with tempfile.NamedTemporaryFile(dir=computer.config_folder) as f:
            f.write(b'0')
        return None
    except RuntimeError:
        reason = 'There is no home folder'
    except OSError as e:
        reason = f'{Path.home()} cannot be written ({e.strerror})'
    home = os.environ.get('HOME')
    try:
        # It is removed when Python ends
        _temporary.append(folder := tempfile.TemporaryDirectory(prefix='labml-'))
        os.environ['HOME'] = folder.name
        labml_computer._internal = labml_computer.Computer()
    except OSError as e:
        raise UserError(f'{reason}, nor can a temporary folder ({e.strerror}): set HOME or TMPDIR to one that '
                        'can') from None
    finally:
        os.environ.pop('HOME', None)
        if home is not None:
            os.environ['HOME'] = home
    return f'{reason}: labml takes this for a new computer. To keep its uuid, set HOME to a folder that can be written'


@contextlib.contextmanager
def untracked() -> Iterator[None]:
    """Inside, what is tracked goes nowhere, and steps are counted from 0."""
    before = tracker_singleton()
    labml_tracker._internal = _new_tracker(before)
    labml_tracker._internal.set_global_step(0)
    try:
        yield
    finally:
        labml_tracker._internal = before


@contextlib.contextmanager
def in_own_labml() -> Iterator[None]:
    """
    Inside, labml has no experiment, and a tracker without values and steps; what a person has set in its project and
    its tracker is there. Afterwards all of labml is as before.
    """
    modules = labml_experiment, labml_lab, labml_logger, labml_monitor, labml_tracker
    before = [module._internal for module in modules]
    sent_to = APP_CONSOLE_LOGS.app_tracker, APP_CONSOLE_LOGS.frequency
    labml_experiment._internal = None
    for module in (labml_lab, labml_logger, labml_monitor):
        # What is set in it is set as an attribute
        module._internal = copy.copy(module._internal)
    if labml_monitor._internal is not None:
        labml_monitor._internal.clear()
    labml_tracker._internal = labml_tracker._internal and _new_tracker(labml_tracker._internal)
    try:
        yield
    finally:
        for module, singleton in zip(modules, before, strict=True):
            module._internal = singleton
        APP_CONSOLE_LOGS.app_tracker, APP_CONSOLE_LOGS.frequency = sent_to


def _new_tracker(before: Any) -> Any:
    """A tracker without values, steps and writers; the kinds of indicators are those of another one."""
    new = copy.copy(before)
    new.reset_writers()
    new.indicators, new.dot_indicators, new.namespaces = {}, dict(before.dot_indicators), []
    new._Tracker__indicators_file = new._Tracker__set_looping_indicators = None
    new._Tracker__start_global_step = new._Tracker__global_step = new._Tracker__last_global_step = None
    new._Tracker__loop_counter = 0
    return new
