"""
# Standard streams that are closed

cron jobs and supervisors may start a process without standard input, output or error. Python's stream is `None` then,
which libraries do not expect, and the next file that is opened gets the free descriptor: what a library prints from C
would go into it.
"""
import os
import sys

_STREAMS = ('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w')


def open_closed_outputs():
    """Opens the null device in place of each standard stream that is closed. To be called before other imports."""
    # All descriptors first: a stream would take the next free one
    for number in range(len(_STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            # Those below are open, so this is the descriptor that is given
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            # Its descriptor may belong to another file by now
            stream = open(os.devnull, mode, encoding='utf-8', errors='replace')  # noqa: SIM115  for the process
            setattr(sys, name, stream)
            setattr(sys, f'__{name}__', stream)
