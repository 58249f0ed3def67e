"""Ctrl-C and SIGTERM end a run between two steps, where everything is in order."""
import signal
import threading


class Interrupt:
    """
    Within `with Interrupt() as interrupt`, a first signal is kept until `interrupt.check()`, which raises
    `KeyboardInterrupt`; a second one raises it at once. `interrupt.signal` is the signal's number.

    A signal that the parent process ignores (SIGINT under `nohup … &`) stays ignored.
    """
    signals = signal.SIGINT, signal.SIGTERM

    def __init__(self):
        self.signal: int | None = None
        self._handlers: dict = {}

    def __enter__(self) -> 'Interrupt':
        # Python lets only the main thread set handlers
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def check(self):
        """Raises `KeyboardInterrupt` if a signal has come."""
        if self.signal is not None:
            raise KeyboardInterrupt

    def _handle(self, number: int, _frame):
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
