"""
# The run on the labml app

`AppUploader` takes the place of labml's `app` writer. A thread sends the app what is added to the run's folder, and
training never waits for it. If the app is slow, broken or cannot be reached, nothing is lost: the rest is sent when it
is back, or by `labml-mlm sync`.
"""
import queue
import threading
import time
import urllib.parse

from labml import logger
from labml.internal.app.logs import APP_CONSOLE_LOGS
from labml.internal.app.url import AppUrlResponseHandler
from labml.internal.lab import lab_singleton
from labml.logger import Text

from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.runs.run import Run
from labml_mlm.tracking.client import is_answering
from labml_mlm.tracking.sync import AppSync

# Of .labml.yaml, for the app that `labml-mlm app` starts
_LINE = 'app_url: http://localhost:5005/api/v1/default'
# Seconds
_PROBE_TIMEOUT = 2.
_INTERVAL = 1.
_RETRY_INTERVAL = 5.
_LAST_ATTEMPTS = 3
# How long the end of a run may wait for the upload
_PATIENCE = 8.
# Characters of output that are kept while the app is away, of each stream
_MAX_OUTPUT = 2 ** 16


class AppUploader:
    """
    The run on the labml app at the `app_url` of the project's `.labml.yaml`; does nothing if there is none.
    """

    def __init__(self):
        self.is_answering = False
        self.thread: _Thread | None = None

    def probe(self):
        """Finds out whether the app answers, and says so if it does not. Takes two seconds at most."""
        configs = lab_singleton().app_configs
        if configs is None:
            logger.log(f'No labml app: to watch runs there, add the line `{_LINE}` to .labml.yaml, and start it by '
                       '`labml-mlm app`', Text.meta)
        else:
            self.is_answering = _answers(configs.url)
            if not self.is_answering:
                logger.log(f'No labml app answers at {_site(configs.url)}: the run continues without it. '
                           '`labml-mlm app` starts one', Text.meta)
        if not self.is_answering:
            discard_captured_output()

    def start(self, run: Run, log: MetricsWriter, *, is_output_sent: bool = True):
        """Uploads the started labml experiment, its configs, its metrics and perhaps its output to the app."""
        if configs := lab_singleton().app_configs:
            if is_output_sent:
                # It is collected, and taken now and then
                APP_CONSOLE_LOGS.set_app_tracker(None, frequency=0)
            else:
                discard_captured_output()
            self.thread = _Thread(run, configs.url, log, open_browser=configs.open_browser)
            self.thread.has_answered = self.is_answering
            self.thread.start()

    def finish(self, status: str, details: str | None):
        """
        Waits until the app has everything, the end of the run included, but for eight seconds at most; says what it
        lacks then, or else where the run is there.
        """
        if self.thread is not None:
            self.thread.end({'status': status, 'details': details, 'time': time.time()})
            self.thread.join(_PATIENCE if self.thread.has_answered or self.is_answering else _PROBE_TIMEOUT)
            discard_captured_output()
            missing = self.thread.missing()
            for message in filter(None, (missing, self.thread.note())):
                logger.log(message, Text.warning)
            if not missing and self.thread.page:
                logger.log(['Its page on the app: ', (self.thread.page, Text.link)])


def discard_captured_output():
    """labml keeps everything printed until an app takes it, in a string that it copies for each line. Stops that."""
    APP_CONSOLE_LOGS.set_app_tracker(_Discard(), frequency=0)


class _Discard:
    """In place of an app tracker: takes what is to be sent, and drops it."""

    def has_data(self, source):
        source.get_data_packet()


class _Thread(threading.Thread):
    """Uploads a run while it trains."""

    def __init__(self, run: Run, url: str, log: MetricsWriter, *, open_browser: bool):
        super().__init__(daemon=True)
        # Has an app answered at all?
        self.has_answered = False
        # Where the app shows the run, if it has said so
        self.page: str | None = None
        self._is_over = threading.Event()
        self._run, self._url, self._log = run, url, log
        self._app: AppSync | None = None
        self._address = AppUrlResponseHandler(open_browser, 'Monitor experiment at ')
        self._output: dict[str, str] = {}
        self._status = {'status': 'in progress', 'time': time.time()}
        # The status with which the app had everything
        self._complete_with: dict | None = None
        self._error: Exception | None = None

    def end(self, status: dict):
        """The run has ended: the rest is to be sent."""
        self._status = status
        self._is_over.set()

    def run(self):
        interval = 0.
        while not self._is_over.wait(interval):
            self._try_to_send()
            interval = _RETRY_INTERVAL if self._error else _INTERVAL
        # An app that never answered is not waited for; one that fails gets another chance or two
        attempts = _LAST_ATTEMPTS if self.has_answered else 1
        while not self._is_complete and attempts:
            self._try_to_send()
            attempts -= 1
            if self._error and attempts:
                time.sleep(1.)

    @property
    def _is_complete(self) -> bool:
        return self._complete_with is self._status

    def missing(self) -> str:
        """A message about what the app lacks once the run is over; empty if it has everything."""
        if self._is_complete:
            return ''
        last_step = self._app.last_step if self._app else None
        lacks = 'the run' if last_step is None else f'the run after step {last_step:,.0f}'
        return (f'Not on the labml app at {_site(self._url)}: {lacks} ('
                f'{self._error or "it does not answer in time"}). To send it: labml-mlm sync {self._run.uuid}')

    def note(self) -> str:
        """A message about what the app does not show as it is in the run; empty if there is nothing."""
        note = self._app.note if self._app else ''
        return note and f'On the labml app at {_site(self._url)}: {note}'

    def _try_to_send(self):
        """Sends everything there is, a part at a time."""
        self._complete_with = None
        try:
            if self._app is None:
                self._app = AppSync(self._run, self._url)
            while not self._is_complete:
                self._send(self._app)
        except Exception as e:  # whatever it is, the run is worth more
            if self._error is None and self.has_answered and not self._is_over.is_set():
                logger.log(f'The labml app at {_site(self._url)} takes no updates now: {e}. '
                           'The run continues, and sends them later', Text.warning)
            self._error = e

    def _send(self, app: AppSync):
        # The end of the run may come meanwhile, after all that it has printed
        status = self._status
        self._take_output()
        answer = app.send(status=status, output=self._output)
        self._output, self._error, self.has_answered = {}, None, True
        # Metrics come to the disk by the minute where nobody watches
        self._log.interval = _INTERVAL
        self._address.handle(answer)
        self.page = answer.get('url', self.page)
        self._complete_with = status if app.is_complete(status=status) else None

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
        answer.put(is_answering(url, timeout=_PROBE_TIMEOUT))

    # In a thread, because the deadline does not cover name look-up
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=_PROBE_TIMEOUT)
    except queue.Empty:
        return False
