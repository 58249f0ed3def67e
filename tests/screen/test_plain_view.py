"""The time that is left, in plain output, by a fake clock."""
import contextlib

import pytest
from labml import monit

from labml_mlm.screen.plain_view import PlainView
from labml_mlm.screen.time_left import Work


class Run:
    """A run of 100 steps, with validations that take no time."""

    def __init__(self):
        self.now, self.steps = 1000., 0

    def work(self):
        return Work(steps=self.steps, seconds=0., length=0, left={0: 100 - self.steps}, is_shorter_faster=False,
                    validations=0, passes=0., saves=0., n_saved=0, save_seconds=0.)


@pytest.mark.parametrize('first, step, said', [(30., 1., ['About 1:29 left']), (0., 4., ['About 6:24 left']),
                                               (0., 0.09, [])])
def test_time_left_is_said_once_when_it_is_known(monkeypatch, first, step, said):
    """After the first step, which compiles, and ten seconds more; a run that is short needs no estimate."""
    run, lines = Run(), []
    view = PlainView(run.work, clock=lambda: run.now)
    monkeypatch.setattr('labml_mlm.screen.plain_view.logger.log', lambda text, style: lines.append(text))
    monkeypatch.setattr(monit, 'progress', lambda fraction: None)
    monkeypatch.setattr(monit, 'section', lambda *_, **__: contextlib.nullcontext())
    with view.phase('Train', is_track_time=False):
        view.update(0.)
        for i in range(100):
            run.now += first if i == 0 else step
            run.steps += 1
            view.update(run.steps / 100)
    assert lines == said
