"""Ctrl-C, SIGTERM and a closed terminal end a run between two steps, in a consistent state."""
import signal
import threading
import time
from typing import Any

from labml_mlm.distributed.failures import is_rank_failure
from labml_mlm.distributed.process_group import ranks

# Seconds in which torchrun forwards a Ctrl-C that the ranks have received from the terminal, too
_FORWARDED = 5.


class Stopped(KeyboardInterrupt):
    """Raised between two steps: the state is consistent, and can be saved."""


class SignalHandler:
    """
    Inside `with SignalHandler() as handler`, a signal is held until `handler.check()`, which raises `Stopped`. A Ctrl-C
    after that raises `KeyboardInterrupt` at once; other signals do not, as the end of a session often sends several.
    `handler.signal` is the number of the first. All ranks stop at the same check, whichever got the signal.

    With several ranks, a second Ctrl-C within five seconds is taken for the first one, forwarded by torchrun.

    A signal that the parent process ignores (SIGINT under `nohup … &`) stays ignored.
    """
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

    def __init__(self):
        self.signal: int | None = None
        self._received = 0.
        self._handlers: dict = {}

    def __enter__(self) -> 'SignalHandler':
        self.signal = None
        # Python lets only the main thread set handlers
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any):
        if error is not None and ranks().size > 1 and is_rank_failure(error):
            # torchrun ends the other ranks, and this one must report first
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def check(self):
        """Raises `Stopped` if a signal has come."""
        if number := ranks().delayed_max(self.signal or 0):
            self.signal = number
            raise Stopped

    def stop(self, number: int):
        """Makes the next `check` stop, as if that signal had come."""
        if self.signal is None:
            self.signal, self._received = number, time.monotonic()

    def _handle(self, number: int, _frame):
        is_forwarded = ranks().size > 1 and time.monotonic() - self._received < _FORWARDED
        if self.signal is not None and number == signal.SIGINT and not is_forwarded:
            raise KeyboardInterrupt
        self.stop(number)
