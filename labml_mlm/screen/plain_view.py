"""The progress of training where there is no terminal: plain lines, and once how long the run will take."""
import contextlib
import time
from collections.abc import Callable, Iterator

from labml import logger
from labml.logger import Text

from labml_mlm.screen.live_frame import duration
from labml_mlm.screen.progress_view import ProgressView
from labml_mlm.screen.time_left import TimeLeft, Work

# Seconds of training in one go after which its speed is known
_KNOWN = 10.


class PlainView(ProgressView):
    """
    ## labml's progress, and a line with the time that is left as soon as it is known

    * `work` says how far the run is

    The first step is not counted, as it may compile the model.
    """

    def __init__(self, work: Callable[[], Work], *, clock: Callable[[], float] = time.monotonic):
        self._work = work
        self._clock = clock
        self._time_left = TimeLeft()
        self._is_said = self._is_training = False
        # Calls of `update` in the present phase, and how far the run was after the first step of it, and when
        self._n_updates, self._first, self._began = 0, None, 0.

    @contextlib.contextmanager
    def phase(self, name: str, *, is_track_time: bool) -> Iterator[None]:
        """A phase of an epoch, `Train` or `Valid`, inside of which `update` is called."""
        self._is_training, self._n_updates = name == 'Train', 0
        with super().phase(name, is_track_time=is_track_time):
            yield

    def update(self, fraction: float):
        """The fraction of the phase, in this epoch, that is done: 0 at its beginning, and then after each step."""
        super().update(fraction)
        if self._is_said or not self._is_training:
            return
        self._n_updates += 1
        if self._n_updates == 2:
            self._first, self._began = self._work(), self._clock()
        elif self._n_updates > 2 and self._clock() - self._began >= _KNOWN:
            self._say()

    def _say(self):
        now, work = self._clock(), self._work()
        for n, seconds in ((self._first.steps, 0.), (work.steps - self._first.steps, now - self._began)):
            self._time_left.train(n, seconds, length=work.length)
        left = self._time_left.estimate(work)
        if left is not None:
            self._is_said = True
            logger.log(f'About {duration(left)} left', Text.meta)
