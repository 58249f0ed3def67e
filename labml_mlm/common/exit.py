"""One message and an exit code, in place of a traceback."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from labml_mlm.common.errors import UserError

# What a disk says that takes nothing more
_DISK_ERRORS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG


@contextlib.contextmanager
def exits(*, is_user_code: bool = True) -> Iterator[None]:
    """
    Within it, what a person can put right (`UserError`) ends the process with one message and code 2, and what the
    machine cannot do (no space left, nobody reads the output) with code 1. All else keeps its traceback: an `OSError`
    may come from code of the user's own, if there `is_user_code`.
    """
    try:
        yield
    except UserError as e:
        leave(2, str(e))
    except BrokenPipeError:
        # Whoever read the output has gone; Python's own flush at exit would fail again
        drop_output()
        sys.exit(1)
    except OSError as e:
        # Ours have a message of their own and no number
        if is_user_code and e.errno is not None and e.errno not in _DISK_ERRORS:
            raise
        leave(1, said_of(e))


def said_of(error: OSError) -> str:
    """What the system says, and of which file."""
    return f'{error.strerror}: {error.filename}' if error.filename else error.strerror or str(error)


def drop_output():
    """Nothing that is printed from here on goes anywhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(code: int, message: str) -> NoReturn:
    """Ends the process with a message on stderr."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f'\n{message}' if sys.stdout.isatty() else message, file=sys.stderr)
    sys.exit(code)

