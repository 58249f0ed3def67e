"""
# A terminal with something live at its bottom

What is printed meanwhile, to standard output or to standard error, scrolls above it: by labml, by the user's own code
or by a library. Whatever happens, the terminal is left as it was found: the cursor is never hidden, and the last line
is complete.

`rich` draws it. Its own redirection would put another object in place of `sys.stdout`, past which go all that have kept
the old one, as `logging` does, and each frame would be part of the output that labml sends to its app. So it is the
method `write` of the streams that is replaced here, which is what labml does as well.
"""
import contextlib
import functools
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from labml.internal.app.logs import APP_CONSOLE_LOGS
from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.segment import Segment, SegmentLines
from rich.text import Text

from labml_mlm.screen.console import has_colours, tolerate_errors

# Seconds between two frames, and the fraction of the time that they may take
_INTERVAL, _SHARE = 0.1, 0.004
# Columns that `without_echo` leaves
_ECHO = 2


class LiveTerminal:
    """
    ## Shows what `draw(width, height)` returns at the bottom of the terminal, and all output above it

    Inside `with LiveTerminal(draw)`, a thread draws ten times a second, or less often if that would take more than 0.4%
    of the time.
    """

    def __init__(self, draw: Callable[[int, int], RenderableType]):
        self._draw = draw
        # What is printed by different threads, and the frames, come one after the other
        self._lock = threading.RLock()
        # Widths of the lines of the last frame
        self._widths: list[int] = []
        self._above: list[_Above] = []

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._size()[0]

    def __enter__(self) -> 'LiveTerminal':
        self._stream, self._is_over = sys.stdout, threading.Event()
        self._console = Console(file=_Screen(self._stream), force_terminal=True, force_jupyter=False,
                                force_interactive=True, color_system='auto' if has_colours() else None)
        self._console.size = self._size()
        self._live = Live(console=self._console, get_renderable=self._frame, auto_refresh=False,
                          redirect_stdout=False, redirect_stderr=False, vertical_overflow='crop')
        with tolerate_errors():
            self._live.start()
            # It stays visible even if the process is killed or stopped by Ctrl-Z
            self._console.show_cursor(True)
        # stderr may be a file
        self._above = [_Above(self, stream, name) for name, stream in (('stdout', sys.stdout), ('stderr', sys.stderr))
                       if stream.isatty()]
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        with self._lock:
            for above in self._above:
                above.end()
            with tolerate_errors():
                self._resize()
                self._live.stop()

    def print(self, text: str):
        """Shows lines above."""
        with self._lock:
            if self._resize():
                self._live.refresh()
            self._console.print(Text.from_ansi(text), soft_wrap=True)

    def _run(self):
        interval = _INTERVAL
        # A terminal that is gone is nothing to draw on
        with contextlib.suppress(OSError):
            while not self._is_over.wait(interval):
                began = time.thread_time()
                with self._lock, tolerate_errors():
                    if not self._is_over.is_set():
                        self._resize()
                        self._live.refresh()
                interval = max(_INTERVAL, (time.thread_time() - began) / _SHARE)

    def _resize(self) -> bool:
        """
        Follows the size of the terminal. Has it changed? When it becomes narrower, it wraps the lines that it shows.
        """
        before, (width, height) = self._console.size, self._size()
        if width < before.width:
            n_lines = sum(-(-max(n, 1) // width) for n in self._widths)
            self._live._live_render._shape = width, min(n_lines, height)
        self._console.size = width, height
        return (width, height) != before

    def _size(self) -> tuple[int, int]:
        with contextlib.suppress(OSError, ValueError):
            width, height = os.get_terminal_size(self._stream.fileno())
            if width and height:
                return width, height
        return 80, 24

    def _frame(self) -> RenderableType:
        width, height = self._console.size
        lines = [line for above in self._above if above.partial
                 for line in self._render(Text.from_ansi(above.partial, no_wrap=True, overflow='crop'))]
        lines = (lines + self._render(self._draw(width, height)))[-max(1, height - 1):]
        self._widths = [Segment.get_line_length(line) for line in lines]
        return SegmentLines(lines, new_lines=True)

    def _render(self, content: RenderableType) -> list[list[Segment]]:
        return self._console.render_lines(content, self._console.options, pad=False)


def without_echo(draw: Callable[[int, int], RenderableType], width: int, height: int) -> RenderableType:
    """What is drawn in a size, with columns left for the `^C` that a terminal itself shows: a full line would wrap."""
    width = max(1, width - _ECHO)
    return Constrain(draw(width, height), width)


class _Screen(io.TextIOBase):
    """A stream without labml's copy of what is written to it, and without ours."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.write = functools.partial(type(stream).write, stream)

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def flush(self):
        self._stream.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()


class _Above:
    """What is written to a stream while there is a live terminal."""

    def __init__(self, terminal: LiveTerminal, stream: TextIO, name: str):
        self._terminal = terminal
        self._stream = stream
        self._name = name
        self._pid = os.getpid()
        # A line without its end, such as a progress bar of another library
        self.partial = ''
        self._before = vars(stream).get('write')
        stream.write = self._write

    def end(self):
        """The stream is as it was before; its last line is ended."""
        if vars(self._stream).get('write') == self._write:
            del self._stream.write
            if self._before is not None:
                self._stream.write = self._before
        if self.partial.strip():
            with tolerate_errors():
                self._terminal.print(self.partial)
        self.partial = ''

    def _write(self, text: str) -> int:
        if os.getpid() != self._pid:
            # A process that was forked: the lock may be held for ever there
            return type(self._stream).write(self._stream, text)
        APP_CONSOLE_LOGS.outputs(**{f'{self._name}_': text})
        with self._terminal._lock, tolerate_errors():
            *lines, partial = (self.partial + text).split('\n')
            self.partial = _visible(partial)
            if lines:
                self._terminal.print('\n'.join(map(_visible, lines)))
        return len(text)


def _visible(line: str) -> str:
    """What remains of a line after carriage returns."""
    return next((part for part in reversed(line.split('\r')) if part), '')
