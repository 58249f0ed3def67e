"""
# The run on the labml app

`App` is labml's `app` writer, but an app that is away holds up neither the run nor its end.
"""
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from labml import logger
from labml.internal.app import AppTracker, _AppTrackThread
from labml.internal.app.experiment import AppExperiment
from labml.internal.app.logs import APP_CONSOLE_LOGS
from labml.internal.experiment import experiment_singleton
from labml.internal.lab import lab_singleton
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.writers import app
from labml.logger import Text

# Seconds
_PROBE_TIMEOUT = 2.
_SEND_TIMEOUT = 10.
_GIVE_UP_AFTER = 60.
_RETRY_INTERVAL = 5.


class App:
    """
    The run on the labml app at the `app_url` of the project's `.labml.yaml`; nothing if there is none, or if it
    does not answer.
    """

    def __init__(self):
        self.is_answering = False
        self.tracker: _Tracker | None = None

    def probe(self):
        """Finds out whether the app answers, and says so if not. Takes two seconds at the most."""
        configs = lab_singleton().app_configs
        if configs is None:
            logger.log('No labml app: set app_url in .labml.yaml to watch runs there', Text.meta)
        elif not _answers(configs.url):
            url = urllib.parse.urlsplit(configs.url)
            logger.log(f'No labml app answers at {url.scheme}://{url.netloc}: the run goes on without it', Text.meta)
        else:
            self.is_answering = True
        forget_output()

    def start(self):
        """Reports the started labml experiment, its configs, metrics and output to the app."""
        if not self.is_answering:
            return
        configs, experiment = lab_singleton().app_configs, experiment_singleton()
        run = experiment.run
        self.tracker = _Tracker(configs.url, {'run_uuid': run.uuid, 'rank': run.distributed_rank,
                                              'main_rank': run.distributed_main_rank,
                                              'world_size': run.distributed_world_size})
        experiment.app_experiment = AppExperiment(self.tracker, frequency=configs.frequency,
                                                  open_browser=configs.open_browser)
        experiment.app_experiment.start(run)
        experiment.configs_processor.add_saver(experiment.app_experiment.get_configs_saver())
        tracker_singleton().add_writer(app.Writer(self.tracker, frequency=configs.frequency))

    def finish(self):
        """Waits for the last update to get through, for ten seconds at the most."""
        if self.tracker is not None:
            self.tracker.thread.join(_SEND_TIMEOUT)


def forget_output():
    """labml keeps all that is printed until an app takes it, in a text that it copies at each line."""
    APP_CONSOLE_LOGS.set_app_tracker(_Discard(), frequency=0)


def _answers(url: str) -> bool:
    answer: queue.Queue = queue.Queue()

    def ask():
        try:
            with urllib.request.urlopen(url, timeout=_PROBE_TIMEOUT):
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


class _Discard:
    """Stands for an app tracker: takes what is to be sent, and forgets it."""

    def has_data(self, source):
        source.get_data_packet()


class _Tracker(AppTracker):
    """labml's `AppTracker`, with a thread that gives up in the end."""

    def __init__(self, url: str, params: dict):
        super().__init__(url, params, timeout_seconds=_SEND_TIMEOUT, daemon=True)
        self.thread = _AppThread(self.app_track_url, timeout_seconds=_SEND_TIMEOUT, daemon=True)
        self.thread.start()

    def _check(self) -> bool:
        # labml's raises in whatever thread comes next when the app has refused an update
        return not self.stopped

    def has_data(self, source):
        if self.stopped or not self.thread.is_alive():
            source.get_data_packet()
        else:
            self.thread.push_data_source(source)


class _AppThread(_AppTrackThread):
    def stop(self):
        self.is_stopped = True

    def run(self):
        while not (self.is_stopped and self.queue.empty()):
            try:
                sources = {self.queue.get(timeout=0.1)}
            except queue.Empty:
                continue
            while not self.queue.empty():
                sources.add(self.queue.get())
            if not self._deliver([source.get_data_packet().data for source in sources]):
                logger.log('The labml app does not take updates any more: the run goes on without it', Text.warning)
                return

    def _deliver(self, data: list[dict]) -> bool:
        """Sends until it succeeds; `False` if that is refused, or after too long a time."""
        began = time.monotonic()
        while True:
            try:
                response = self._send(data)
                for handler in self.handlers:
                    handler.handle(response)
                return True
            except Exception:  # unreachable, refused, or an answer that no labml app gives
                if self.errored or self.is_stopped or time.monotonic() - began > _GIVE_UP_AFTER:
                    return False
                time.sleep(_RETRY_INTERVAL)
