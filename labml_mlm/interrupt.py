"""Ctrl-C, SIGTERM and a closed terminal end a run between two steps, where everything is in order."""
import signal
import threading
from typing import Any

from labml_mlm.distributed import ranks
from labml_mlm.lost import is_lost


class Stopped(KeyboardInterrupt):
    """Raised between two steps: everything is in order, and can be saved."""


class Interrupt:
    """
    Within `with Interrupt() as interrupt`, a signal is kept until `interrupt.check()`, which raises `Stopped`. Ctrl-C
    after that raises `KeyboardInterrupt` at once; other signals do not, as one end of a session often sends several.
    `interrupt.signal` is the number of the first. Of several ranks all stop at the same check, whichever it came to.

    A signal that the parent process ignores (SIGINT under `nohup … &`) stays ignored.
    """
    signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP

    def __init__(self):
        self.signal: int | None = None
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
        self.signal = self.signal or number

    def _handle(self, number: int, _frame):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop(number)
