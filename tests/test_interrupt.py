import os
import signal
import threading
import time

import pytest

from labml_mlm.interrupt import Interrupt, Stopped


@pytest.mark.parametrize('number', Interrupt.signals)
def test_a_signal_waits_for_a_check_and_ctrl_c_after_it_does_not(number):
    before = signal.getsignal(number)
    interrupt = Interrupt()
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


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            interrupt.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_handlers_alone():
    seen = []

    def use():
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
