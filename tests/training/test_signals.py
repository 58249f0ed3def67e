import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from labml_mlm.training import signals as interrupt_module
from labml_mlm.training.signals import SignalHandler, Stopped


@pytest.mark.parametrize('number', SignalHandler.signals)
def test_a_signal_waits_for_a_check_and_ctrl_c_after_it_does_not(number):
    before = signal.getsignal(number)
    interrupt = SignalHandler()
    # Also a second time, as in a notebook
    for _ in range(2):
        with interrupt:
            interrupt.check()
            os.kill(os.getpid(), number)
            assert interrupt.signal == number
            with pytest.raises(Stopped):
                interrupt.check()
            # What else the end of a session sends
            for more in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), more)
            assert interrupt.signal == number
            with pytest.raises(KeyboardInterrupt) as caught:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            assert not isinstance(caught.value, Stopped)
    assert signal.getsignal(number) == before


def test_torchrun_hands_on_what_came_from_the_terminal(monkeypatch):
    now = 100.
    monkeypatch.setattr(interrupt_module, 'ranks', lambda: SimpleNamespace(size=2, latest=lambda value: value))
    monkeypatch.setattr(interrupt_module, 'time', SimpleNamespace(monotonic=lambda: now))
    with SignalHandler() as interrupt:
        for now in (100., 100.01, 104.9):  # noqa: B007
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            interrupt.check()
        now = 105.1
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert not isinstance(caught.value, Stopped)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with SignalHandler() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            interrupt.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_handlers_alone():
    seen = []

    def use():
        with SignalHandler():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
