"""
# The output of a run in a notebook

A cell has one output for each run: messages, and below them the progress of training, which stays when the run is
over. It is HTML that is replaced, twice a second at most, so a saved notebook has the last state alone. Of many
messages the last ones are kept.
"""
import contextlib
import contextvars
import html
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from labml.internal.lab import lab_singleton
from labml.internal.logger import logger_singleton
from labml.internal.logger.destinations import Destination
from labml.internal.logger.destinations.console import ConsoleDestination
from labml.logger import Text

from labml_mlm.notebook.frame import NotebookFrame
from labml_mlm.screen.live_view import LiveView
from labml_mlm.screen.time_left import Work

# Seconds between two updates
_INTERVAL = 0.5
# Lines of messages that are kept, and characters of each
_MAX_LINES, _MAX_LENGTH = 200, 400
_STYLE = 'font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.3'
# Of messages, on light and on dark; labml's own are hard to read on one of them
_STYLES = {Text.title: 'font-weight: bold', Text.value: 'font-weight: bold', Text.highlight: 'font-weight: bold',
           Text.meta: 'opacity: .75', Text.warning: 'color: #c2570c; font-weight: bold',
           Text.success: 'color: #2f9e44; font-weight: bold', Text.danger: 'color: #e03131; font-weight: bold'}
# Columns of a line on a validation
_WIDTH = 100

# That of the run that is trained now
_page: 'Page | None' = None


class Page:
    """
    ## One output of a cell

    `add_line` adds a message; `live` is a function that gives the HTML below them, or `None`. Inside `with page`, a
    thread shows what has changed, by `show(html, display_id, is_update)`.
    """

    def __init__(self, show: Callable[..., Any]):
        self.live: Callable[[], str] | None = None
        self._show = show
        self._id = uuid.uuid4().hex
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._n_lines = 0
        # What is on the page, once there is something
        self._shown: str | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> 'Page':
        # Output belongs to the cell whose context it has
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any):
        self._is_over.set()
        self._thread.join()
        self._update()

    def add_line(self, line: str):
        """Adds a line of HTML."""
        self._lines.append(line)
        self._n_lines += 1

    def html(self) -> str:
        """All of it."""
        lines = list(self._lines)
        if left_out := self._n_lines - len(lines):
            lines.insert(0, f'… {left_out:,} lines before')
        live = self.live
        return f'<div style="{_STYLE}">' + '\n'.join(lines) + '</div>' + (live() if live else '')

    def _run(self):
        while not self._is_over.wait(_INTERVAL):
            self._update()

    def _update(self):
        text = self.html()
        if text != self._shown and (self._n_lines or self.live):
            self._show(text, self._id, self._shown is not None)
            self._shown = text


class NotebookDestination(Destination):
    """
    labml's messages on a page, whole lines only. Lines that would be rewritten later are left out. Files of the project
    are shown by their paths in it: notebooks are passed on.
    """

    def __init__(self, page: Page):
        self._page = page

    def log(self, parts: list, *, is_new_line: bool, is_reset: bool):
        """Adds `parts`, texts or (text, style) pairs, if they are a whole line."""
        pairs = [(_in_project(part), None) if isinstance(part, str) else (_in_project(part[0]), part[1])
                 for part in parts]
        text = ''.join(text for text, _ in pairs)
        if is_new_line and text.strip():
            self._page.add_line(''.join(_styled(text, style) for text, style in pairs))
        elif text.strip() and text.endswith('\n'):
            self._page.add_line(html.escape(text.strip()))


class NotebookView(LiveView):
    """
    ## The progress of training on the page of the run

    * `work` says how far the run is
    * `guesses` are the losses of guesses without a model, by name, when the run begins
    """

    def __init__(self, work: Callable[[], Work], *, guesses: Callable[[], dict[str, float]] = dict,
                 clock: Callable[[], float] = time.monotonic):
        super().__init__(work, guesses=guesses, clock=clock)
        self._frame = NotebookFrame()
        self._terminal = _Place(lambda: self._present().draw(_WIDTH, 0))


class _Place:
    """Where a view is while it trains, as a `LiveTerminal` is: below the messages of the page."""
    width = _WIDTH

    def __init__(self, draw: Callable[[], str]):
        self._draw = draw
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        # Without `train` there is no page
        (_page or self._stack.enter_context(page())).live = self._draw

    def __exit__(self, *_: Any):
        last = self._draw()
        _page.live = lambda: last
        self._stack.close()


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """Inside, labml's messages and the progress of a run are in one output of the cell."""
    global _page
    logger = logger_singleton()
    before = _page, logger._Logger__destinations
    with Page(_display) as _page:
        # The second one is for the app
        logger._Logger__destinations = [NotebookDestination(_page), ConsoleDestination(False)]
        try:
            yield _page
        finally:
            _page, logger._Logger__destinations = before


def _display(text: str, display_id: str, is_update: bool):
    from IPython.display import HTML, display

    display(HTML(text), display_id=display_id, update=is_update)


def _in_project(text: str) -> str:
    project = lab_singleton().path
    return text if project is None else text.replace(f'{project}{os.sep}', '')


def _styled(text: str, style: Any) -> str:
    text = html.escape(text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + '…')
    css = '; '.join(_STYLES[one] for one in (style if isinstance(style, list) else [style]) if one in _STYLES)
    return f'<span style="{css}">{text}</span>' if css else text
