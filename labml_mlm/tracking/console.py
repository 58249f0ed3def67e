"""
# labml's screen output where there is no terminal

On a terminal labml rewrites one live line. In a pipe or a file that would be carriage returns, runs of blanks and
colour codes, so there `PlainDestination` writes whole lines only, and `PlainWriter` a line of metrics now and then.

Training is worth more than what it prints. Once it has begun, a full disk below the output or a closed terminal lose
lines and nothing else, and a reader that exits (`| head`) ends it cleanly.
"""
import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from labml.internal.logger import logger_singleton
from labml.internal.logger.destinations import Destination
from labml.internal.logger.destinations.console import ConsoleDestination
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.writers import Writer
from labml.internal.util import is_ipynb

from labml_mlm.common.exit import discard_output

# Set while it trains: called when nobody reads the output any more
on_closed: Callable[[], None] | None = None


@contextlib.contextmanager
def _tolerate_errors() -> Iterator[None]:
    """Output inside may be lost while it trains."""
    try:
        yield
    except BrokenPipeError:
        if on_closed is None:
            raise
        discard_output()
        on_closed()
    except OSError as e:
        if on_closed is None:
            raise
        if e.errno == errno.EIO:
            # The terminal is gone for good; a full disk may have space again
            discard_output()


class TolerantDestination(Destination):
    """Another destination, whose errors do not end training."""

    def __init__(self, inner: Destination):
        self.inner = inner

    def log(self, *arguments: Any, **options: Any):
        """Logs to `inner`."""
        with _tolerate_errors():
            self.inner.log(*arguments, **options)


class PlainDestination(Destination):
    """Whole lines, without carriage returns and colours. Lines that would be rewritten later are left out."""

    def log(self, parts, *, is_new_line: bool, is_reset: bool):
        """Prints `parts`, texts or (text, style) pairs, if they are a whole line."""
        text = ''.join(part if isinstance(part, str) else part[0] for part in parts)
        if is_new_line and parts:
            print(text, flush=True)
        elif text.strip() and text.endswith('\n'):
            # labml's `Prepare …[DONE]`, indented by nesting
            print(text.strip(), flush=True)


class ColourlessDestination(ConsoleDestination):
    """labml's terminal without colours, for `NO_COLOR` (https://no-color.org)."""

    def log(self, parts, *, is_new_line: bool, is_reset: bool):
        """Prints `parts`, texts or (text, style) pairs, without the styles."""
        texts = [part if isinstance(part, str) else part[0] for part in parts]
        super().log(texts, is_new_line=is_new_line, is_reset=is_reset)


class PlainWriter(Writer):
    """
    A line of metrics every `interval` seconds and at each validation: means since the previous line.
    """

    def __init__(self, interval: float = 30.):
        self.interval = interval
        self._last_line = time.monotonic()
        # Sum and number of values by indicator
        self._sums: dict[str, tuple[float, int]] = {}

    def write(self, *, global_step: int, indicators: dict):
        """Called by `tracker.save()`."""
        is_validated = False
        for indicator in indicators.values():
            if indicator.is_print and not indicator.is_empty():
                total, n = self._sums.get(indicator.name, (0., 0))
                self._sums[indicator.name] = total + indicator.get_mean(), n + 1
                is_validated |= indicator.name.endswith('.valid')
        if is_validated or time.monotonic() - self._last_line >= self.interval:
            means = [f'{name}: {_number(total / n)}' for name, (total, n) in self._sums.items()]
            with _tolerate_errors():
                print(f'{global_step:12,}', *means, sep='  ', flush=True)
            self._sums = {}
            self._last_line = time.monotonic()

    def save_indicators(self, dot_indicators: dict, indicators: dict):
        """Nothing: a line names its indicators."""

    def finish(self):
        """Nothing: each line is complete."""


def is_plain() -> bool:
    """Does the output go elsewhere than to a terminal or a notebook?"""
    return not is_ipynb() and not sys.stdout.isatty()


def has_colours() -> bool:
    """Does the output go where colours are visible, and wanted?"""
    return not is_plain() and not os.environ.get('NO_COLOR')


def set_up():
    """Gives labml's logger the destination that suits `sys.stdout`."""
    if is_ipynb():
        return
    if hasattr(sys.stdout, 'reconfigure'):
        # A terminal with another encoding must not end the run
        sys.stdout.reconfigure(errors='replace')
    destination = ConsoleDestination(True) if has_colours() else ColourlessDestination(True)
    logger_singleton()._Logger__destinations = [TolerantDestination(PlainDestination() if is_plain() else destination)]


def silence():
    """labml prints nothing from here on."""
    logger_singleton()._Logger__destinations = []


def finish():
    """Training is over: errors of the output count again."""
    global on_closed
    with _tolerate_errors():
        sys.stdout.flush()
    on_closed = None


def add_writer():
    """Makes labml's tracker write metrics to the screen; on a terminal labml does so itself."""
    if is_plain():
        tracker_singleton().add_writer(PlainWriter())


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f'{value:,.0f}'
    return f'{value:.2e}' if 0 < abs(value) < 0.001 else f'{value:.4f}'
