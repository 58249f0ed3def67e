"""
# The progress of training on a terminal

A bar with the time that is left, the metrics, and a plot of the loss stay at the bottom of the terminal. Messages,
samples and a line for each validation scroll above.
"""
import contextlib
import time
from collections.abc import Callable, Iterator

from labml import logger
from labml.internal.monitor import monitor_singleton
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.writers import Writer
from labml.internal.tracker.writers.screen import ScreenWriter
from rich.console import RenderableType

from labml_mlm.screen.console import is_unicode
from labml_mlm.screen.live_frame import Frame, summary
from labml_mlm.screen.live_terminal import LiveTerminal, without_echo
from labml_mlm.screen.progress_view import ProgressView
from labml_mlm.screen.time_left import TimeLeft, Work

_PHASES = {'Train': 'training', 'Valid': 'validation'}
# Seconds between two looks at how far the run is
_INTERVAL = 0.2


class LiveView(ProgressView):
    """
    ## A live view in place of labml's live line

    * `work` says how far the run is
    * `guesses` are the losses of guesses without a model, by name, when the run begins

    labml goes on to keep its own account of loops and sections, but prints nothing of it.
    """

    def __init__(self, work: Callable[[], Work], *, guesses: Callable[[], dict[str, float]] = dict,
                 clock: Callable[[], float] = time.monotonic):
        self._work = work
        self._guesses = guesses
        self._clock = clock
        self._time_left = TimeLeft()
        self._frame = Frame(is_ascii=not is_unicode())
        self._terminal = LiveTerminal(self._draw)
        # How far the run was, the last time that steps were counted, and when that was
        self._counted, self._counted_at = None, 0.
        # The seconds that were left, and when that was
        self._left, self._left_at = None, 0.
        # When it would have begun, if it had not been resumed
        self._began = 0.
        self._is_shown = False
        # When long work began, if there is any now
        self._work_began: float | None = None
        # When training stopped for a validation
        self._stopped: float | None = None

    def epochs(self, first: int, end: int) -> Iterator[int]:
        """The numbers of the epochs from `first` to before `end`, shown as they go by."""
        self._frame.epoch, self._frame.end_epoch, self._frame.guesses = first, end, self._guesses()
        self._counted, self._counted_at = self._work(), self._clock()
        self._began = self._counted_at - self._counted.seconds
        self._frame.steps, self._frame.steps_left = self._counted.steps, self._counted.steps_left
        self._frame.phase = 'first step'
        with _silent_labml(_ViewWriter(self)), self._terminal, self._shown():
            for epoch in super().epochs(first, end):
                self._frame.epoch = epoch
                yield epoch
            self._look()
            self._left = None

    @contextlib.contextmanager
    def phase(self, name: str, *, is_track_time: bool) -> Iterator[None]:
        """Shows a phase of an epoch, `Train` or `Valid`, inside of which `update` is called."""
        is_training = name == 'Train'
        if is_training:
            self._resume()
        if self._frame.phase != 'first step' or not is_training:
            self._frame.phase = _PHASES.get(name, name)
        try:
            with super().phase(name, is_track_time=is_track_time):
                yield
        finally:
            self._frame.phase, self._frame.fraction = '', None
            if is_training:
                self._look()
                self._stopped = self._clock()

    @contextlib.contextmanager
    def work(self, name: str) -> Iterator[None]:
        """Shows long work within a phase, such as `Compiling the model`, with a clock."""
        if not self._is_shown:
            # The speed is measured before training
            with super().work(name):
                yield
            return
        before, self._frame.phase, self._work_began = self._frame.phase, name, self._clock()
        try:
            yield
        finally:
            self._frame.phase, self._frame.phase_seconds, self._work_began = before, None, None

    def update(self, fraction: float):
        """Shows the fraction of the phase, in this epoch, that is done."""
        super().update(fraction)
        if self._frame.phase == _PHASES['Valid']:
            self._frame.fraction = fraction
        elif self._stopped is None:
            self._look_if_due()

    def add(self, values: dict[str, float]):
        """Shows what was tracked."""
        for name, value in values.items():
            self._frame.add(name, value)
        if any(name.endswith('.valid') for name in values):
            self._look()
            logger.log(summary(self._frame.metrics, steps=self._frame.steps, width=self._terminal.width))
        elif self._stopped is None:
            self._look_if_due()

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        self._is_shown = True
        try:
            yield
        finally:
            self._is_shown = False

    def _resume(self):
        """Training begins, or goes on after a validation."""
        now = self._clock()
        if self._stopped is not None:
            self._time_left.validate(now - self._stopped)
        self._stopped, self._counted, self._counted_at = None, self._work(), now

    def _look_if_due(self):
        if self._frame.phase == 'first step' or self._clock() - self._counted_at >= _INTERVAL:
            self._look()

    def _look(self):
        """Finds out how far the run is, and when it will be over."""
        now, work = self._clock(), self._work()
        if self._stopped is None and work.steps > self._counted.steps:
            saving = work.save_seconds - self._counted.save_seconds
            self._time_left.train(work.steps - self._counted.steps, max(0., now - self._counted_at - saving),
                                  length=work.length)
            self._counted, self._counted_at = work, now
            if self._frame.phase == 'first step':
                self._frame.phase = _PHASES['Train']
        since = 0. if self._stopped is None else now - self._stopped
        self._left, self._left_at = self._time_left.estimate(work, since_training=since), now
        self._frame.steps, self._frame.steps_left = work.steps, work.steps_left

    def _draw(self, width: int, height: int) -> RenderableType:
        return without_echo(self._present().draw, width, height)

    def _present(self) -> Frame:
        """The frame, by the clock."""
        now, frame = self._clock(), self._frame
        frame.elapsed = now - self._began
        if (began := self._work_began) is not None:
            frame.phase_seconds = now - began
        frame.left = None if self._left is None else max(0., self._left - (now - self._left_at))
        return frame


class _ViewWriter(Writer):
    """Tells a view what is tracked."""

    def __init__(self, view: LiveView):
        self._view = view

    def write(self, *, global_step: int, indicators: dict):
        """Called by `tracker.save()`."""
        self._view.add({indicator.name: indicator.get_mean() for indicator in indicators.values()
                        if indicator.is_print and not indicator.is_empty()})

    def save_indicators(self, dot_indicators: dict, indicators: dict):
        """Nothing: they are shown by name."""

    def finish(self):
        """Nothing: the view ends by itself."""


@contextlib.contextmanager
def _silent_labml(writer: Writer) -> Iterator[None]:
    """Inside, labml's monitor prints nothing, and `writer` takes the place of what writes metrics to the screen."""
    monitor, tracker = monitor_singleton(), tracker_singleton()
    replaced = [other for other in tracker._Tracker__writers if isinstance(other, ScreenWriter)]
    was_silent = monitor._Monitor__is_silent
    for other in replaced:
        tracker.remove_writer(other)
    tracker.add_writer(writer)
    monitor.silent(True)
    try:
        yield
    finally:
        monitor.silent(was_silent)
        tracker.remove_writer(writer)
        for other in replaced:
            tracker.add_writer(other)
