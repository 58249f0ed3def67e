"""One message and an exit code in place of a traceback; and an end by a signal that leaves nothing half written."""
import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

from labml_mlm.common.errors import DivergedError, UserError

# A disk that is full or read-only
_DISK_ERRORS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG

# Those that ask a process to end, by a person or by a batch system
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2

# Is a library still at work in a thread, or would it take Python long to end?
_is_work_left = False


def is_interactive() -> bool:
    """Does the process go on after what it is asked for, as a notebook does, and Python's prompt?"""
    return hasattr(sys, 'ps1') or bool(sys.flags.interactive)


def leave_work():
    """
    From here on, `exit_with` ends the process at once, after what is registered with `atexit`. Python itself would take
    apart all objects first, for seconds where threads of a library are at work or torch's compiler was.

    In a notebook, whose process goes on, nothing changes.
    """
    global _is_work_left
    _is_work_left = not is_interactive()


@contextlib.contextmanager
def exit_on_error(*, is_user_code: bool = True) -> Iterator[None]:
    """
    Exits with one message: code 2 for what a person can fix (`UserError`), code 1 for what the machine cannot do (no
    space left, no memory, closed pipe), and for a run that diverges. All other errors keep their traceback. With
    `is_user_code`, so does an `OSError` or a `MemoryError` that may come from the user's own code.
    """
    try:
        yield
    except UserError as e:
        exit_with(2, str(e))
    except DivergedError as e:
        exit_with(1, str(e))
    except BrokenPipeError:
        # The reader is gone; Python's own flush at exit would fail again
        discard_output()
        sys.exit(1)
    except MemoryError as e:
        if is_user_code:
            raise
        exit_with(1, f'there is not enough memory: {e}' if str(e) else 'there is not enough memory')
    except OSError as e:
        # Ours have a message and no errno
        if is_user_code and e.errno is not None and e.errno not in _DISK_ERRORS:
            raise
        exit_with(1, os_error_text(e))


def os_error_text(error: OSError) -> str:
    """The system's message, with the file."""
    return f'{error.strerror}: {error.filename}' if error.filename else error.strerror or str(error)


def discard_output():
    """From here on, standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_with(code: int, message: str) -> NoReturn:
    """Ends the process with a message on stderr."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f'\n{message}' if sys.stdout.isatty() else message, file=sys.stderr)
    if _is_work_left:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C, `number`, has come where nothing has to be saved."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def interrupted_by_all_signals() -> Iterator[None]:
    """
    Inside, SIGTERM and the like raise `Terminated`, as Ctrl-C raises `KeyboardInterrupt`: what is half written is
    removed on the way out. A second one does nothing, as the end of a session often sends several.
    """
    received: list[int] = []

    def handle(number: int, _frame):
        received.append(number)
        if len(received) == 1:
            raise Terminated(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS[1:]:
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_by(number: int) -> NoReturn:
    """
    Ends the process by this signal, as if nothing had handled it: what waits for the process sees that. What Python
    does at its end is done before: temporary folders are removed.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    atexit._run_exitfuncs()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(f'signal {number} does not end the process')
