"""
# Names that labml_nn calls and labml 0.5 dropped

`MultiHeadAttention.forward` of labml_nn hands its attention weights to `tracker.debug`, for inspection; labml 0.5 has
no such function, so every attention of labml_nn fails. Importing this module puts one there that discards its value.
"""
from typing import Any

from labml import tracker


def _debug(name: str, value: Any):
    pass


if not hasattr(tracker, 'debug'):
    tracker.debug = _debug
