"""The progress of training on the screen, as labml shows it."""
from collections.abc import Iterable
from contextlib import AbstractContextManager

from labml import monit

from labml_mlm.screen.long_work import long_work


class ProgressView:
    """
    ## labml's live line

    All progress of training goes through this object; another one with the same methods can take its place
    (`progress_view`).
    """

    def epochs(self, first: int, end: int) -> Iterable[int]:
        """The numbers of the epochs from `first` to before `end`, shown as they go by."""
        return monit.loop(range(first, end), is_track=False)

    def phase(self, name: str, *, is_track_time: bool) -> AbstractContextManager:
        """Shows a phase of an epoch, `Train` or `Valid`, inside of which `update` is called."""
        return monit.section(name, is_partial=True, is_track=is_track_time)

    def work(self, name: str) -> AbstractContextManager:
        """Shows long work within a phase, such as `Compiling the model`."""
        return long_work(name)

    def update(self, fraction: float):
        """Shows the fraction of the phase, in this epoch, that is done."""
        monit.progress(fraction)
