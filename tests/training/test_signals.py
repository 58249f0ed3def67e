import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

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


def test_ctrl_c_forwarded_by_torchrun_is_ignored(monkeypatch):
    now = 100.
    monkeypatch.setattr(signals, 'ranks', lambda: SimpleNamespace(size=2, delayed_max=lambda value: value))
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
