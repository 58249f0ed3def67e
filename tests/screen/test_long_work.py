"""Long work, on a terminal and in a pipe."""
import threading
import time

import pytest
from support.terminal import shown

from labml_mlm.screen import console, long_work
from labml_mlm.screen.console import PlainDestination
from labml_mlm.screen.long_work import interruptible, progress


@pytest.fixture
def training(monkeypatch):
    """As where something is trained; what takes no time is shown already."""
    monkeypatch.setattr(long_work, 'has_experiment', lambda: True)
    monkeypatch.setattr(long_work, '_SHORT', 0.05)
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [PlainDestination()])


def test_long_work_in_a_pipe_is_one_line(training, capsys):
    with long_work.long_work('Reading the text'):
        time.sleep(0.2)
        progress(0.5)
        time.sleep(0.1)
    with long_work.long_work('Short work'):
        pass
    time.sleep(0.1)
    assert capsys.readouterr().out == 'Reading the text …\n'


def test_nothing_is_shown_where_nothing_is_trained(training, capsys, monkeypatch):
    monkeypatch.setattr(long_work, 'has_experiment', lambda: False)
    with long_work.long_work('Reading the text'):
        time.sleep(0.1)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('columns', [40, 80])
def test_bar_and_clock_on_a_terminal(training, start_terminal, columns):
    terminal = start_terminal(columns)
    with long_work.long_work('Tokenizing the text'):
        terminal.until('Tokenizing the text 0:00')
        progress(0.5)
        terminal.until('50%')
        print('a message')
        with long_work.long_work('Within'):
            terminal.until('Within 0:0')
    lines = shown(terminal)
    # What is left is that it is done
    assert lines[0] == 'a message' and len(lines) == 2
    assert lines[1].startswith('Tokenizing the text ') and '100%' in lines[1] and len(lines[1]) <= columns
    assert not terminal.screen.wrapped


def test_work_that_fails_is_over(training, capsys):
    with pytest.raises(ValueError), long_work.long_work('Reading the text'):
        raise ValueError
    time.sleep(0.1)
    assert capsys.readouterr().out == '' and not long_work._works


def test_interruptible_gives_the_result_or_the_error():
    assert interruptible(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)
