"""
# Where labml needs help

* `MultiHeadAttention.forward` of labml_nn calls `tracker.debug`, which labml 0.5 dropped, so every attention of
  labml_nn fails. Importing this module adds a `tracker.debug` that ignores its value.
* labml's notebook output imports `display` from a place where IPython 9 no longer has it. Importing this module in a
  notebook puts it back.
* labml rewrites `indicators.yaml` and `configs.yaml` while it trains, and a full disk would end the run.
  `tolerate_full_disk` makes it try again later; both files only repeat what other files have.
"""
import contextlib
import sys
from typing import Any

from labml import tracker
from labml.configs import BaseConfigs
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton


def _debug(name: str, value: Any):
    pass


if not hasattr(tracker, 'debug'):
    tracker.debug = _debug

if 'IPython' in sys.modules:
    import IPython.core.display
    import IPython.display

    if not hasattr(IPython.core.display, 'display'):
        IPython.core.display.display = IPython.display.display


def tolerate_full_disk(conf: BaseConfigs):
    """From here on, labml's own writes for a started experiment may fail, and are tried again."""
    tracker_, processor = tracker_singleton(), experiment_singleton().configs_processor
    save_indicators = tracker_.save_indicators

    def save_and_try_again():
        try:
            save_indicators()
        except OSError:
            tracker_.is_indicators_updated = True

    def save_configs():
        with contextlib.suppress(OSError):
            processor._on_configs_updated()

    tracker_.save_indicators = save_and_try_again
    conf._set_update_callback(save_configs)
