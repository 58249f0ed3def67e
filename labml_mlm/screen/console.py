"""
# labml's screen output where there is no terminal

On a terminal there is a live view (`live_view`). In a pipe or a file, in continuous integration and on a terminal that
cannot move its cursor that would be carriage returns, runs of blanks and colour codes, so there `PlainDestination`
writes whole lines only, and `PlainWriter` a line of metrics now and then.

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

from labml import logger
from labml.internal.experiment import has_experiment
from labml.internal.logger import logger_singleton
from labml.internal.logger.destinations import Destination
from labml.internal.logger.destinations.console import ConsoleDestination
from labml.internal.monitor import monitor_singleton
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.writers import Writer
from labml.internal.util import is_ipynb
from labml.logger import Text

from labml_mlm.common.exit import discard_output

# Columns of a line where there is no terminal
_WIDE = 100
# Set while it trains: called when nobody reads the output any more
on_closed: Callable[[], None] | None = None


@contextlib.contextmanager
def tolerate_errors() -> Iterator[None]:
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
        with tolerate_errors():
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


class TerminalDestination(ConsoleDestination):
    """
    labml's terminal, of any width: a line that will be rewritten fits into one, and no more than what it has is
    cleared. labml itself writes 100 blanks, which a narrow terminal wraps.

    Without `has_colours` it is that for `NO_COLOR` (https://no-color.org).
    """

    def __init__(self, *, has_colours: bool = True):
        super().__init__(True)
        self.has_colours = has_colours
        # Columns of the present line, which has no end yet
        self._n_columns = 0

    def log(self, parts, *, is_new_line: bool, is_reset: bool):
        """Prints `parts`, texts or (text, style) pairs."""
        parts = [(part, None) if isinstance(part, str) else part for part in parts]
        # A section ends the line of the one around it by an empty one
        if is_reset and parts and self._n_columns:
            print('\r' + ' ' * self._n_columns + '\r', end='')
            self._n_columns = 0
        is_whole = is_new_line or any('\n' in text for text, _ in parts)
        if not is_whole:
            parts = _cut(parts, columns() - 1 - self._n_columns)
            self._n_columns += sum(len(text) for text, _ in parts)
        else:
            self._n_columns = 0
        super().log([(text, style if self.has_colours else None) for text, style in parts], is_new_line=is_new_line,
                    is_reset=False)


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
            means = [f'{name}: {number(total / n)}' for name, (total, n) in self._sums.items()]
            with tolerate_errors():
                print(f'{global_step:12,}', *means, sep='  ', flush=True)
            self._sums = {}
            self._last_line = time.monotonic()

    def save_indicators(self, dot_indicators: dict, indicators: dict):
        """Nothing: a line names its indicators."""

    def finish(self):
        """Nothing: each line is complete."""


def is_notebook() -> bool:
    """Does the output go to a notebook?"""
    return is_ipynb()


def is_plain() -> bool:
    """Does the output go elsewhere than to a notebook or a terminal whose lines can be rewritten?"""
    is_in_ci = os.environ.get('CI', '').lower() not in ('', '0', 'false')
    is_dumb = os.environ.get('TERM', '').lower() in ('dumb', 'unknown')
    return not is_notebook() and (not sys.stdout.isatty() or is_dumb or is_in_ci)


def is_live() -> bool:
    """Does the output go to a terminal whose lines can be rewritten?"""
    return not is_notebook() and not is_plain()


def has_colours() -> bool:
    """Does the output go where colours are visible, and wanted?"""
    return not is_plain() and not os.environ.get('NO_COLOR')


def columns() -> int:
    """How many columns a line may have: those of the terminal, or 100 where the output goes elsewhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDE
    return _WIDE


def is_unicode() -> bool:
    """Can the output have characters such as those of a plot?"""
    return (getattr(sys.stdout, 'encoding', None) or '').lower().startswith('utf')


def set_up():
    """Gives labml's logger the destination that suits `sys.stdout`."""
    if is_notebook():
        return
    if hasattr(sys.stdout, 'reconfigure'):
        # A terminal with another encoding must not end the run
        sys.stdout.reconfigure(errors='replace')
    destination = PlainDestination() if is_plain() else TerminalDestination(has_colours=has_colours())
    logger_singleton()._Logger__destinations = [TolerantDestination(destination)]


@contextlib.contextmanager
def in_own_streams() -> Iterator[None]:
    """Afterwards `sys.stdout` treats characters that it does not have as before, and its errors count."""
    global on_closed
    errors = getattr(sys.stdout, 'errors', None)
    try:
        yield
    finally:
        on_closed = None
        if errors is not None and hasattr(sys.stdout, 'reconfigure') and not sys.stdout.closed:
            with contextlib.suppress(OSError):
                sys.stdout.reconfigure(errors=errors)


def silence():
    """labml prints nothing from here on."""
    logger_singleton()._Logger__destinations = []


@contextlib.contextmanager
def silent(*, is_silent: bool = True) -> Iterator[None]:
    """Inside, labml prints nothing."""
    logger, before = logger_singleton(), logger_singleton()._Logger__destinations
    if is_silent:
        silence()
    try:
        yield
    finally:
        logger._Logger__destinations = before


@contextlib.contextmanager
def silent_sections(*, is_silent: bool = True) -> Iterator[None]:
    """Inside, labml prints no lines of its sections: `Prepare …`."""
    monitor = monitor_singleton()
    before = monitor._Monitor__is_silent
    monitor.silent(before or is_silent)
    try:
        yield
    finally:
        monitor.silent(before)


def finish():
    """Training is over: errors of the output count again."""
    global on_closed
    with tolerate_errors():
        sys.stdout.flush()
    on_closed = None


def add_writer():
    """Makes labml's tracker write metrics to the screen; on a terminal labml does so itself."""
    if is_plain():
        tracker_singleton().add_writer(PlainWriter())


def warn(message: str):
    """Prints what a person may want to change in a run; nothing where configs are built for something else."""
    if has_experiment():
        logger.log(message, Text.warning)


def _cut(parts: list[tuple[str, Any]], n_columns: int) -> list[tuple[str, Any]]:
    """As much of texts as fits into so many columns, where a tab is a blank."""
    cut = []
    for text, style in parts:
        cut.append((text.replace('\t', ' ')[:max(0, n_columns)], style))
        n_columns -= len(text)
    return cut


def number(value: float) -> str:
    """A metric in a few characters."""
    if abs(value) >= 1000:
        return f'{value:,.0f}'
    return f'{value:.2e}' if 0 < abs(value) < 0.001 else f'{value:.4f}'
