"""
# Where labml needs help

* `MultiHeadAttention.forward` of labml_nn hands its attention weights to `tracker.debug`, for inspection;
  labml 0.5 dropped that function, so every attention of labml_nn fails. Importing this module puts one there that
  discards its value.
* labml takes the first file outside its own packages for the experiment, and so finds the project: its
  `.labml.yaml`, `data/` and `logs/`. That would be one of our files, wherever they are installed. `set_project` names
  the file that called us instead.
"""
from pathlib import Path
from typing import Any

import labml.internal.lab
from labml import tracker
from labml.utils import get_caller_file


def _debug(name: str, value: Any):
    pass


if not hasattr(tracker, 'debug'):
    tracker.debug = _debug


def set_project() -> str:
    """Makes the project of the file that called into this package labml's project; returns that file's path."""
    ours = {str(path) for path in Path(__file__).parent.rglob('*.py')}
    script = str(Path(get_caller_file(ours)).resolve())
    if labml.internal.lab._internal is None:
        labml.internal.lab._internal = labml.internal.lab.Lab(Path(script))
    else:
        labml.internal.lab.lab_singleton().set_path(script)
    return script
