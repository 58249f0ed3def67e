"""Ctrl-C, SIGTERM and a closed terminal end a run between two steps, where everything is in order."""

import signal
import threading
import time
from typing import Any

from labml_mlm.distributed.failures import is_lost
from labml_mlm.distributed.process_group import ranks

# Seconds in which torchrun hands on to the ranks a Ctrl-C that they have had from the terminal, too
_ECHO = 5.


class Stopped(KeyboardInterrupt):
    """Raised between two steps: everything is in order, and can be saved."""


class Interrupt:
    """
    Within `with Interrupt() as interrupt`, a signal is kept until `interrupt.check()`, which raises `Stopped`. Ctrl-C
    after that raises `KeyboardInterrupt` at once; other signals do not, as one end of a session often sends several.
    `interrupt.signal` is the number of the first. Of several ranks all stop at the same check, whichever it came to.

    With several ranks a Ctrl-C within five seconds is taken for the same one, handed on by torchrun.

    A signal that the parent process ignores (SIGINT under `nohup … &`) stays ignored.
    """
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

    def __init__(self):
        self.signal: int | None = None
        self._began = 0.
        self._handlers: dict = {}

    def __enter__(self) -> 'Interrupt':
        self.signal = None
        # Python lets only the main thread set handlers
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any):
        if error is not None and ranks().size > 1 and is_lost(error):
            # torchrun ends all that are left, and this one has something to say before
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def check(self):
        """Raises `Stopped` if a signal has come."""
        if number := ranks().latest(self.signal or 0):
            self.signal = number
            raise Stopped

    def stop(self, number: int):
        """Has the next `check` stop, as if that signal had come."""
        if self.signal is None:
            self.signal, self._began = number, time.monotonic()

    def _handle(self, number: int, _frame):
        is_echo = ranks().size > 1 and time.monotonic() - self._began < _ECHO
        if self.signal is not None and number == signal.SIGINT and not is_echo:
            raise KeyboardInterrupt
        self.stop(number)

