"""
# labml's screen output where there is no terminal

On a terminal labml rewrites one live line. In a pipe or a file that would be carriage returns, runs of blanks
and colour codes, so there `PlainDestination` writes whole lines only, and `PlainWriter` a line of metrics now and then.

Training is worth more than what it prints: once it has begun, a full disk below the output or a terminal that is gone
lose lines and nothing else, and a reader that is gone (`| head`) ends it in good order.
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

from labml_mlm.common.exit import drop_output

# Set while it trains: what to do when nobody reads the output any more
on_gone: Callable[[], None] | None = None


@contextlib.contextmanager
def _lossy() -> Iterator[None]:
    """What is printed within may get lost while it trains."""
    try:
        yield
    except BrokenPipeError:
        if on_gone is None:
            raise
        drop_output()
        on_gone()
    except OSError as e:
        if on_gone is None:
            raise
        if e.errno == errno.EIO:
            # The terminal is gone for good; a full disk may have space again
            drop_output()


class LossyDestination(Destination):
    """Another destination, whose failures end no training."""

    def __init__(self, inner: Destination):
        self.inner = inner

    def log(self, *arguments: Any, **options: Any):
        """What `inner` does."""
        with _lossy():
            self.inner.log(*arguments, **options)


class PlainDestination(Destination):
    """Whole lines, without carriage returns and colours; what would be rewritten later is left out."""

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
    A line of metrics every `interval` seconds and at each validation: means since the line before.
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
            with _lossy():
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
    """Does the output go where colours are seen, and wanted?"""
    return not is_plain() and not os.environ.get('NO_COLOR')


def set_up():
    """Gives labml's logger the destination that suits `sys.stdout`."""
    if is_ipynb():
        return
    if hasattr(sys.stdout, 'reconfigure'):
        # A text in a terminal of another encoding is no reason to stop
        sys.stdout.reconfigure(errors='replace')
    destination = ConsoleDestination(True) if has_colours() else ColourlessDestination(True)
    logger_singleton()._Logger__destinations = [LossyDestination(PlainDestination() if is_plain() else destination)]


def silence():
    """What labml prints goes nowhere."""
    logger_singleton()._Logger__destinations = []


def finish():
    """Training is over."""
    global on_gone
    with _lossy():
        sys.stdout.flush()
    on_gone = None


def add_writer():
    """Lets labml's tracker write metrics to the screen; on a terminal labml has done so itself."""
    if is_plain():
        tracker_singleton().add_writer(PlainWriter())


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f'{value:,.0f}'
    return f'{value:.2e}' if 0 < abs(value) < 0.001 else f'{value:.4f}'

