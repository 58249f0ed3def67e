"""
# The run on the labml app

`App` takes the place of labml's `app` writer. A thread brings the app what comes into the run's folder, and training
never waits for it: what an app that is away, slow or broken does not take stays in the folder, and arrives when the app
is back or by `labml-mlm sync`.
"""

import queue
import threading
import time
import urllib.error
import urllib.parse

from labml import logger
from labml.internal.app.logs import APP_CONSOLE_LOGS
from labml.internal.app.url import AppUrlResponseHandler
from labml.internal.lab import lab_singleton
from labml.logger import Text

from labml_mlm.runs.metrics_log import FileWriter
from labml_mlm.runs.run import Run
from labml_mlm.tracking.sync import Delivery, open_url

# Seconds
_PROBE_TIMEOUT = 2.
_INTERVAL = 1.
_RETRY_INTERVAL = 5.
_LAST_ATTEMPTS = 3
# What the end of a run may take for what is still to be sent
_PATIENCE = 8.
# Characters that are kept of what was printed while the app is away, of each stream
_MAX_OUTPUT = 2 ** 16


class App:
    """
    The run on the labml app at the `app_url` of the project's `.labml.yaml`; nothing if there is none.
    """

    def __init__(self):
        self.is_answering = False
        self.thread: _Thread | None = None

    def probe(self):
        """Finds out whether the app answers, and says so if not. Takes two seconds at the most."""
        configs = lab_singleton().app_configs
        if configs is None:
            logger.log('No labml app: set app_url in .labml.yaml to watch runs there', Text.meta)
        else:
            self.is_answering = _answers(configs.url)
            if not self.is_answering:
                logger.log(f'No labml app answers at {_site(configs.url)}: the run goes on without it. '
                           '`labml-mlm app` starts one', Text.meta)
        if not self.is_answering:
            forget_output()

    def start(self, run: Run, log: FileWriter):
        """Reports the started labml experiment, its configs, metrics and output to the app."""
        if configs := lab_singleton().app_configs:
            # Its output is taken every now and then
            APP_CONSOLE_LOGS.set_app_tracker(None, frequency=0)
            self.thread = _Thread(run, configs.url, log, open_browser=configs.open_browser)
            self.thread.is_known = self.is_answering
            self.thread.start()

    def finish(self, status: str, details: str | None):
        """
        Waits until the app has everything, that the run has ended so included, for eight seconds at the most, and says
        what it has not.
        """
        if self.thread is not None:
            self.thread.end({'status': status, 'details': details, 'time': time.time()})
            self.thread.join(_PATIENCE if self.thread.is_known or self.is_answering else _PROBE_TIMEOUT)
            forget_output()
            if missing := self.thread.missing():
                logger.log(missing, Text.warning)


def forget_output():
    """labml keeps all that is printed until an app takes it, in a text that it copies at each line."""
    APP_CONSOLE_LOGS.set_app_tracker(_Discard(), frequency=0)


class _Discard:
    """Stands for an app tracker: takes what is to be sent, and forgets it."""

    def has_data(self, source):
        source.get_data_packet()


class _Thread(threading.Thread):
    """Delivers a run while it trains."""

    def __init__(self, run: Run, url: str, log: FileWriter, *, open_browser: bool):
        super().__init__(daemon=True)
        # Has an app answered at all?
        self.is_known = False
        self._is_over = threading.Event()
        self._run, self._url, self._log = run, url, log
        self._delivery: Delivery | None = None
        self._address = AppUrlResponseHandler(open_browser, 'Monitor experiment at ')
        self._output: dict[str, str] = {}
        self._status = {'status': 'in progress', 'time': time.time()}
        # The status with which the app had everything
        self._complete_with: dict | None = None
        self._error: Exception | None = None

    def end(self, status: dict):
        """The run has ended: what is left is to be sent."""
        self._status = status
        self._is_over.set()

    def run(self):
        interval = 0.
        while not self._is_over.wait(interval):
            self._try_to_deliver()
            interval = _RETRY_INTERVAL if self._error else _INTERVAL
        # An app that was never there is not waited for; one that fails gets another chance or two
        attempts = _LAST_ATTEMPTS if self.is_known else 1
        while not self._is_complete and attempts:
            self._try_to_deliver()
            attempts -= 1
            if self._error and attempts:
                time.sleep(1.)

    @property
    def _is_complete(self) -> bool:
        return self._complete_with is self._status

    def missing(self) -> str:
        """What the app does not have, once the run is over; nothing if it has everything."""
        if self._is_complete:
            return ''
        last_step = self._delivery.last_step if self._delivery else None
        lacks = 'the run' if last_step is None else f'what the run did after step {last_step:,.0f}'
        return (f'Not on the labml app at {_site(self._url)}: {lacks}, as '
                f'{self._error or "it does not answer in time"}. To send it: labml-mlm sync {self._run.uuid}')

    def _try_to_deliver(self):
        """Sends what there is, some of it at a time."""
        self._complete_with = None
        try:
            if self._delivery is None:
                self._delivery = Delivery(self._run, self._url)
            while not self._is_complete:
                self._send(self._delivery)
        except Exception as e:  # whatever it is, the run is worth more
            if self._error is None and self.is_known and not self._is_over.is_set():
                logger.log(f'The labml app at {_site(self._url)} takes no updates now: {e}. '
                           'The run goes on, and sends them later', Text.warning)
            self._error = e

    def _send(self, delivery: Delivery):
        # The end of the run may come meanwhile, after all that it has printed
        status = self._status
        self._take_output()
        answer = delivery.send(status=status, output=self._output)
        self._output, self._error, self.is_known = {}, None, True
        # Metrics come to the disk by the minute where nobody watches
        self._log.interval = _INTERVAL
        self._address.handle(answer)
        self._complete_with = status if delivery.is_complete(status=status) else None

    def _take_output(self):
        for stream, text in APP_CONSOLE_LOGS.get_data_packet().data.items():
            if isinstance(text, str):
                self._output[stream] = (self._output.get(stream, '') + text)[-_MAX_OUTPUT:]


def _site(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f'{parts.scheme}://{parts.netloc}'


def _answers(url: str) -> bool:
    answer: queue.Queue = queue.Queue()

    def ask():
        try:
            with open_url(url, _PROBE_TIMEOUT):
                answer.put(True)
        except urllib.error.HTTPError:
            # It takes posts only; what matters is that somebody is there
            answer.put(True)
        except Exception:  # not `OSError` alone: what listens may not speak HTTP
            answer.put(False)

    # In a thread, as the time-out does not hold for name look-up
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=_PROBE_TIMEOUT)
    except queue.Empty:
        return False

