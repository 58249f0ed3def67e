"""
# Where labml needs help

* `MultiHeadAttention.forward` of labml_nn hands its attention weights to `tracker.debug`, for inspection;
  labml 0.5 dropped that function, so every attention of labml_nn fails. Importing this module puts one there that
  discards its value.
* labml's output in notebooks takes `display` from where IPython 9 no longer has it. Importing this module in a notebook
  puts it there.
* labml takes the first file outside its own packages for the experiment, and so finds the project: its
  `.labml.yaml`, `data/` and `logs/`. That would be one of our files, wherever they are installed. `set_project` names
  the file that called us instead, and `logs_of` finds the project of a folder.
* labml writes `indicators.yaml` and `configs.yaml` anew while it trains, and a full disk ends the run then.
  `tolerate_full_disk` has it try again later: both only tell what others tell, too.
* When configs are made, labml merges the defaults of a subclass into the items of its base class, for the rest of the
  process: after the first `MLMTransformerConfigs()`, labml_nn's `TransformerConfigs()` would ask for options that
  it does not have. Configs that subclass `OwnDefaults` leave their base classes as they are.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import labml.internal.lab
from labml import tracker
from labml.configs import BaseConfigs
from labml.internal.configs.config_item import ConfigItem
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.utils import get_caller_file

from labml_mlm.common.errors import UserError


class OwnDefaults(BaseConfigs):
    """Configs whose defaults do not become those of their base classes; to be named before them."""

    def _Configs__collect_config_items(self, classes: list[type]):
        items = [item for c in classes for item in vars(c).values() if isinstance(item, ConfigItem)]
        before = [dict(vars(item)) for item in items]
        super()._Configs__collect_config_items(classes)
        for item, attributes in zip(items, before, strict=True):
            vars(item).update(attributes)


def _debug(name: str, value: Any):
    pass


if not hasattr(tracker, 'debug'):
    tracker.debug = _debug

if 'IPython' in sys.modules:
    import IPython.core.display
    import IPython.display

    if not hasattr(IPython.core.display, 'display'):
        IPython.core.display.display = IPython.display.display


def set_project() -> str:
    """
    Makes the project of the file that called into this package labml's project; returns that file's path.

    Raises `UserError` if its `.labml.yaml` has something that labml does not take.
    """
    ours = {str(path) for path in Path(__file__).parent.parent.rglob('*.py')}
    script = str(Path(get_caller_file(ours)).resolve())
    try:
        if labml.internal.lab._internal is None:
            labml.internal.lab._internal = labml.internal.lab.Lab(Path(script))
        else:
            labml.internal.lab.lab_singleton().set_path(script)
    except RuntimeError as e:
        raise UserError(f'.labml.yaml: {e}') from None
    return script


def tolerate_full_disk(conf: BaseConfigs):
    """From here on, what labml writes of a started experiment on its own may fail, and is tried again."""
    tracker_, processor = tracker_singleton(), experiment_singleton().configs_processor
    save_indicators = tracker_.save_indicators

    def save_and_try_again():
        try:
            save_indicators()
        except OSError:
            tracker_.is_indicators_updated = True

    def show():
        with contextlib.suppress(OSError):
            processor._on_configs_updated()

    tracker_.save_indicators = save_and_try_again
    conf._set_update_callback(show)


@contextlib.contextmanager
def in_project_of(folder: Path) -> Iterator[None]:
    """Within it labml's project, and so its data path, is that of `folder`, if it is in one."""
    before = labml.internal.lab._internal
    try:
        if _is_in_project(folder):
            labml.internal.lab._internal = _lab(folder)
        yield
    finally:
        labml.internal.lab._internal = before


def logs_of(folder: Path) -> Path:
    """
    labml's folder of experiments in the project that `folder` is in.

    Raises `UserError` if it is in none, or if its `.labml.yaml` has something that labml does not take.
    """
    folder = folder.expanduser().resolve()
    if not _is_in_project(folder):
        if (folder / 'logs').is_dir():
            # labml takes the folder of a script for the project then
            return folder / 'logs'
        raise UserError(f'{folder} is in no labml project: there is no .labml.yaml in it or above it')
    return _lab(folder).experiments


def app_url_of(folder: Path, url: str | None = None) -> str:
    """
    Where the labml app takes updates, as labml's clients have it; at `url`, or in the project that `folder` is in.

    Raises `UserError` if there is none.
    """
    try:
        if found := url and labml.internal.lab.get_app_url_for_handle('track', base_url=url):
            return found
    except RuntimeError as e:
        raise UserError(str(e)) from None
    folder = folder.expanduser().resolve()
    configs = _lab(folder).app_configs if _is_in_project(folder) else None
    if configs is None:
        raise UserError('there is no labml app to send to: set app_url in .labml.yaml, or give --url')
    return configs.url


def _is_in_project(folder: Path) -> bool:
    return any((parent / '.labml.yaml').is_file() for parent in (folder, *folder.parents))


def _lab(folder: Path) -> Any:
    try:
        return labml.internal.lab.Lab(folder)
    except RuntimeError as e:
        raise UserError(f'.labml.yaml: {e}') from None

