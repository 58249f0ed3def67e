import json
import os
import signal
import threading
import time

import pytest

from labml_mlm.sweep.runner import Interrupted, Runner
from labml_mlm.training.signals import SignalHandler


@pytest.fixture
def runner(folder):
    return Runner(script='fast.py', tag='mine')


def calls(folder):
    return [json.loads(line) for line in (folder / 'calls').read_text().splitlines()]


def test_a_run_is_started_with_its_uuid_its_values_and_its_tag(runner, folder):
    outcome = runner.train({'x': 3, 'betas': (0.9, 0.98), 'flag': True, 'y': None}, uuid='feed')
    assert calls(folder) == [['feed', ['x=3', 'betas=0.9,0.98', 'flag=true', 'y=none', '--tags', 'mine']]]
    assert (outcome.uuid, outcome.status, outcome.code, outcome.loss, outcome.accuracy) == \
        ('feed', 'completed', 0, 3.1, 0.5)
    assert outcome.path == str(folder / 'logs/test/feed')


def test_a_run_that_has_begun_goes_on_with_what_changes(runner, folder):
    runner.train({'x': 3}, uuid='feed')
    runner.train({'x': 3, 'max_steps': 20}, uuid='feed')
    assert calls(folder)[1] == ['feed', ['x=3', 'max_steps=20', '--resume', 'feed']]
    runner.resume({'x': 3}, uuid='feed')
    assert calls(folder)[2] == ['feed', ['--resume', 'feed']]


def test_a_failure_is_an_outcome(runner, folder):
    (folder / 'mode-3').write_text('fail')
    outcome = runner.train({'x': 3})
    assert (outcome.status, outcome.code, outcome.loss) == ('crashed', 3, None)
    # One that has not even made a folder
    (folder / 'fast.py').write_text('raise SystemExit(2)')
    outcome = runner.train({'x': 3})
    assert (outcome.status, outcome.code, outcome.path) == ('failed', 2, None)


@pytest.mark.parametrize('number', SignalHandler.signals)
def test_a_signal_ends_the_child_first(runner, folder, capfd, number):
    (folder / 'mode-3').write_text('wait')
    before = signal.getsignal(number)

    def interrupt():
        while not (folder / 'calls').exists() or 'waiting' not in capfd.readouterr().out:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted) as error:
        runner.train({'x': 3}, uuid='feed')
    thread.join()
    assert error.value.number == number and signal.getsignal(number) == before
    # It has got a Ctrl-C, and written its end
    assert runner.outcome('feed', {}).status == ('interrupted' if number == signal.SIGINT else 'killed')


def test_a_project_needs_no_configuration(folder):
    (folder / '.labml.yaml').unlink()
    assert Runner(script='fast.py').train({'x': 1}).loss == pytest.approx(1.1)
