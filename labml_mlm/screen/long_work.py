"""
# Long work before training

Downloading, reading and tokenizing a text, training a tokenizer: on a terminal, work that takes more than a second gets
a line with a clock, and with a bar if it is known how much of it is done. Elsewhere it is one line that says what is
going on.
"""
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from labml import logger
from labml.internal.experiment import has_experiment
from labml.logger import Text
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text as RichText

from labml_mlm.distributed.process_group import ranks
from labml_mlm.screen.console import is_live, tolerate_errors
from labml_mlm.screen.live_frame import duration
from labml_mlm.screen.live_terminal import LiveTerminal, without_echo

# Seconds of work that nobody needs to be told of
_SHORT = 1.
# Seconds between two looks for a signal
_PATIENCE = 0.2
# Columns from which on there is a bar
_MIN_WIDTH = 60

Result = TypeVar('Result')
# What is going on, the innermost last
_works: list['_Work'] = []


@contextlib.contextmanager
def long_work(name: str) -> Iterator[None]:
    """
    Inside, the work that `name` says, such as `Reading the text`, is shown if it takes long; `progress` says how much
    of it is done. What is inside another one takes its place meanwhile.

    Nothing is shown where nothing is trained, as the output is for others to read then, and at ranks other than the
    main one.
    """
    work = _Work(name)
    _works.append(work)
    shown = _Shown() if len(_works) == 1 and has_experiment() and ranks().is_main else None
    try:
        with shown or contextlib.nullcontext():
            yield
            work.end()
    finally:
        _works.remove(work)


def progress(fraction: float | None):
    """The fraction of the innermost work that is done; `None` if it is not known."""
    if _works:
        _works[-1].fraction = fraction


def interruptible(function: Callable[[], Result]) -> Result:
    """
    The result of a function that may be in the code of a library for long, where Python would handle no signal: it is
    called in another thread, which is left alone if a signal ends the program.
    """
    outcome: list[Result] = []
    errors: list[BaseException] = []

    def call():
        try:
            outcome.append(function())
        except BaseException as e:  # noqa: BLE001  it is raised below
            errors.append(e)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_PATIENCE)
    if errors:
        raise errors[0]
    return outcome[0]


class _Work:
    """What is going on, since when, and how much of it is done."""

    def __init__(self, name: str):
        self.name = name
        self.fraction: float | None = None
        self._began = time.monotonic()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    def end(self):
        """All of it is done."""
        self._ended, self.fraction = time.monotonic(), None if self.fraction is None else 1.


class _Shown:
    """Shows the outermost work and those in it, from when it takes long."""

    def __init__(self):
        self._lock = threading.Lock()
        self._terminal: LiveTerminal | None = None
        self._is_over = False
        self._timer = threading.Timer(_SHORT, self._show)
        self._timer.daemon = True
        self._bar = Progress(TextColumn('{task.description}'), BarColumn(None), TaskProgressColumn(),
                             TextColumn('{task.fields[time]}'), expand=True)
        self._task = self._bar.add_task('', total=1., time='')

    def __enter__(self):
        self._timer.start()

    def __exit__(self, *_):
        self._timer.cancel()
        with self._lock:
            self._is_over = True
        if self._terminal is not None:
            self._terminal.__exit__(None, None, None)

    def _show(self):
        with self._lock, tolerate_errors():
            if self._is_over:
                return
            if is_live():
                self._terminal = LiveTerminal(self._draw).__enter__()
            else:
                logger.log(f'{_works[-1].name} …', Text.meta)

    def _draw(self, width: int, height: int) -> RenderableType:
        return without_echo(self._line, width, height)

    def _line(self, width: int, _height: int) -> RenderableType:
        # Another thread ends them
        works = _works[-1:]
        if not works:
            return Group()
        [work] = works
        if work.fraction is None or width < _MIN_WIDTH:
            done = '' if work.fraction is None else f' {work.fraction:.0%}'
            return RichText(f'{work.name}{done} {duration(work.seconds)}', no_wrap=True, overflow='ellipsis')
        self._bar.update(self._task, completed=work.fraction, description=work.name, time=duration(work.seconds))
        return self._bar.get_renderable()
