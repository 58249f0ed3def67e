"""
Ctrl-C, SIGTERM and a closed terminal end a run between two steps, in a consistent state, and before it at once; and so
do SIGUSR1 and SIGUSR2, which batch systems send some time before they kill (SLURM by `--signal=USR1@60`). Ranks whose
torchrun has ended without a word to them, as by `kill -9`, end in the same way.
"""
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from labml import logger
from labml.logger import Text

from labml_mlm.common.exit import SIGNALS, leave_work
from labml_mlm.distributed.failures import is_rank_failure
from labml_mlm.distributed.process_group import ranks

# Seconds in which torchrun forwards a Ctrl-C that the ranks have received from the terminal, too
_FORWARDED = 5.
# Seconds after which a signal is answered, if the run has not ended by then
_ANSWER = 1.


class Stopped(KeyboardInterrupt):
    """Raised between two steps: the state is consistent, and can be saved."""


class SignalHandler:
    """
    Inside `with SignalHandler() as handler`, a signal is held until `handler.check()`, which raises `Stopped`. A Ctrl-C
    after that raises `KeyboardInterrupt` at once; other signals do not, as the end of a session often sends several.
    `handler.signal` is the number of the first. All ranks stop at the same check, whichever got the signal. If that
    takes more than a second, the main rank says so.

    With several ranks, a second Ctrl-C within five seconds is taken for the first one, forwarded by torchrun.

    With torchrun's environment, it counts as SIGTERM if the parent process has gone.

    A signal that the parent process ignores (SIGINT under `nohup … &`) stays ignored.
    """
    signals = SIGNALS

    def __init__(self):
        self.signal: int | None = None
        self._received = 0.
        self._is_at_once = False
        self._answer: threading.Timer | None = None
        self._handlers: dict = {}
        # torchrun's process id, while it is there
        self._launcher: int | None = None

    def __enter__(self) -> 'SignalHandler':
        self.signal = None
        self._launcher = os.getppid() if 'TORCHELASTIC_RUN_ID' in os.environ else None
        # Python lets only the main thread set handlers
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any):
        if self._answer is not None:
            self._answer.cancel()
        if error is not None and ranks().size > 1 and is_rank_failure(error):
            # torchrun ends the other ranks, and this one must report first
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def check(self):
        """Raises `Stopped` if a signal has come."""
        if self._launcher not in (None, os.getppid()):
            self._launcher = None
            self.stop(signal.SIGTERM)
            if ranks().is_main:
                logger.log('torchrun has gone: the run ends', Text.warning)
        if number := ranks().delayed_max(self.signal or 0):
            self.signal = number
            raise Stopped

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, any signal raises `KeyboardInterrupt` at once: for long work, of which nothing is lost."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self._is_at_once = True
        try:
            yield
        except KeyboardInterrupt:
            leave_work()
            raise
        finally:
            self._is_at_once = False

    def stop(self, number: int):
        """Makes the next `check` stop, as if that signal had come."""
        if self.signal is None:
            self.signal, self._received = number, time.monotonic()

    def _handle(self, number: int, _frame):
        is_forwarded = ranks().size > 1 and time.monotonic() - self._received < _FORWARDED
        is_first = self.signal is None
        if not is_first and number == signal.SIGINT and not is_forwarded:
            raise KeyboardInterrupt
        self.stop(number)
        if is_first and self._is_at_once:
            raise KeyboardInterrupt
        if is_first and ranks().is_main:
            self._answer = threading.Timer(_ANSWER, _say_what_is_done)
            self._answer.daemon = True
            self._answer.start()


def _say_what_is_done():
    logger.log('Interrupted: the run ends after the present step. Ctrl-C again ends it at once', Text.warning)
