import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from labml.internal.logger import logger_singleton

from labml_mlm.common import exit as exits
from labml_mlm.common.exit import Terminated, interrupted_by_all_signals
from labml_mlm.screen.console import PlainDestination
from labml_mlm.training import signals
from labml_mlm.training.signals import SignalHandler, Stopped


@pytest.mark.parametrize('number', SignalHandler.signals)
def test_signal_waits_for_check_and_a_later_ctrl_c_does_not(number):
    before = signal.getsignal(number)
    handler = SignalHandler()
    # Also a second time, as in a notebook
    for _ in range(2):
        with handler:
            handler.check()
            os.kill(os.getpid(), number)
            assert handler.signal == number
            with pytest.raises(Stopped):
                handler.check()
            # The end of a session often sends several
            for more in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), more)
            assert handler.signal == number
            with pytest.raises(KeyboardInterrupt) as caught:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            assert not isinstance(caught.value, Stopped)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize('is_torchrun', [False, True])
def test_launcher_that_has_gone_counts_as_sigterm(monkeypatch, is_torchrun):
    if is_torchrun:
        monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    else:
        monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    with SignalHandler() as handler:
        handler.check()
        monkeypatch.setattr(os, 'getppid', lambda: 1)
        if is_torchrun:
            with pytest.raises(Stopped):
                handler.check()
            assert handler.signal == signal.SIGTERM
        else:
            handler.check()


def test_ctrl_c_forwarded_by_torchrun_is_ignored(monkeypatch):
    now = 100.
    monkeypatch.setattr(signals, 'ranks', lambda: SimpleNamespace(size=2, is_main=False,
                                                                 delayed_max=lambda value: value))
    monkeypatch.setattr(signals, 'time', SimpleNamespace(monotonic=lambda: now))
    with SignalHandler() as handler:
        for now in (100., 100.01, 104.9):  # noqa: B007
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            handler.check()
        now = 105.1
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert not isinstance(caught.value, Stopped)


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with SignalHandler() as handler:
            os.kill(os.getpid(), signal.SIGINT)
            handler.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_set_no_handlers():
    seen = []

    def use():
        with SignalHandler():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize('number', SignalHandler.signals)
@pytest.mark.parametrize('is_before', [False, True])
def test_work_that_loses_nothing_ends_at_once(monkeypatch, number, is_before):
    monkeypatch.setattr(exits, '_is_work_left', False)
    with SignalHandler() as handler:
        if is_before:
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt) as caught, handler.at_once():
            assert not is_before
            os.kill(os.getpid(), number)
            time.sleep(1)
        assert handler.signal == number and not isinstance(caught.value, Stopped)
        # Only inside
        os.kill(os.getpid(), signal.SIGTERM)
    # What is left of it is not waited for, if it had begun
    assert exits._is_work_left != is_before


def test_signal_is_answered_if_the_step_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(signals, '_ANSWER', 0.05)
    monkeypatch.setattr(logger_singleton(), '_Logger__destinations', [PlainDestination()])
    for seconds in (0., 0.3):
        with SignalHandler():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(seconds)
        time.sleep(0.1)
        said = capsys.readouterr().out
        assert said == ('Interrupted: the run ends after the present step. Ctrl-C again ends it at once\n'
                        if seconds else '')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_all_signals_interrupt_where_nothing_is_trained(number):
    before = signal.getsignal(number)
    cleaned = []
    with pytest.raises(Terminated) as caught, interrupted_by_all_signals():
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        finally:
            # Another one does not disturb
            os.kill(os.getpid(), number)
            cleaned.append(number)
    assert caught.value.number == number and cleaned == [number]
    assert signal.getsignal(number) == before
