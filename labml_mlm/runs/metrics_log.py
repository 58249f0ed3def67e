"""
# The metrics of a run: `log.jsonl` in its folder, in the format of labml's `file` writer

labml's writer keeps values for up to a minute, its thread stops with the training loop, and a full disk ends it.
`MetricsWriter` writes the same lines without these faults, and tells when all values so far are on the disk.
"""
import atexit
import contextlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from labml import logger
from labml.internal.tracker.writers import file
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import opener_of_ordinary
from labml_mlm.common.untrusted import is_number
from labml_mlm.runs import log_lines
from labml_mlm.runs.log_lines import Skipped, whole_lines

# Numbers that JSON does not have, by the strings in their place
_NO_JSON = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}
# Steps are integers of 64 bits
_MAX_STEP = 2 ** 63
# Lines at the end that are looked at for the last step
_LAST = 20
# Bytes that are read at once
_BLOCK = 2 ** 20


class MetricsWriter(file.Writer):
    """
    The metrics of all steps as JSON lines, in the format of labml's own `file` writer.

    Lines that cannot be written are kept, and tried again with the next ones.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self.thread = _FileThread(path)
        # Seconds that `finish` waits for the disk; `None` for as long as it takes
        self.patience: float | None = None
        # Seconds between two flushes; `None` for labml's, which grow to a minute
        self.interval: float | None = None
        self._is_warned = False
        # Those that were checked
        self._names: set[str] = set()
        # For what is tracked after labml's experiment has ended
        atexit.register(self.finish)

    @property
    def error(self) -> Exception | None:
        """Why some values are not in the file yet."""
        return self.thread.error if self.thread.waiting else None

    def write(self, *, global_step: int, indicators: dict):
        """Called by `tracker.save()`."""
        for name in indicators:
            if name not in self._names:
                check_metric_name(name)
                self._names.add(name)
        super().write(global_step=global_step, indicators=indicators)
        if self.interval is not None and time.time() - self.last_committed > self.interval:
            self.last_committed = time.time()
            self.flush()
        if self.error and not self._is_warned:
            self._is_warned = True
            logger.log(f'Cannot write {self.file_path}: {self.error}. The run continues, and retries later',
                       Text.warning)

    def sync(self) -> Future:
        """
        A future: the size of the file in bytes, once all values so far are on the disk, or the error that prevents it.
        """
        if self.indicators:
            self.flush()
        size = Future()
        self.thread.push(size)
        self._start()
        return size

    def flush(self):
        """Hands the values so far to the thread that writes."""
        data, self.indicators = self.indicators, {}
        self.thread.push({'packet': {'track': data, 'time': time.time()}})
        self._start()

    def _start(self):
        if not self.is_thread_started:
            self.is_thread_started = True
            self.thread.start()

    def finish(self):
        """Returns when all values so far are in the file, or cannot be written."""
        if self.indicators or self.thread.waiting:
            self.flush()
        if self.is_thread_started:
            written = Future()
            self.thread.push(written.set_result)
            with contextlib.suppress(TimeoutError):
                written.result(self.patience)

    def close(self):
        """No more values come. The thread ends, unless some cannot be written: these are tried again at exit."""
        if not self.thread.waiting:
            atexit.unregister(self.finish)
            self.thread.push(None)
            if self.is_thread_started:
                self.thread.join(self.patience)


class _FileThread(file.FileWriterThread):
    def __init__(self, path: Path):
        super().__init__(path)
        # `MetricsWriter.finish` waits for it
        self.daemon = True
        self.waiting: list[str] = []
        self.error: Exception | None = None

    def run(self):
        while True:
            data = self.queue.get()
            if data is None:
                return
            try:
                if isinstance(data, Future):
                    data.set_result(self._sync())
                elif callable(data):
                    data(None)
                else:
                    self._process(data)
            except Exception as e:
                self.error = e
                if isinstance(data, Future):
                    data.set_exception(e)

    def _sync(self) -> int:
        self._append_waiting()
        with open(self.file_path, 'ab', opener=opener_of_ordinary) as f:
            os.fsync(f.fileno())
            return f.tell()

    def _send(self, data: dict):
        if data['track']:
            self.waiting.append(_line(data))
        self._append_waiting()

    def _append_waiting(self):
        self._append(''.join(self.waiting).encode())
        self.waiting = []

    def _append(self, data: bytes):
        with open(self.file_path, 'ab', buffering=0, opener=opener_of_ordinary) as f:
            size = f.tell()
            try:
                written = f.write(data)
                while written < len(data):
                    written += f.write(data[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    f.truncate(size)  # no partial line
                raise


def _line(data: dict) -> str:
    try:
        return json.dumps(data, allow_nan=False) + '\n'
    except ValueError:
        return json.dumps(_as_json(data), allow_nan=False) + '\n'


def check_metric_name(name: str):
    """Raises `UserError` for a name that would break lines of a table or of a terminal."""
    if not name.isprintable():
        raise UserError(f'{name!r} cannot be the name of a metric: it has control characters')


def truncate(path: Path, n_bytes: int) -> int:
    """
    Cuts a metrics log back to its first `n_bytes`, or to its last whole line if it has fewer. Returns how many bytes
    are missing.
    """
    try:
        with open(path, 'r+b', opener=opener_of_ordinary) as f:
            kept = _end_of_lines(f, min(n_bytes, os.fstat(f.fileno()).st_size))
            f.truncate(kept)
            return n_bytes - kept
    except FileNotFoundError:
        return n_bytes


def _end_of_lines(f: BinaryIO, end: int) -> int:
    """Where the last whole line in the first `end` bytes ends."""
    while end > 0:
        start = max(0, end - _BLOCK)
        f.seek(start)
        if (at := f.read(end - start).rfind(b'\n')) >= 0:
            return start + at + 1
        end = start
    return 0


class Summary(NamedTuple):
    """The figures of a metrics log; `None` where it has none."""
    # labml's global step of the last values
    step: int | None
    # Lowest validation loss, and the accuracy at that step
    loss: float | None
    accuracy: float | None
    # Lines that were skipped, of those that were read
    n_damaged: int = 0


def summarize(path: Path) -> Summary:
    """The figures of a log, also while it is written. Partial lines and damaged ones are left out."""
    last, best, n_damaged = deque(maxlen=_LAST), (None, None), 0
    for line in whole_lines(path):
        if line is None or not line.endswith((b'}\n', b'}\r\n')):
            n_damaged += 1
            continue
        # Much faster than parsing all lines: those with a validation, and the last one that is intact
        last.append(line)
        while sum(map(len, last)) > log_lines.MAX_LINE:
            last.popleft()
        if b'"loss.valid"' in line:
            if (track := parse_line(line)) is None:
                n_damaged += 1
                continue
            accuracies = {step: values[0] for step, values in track.get('accuracy.valid', [])}
            for step, values in track.get('loss.valid', []):
                if values[0] == values[0] and (best[0] is None or values[0] < best[0]):
                    best = values[0], accuracies.get(step)
    for line in reversed(last):
        if track := parse_line(line):
            return Summary(max(pairs[-1][0] for pairs in track.values()), *best, n_damaged)
        n_damaged += track is None and b'"loss.valid"' not in line
    return Summary(None, *best, n_damaged)


def read_curves(path: Path, names: Sequence[str], *, skipped: Skipped | None = None) \
        -> dict[str, list[tuple[int, float]]]:
    """Steps and values of some indicators, also while the log is written. Damaged lines are counted in `skipped`."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    for track in read_tracks(path, skipped):
        for name in names:
            found[name] += [(step, values[0]) for step, values in track.get(name, [])]
    return {name: sorted(curve) for name, curve in found.items()}


def read_values(path: Path, skipped: Skipped | None = None) -> Iterator[tuple[int, str, float]]:
    """
    Step, indicator and value of all that was tracked, in the order of the log, also while it is written. Of several
    values of an indicator at a step, as labml's queues have, it is the mean. Damaged lines are counted in `skipped`.
    """
    for track in read_tracks(path, skipped):
        for name, pairs in track.items():
            for step, values in pairs:
                yield step, name, sum(values) / len(values)


def read_tracks(path: Path, skipped: Skipped | None = None) -> Iterator[dict[str, list[tuple[float, list[float]]]]]:
    """What `parse_line` makes of each line that is whole; `skipped` counts those that are damaged."""
    for line in whole_lines(path):
        track = None if line is None else parse_line(line)
        if track is not None:
            yield track
        elif skipped is not None:
            skipped[path] += 1


def parse_line(line: str | bytes) -> dict[str, list[tuple[float, list[float]]]] | None:
    """
    The steps of each indicator of a line, and one or more values at each; `None` if the line is damaged.

    Numbers that JSON does not have are strings: `"NaN"`, `"Infinity"`, `"-Infinity"`.
    """
    try:
        track = {name: [(_finite(step), [_number(value) for value in values]) for step, values in pairs]
                 for name, pairs in json.loads(line)['track'].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    is_whole = all(pairs and all(values for _, values in pairs) for pairs in track.values())
    return track if is_whole else None


def _number(value: Any) -> float:
    if type(value) in (int, float):
        # An integer that no float can be is damage
        float(value)
        return value
    return _NO_JSON[value]


def _finite(value: Any) -> float:
    if not is_number(value) or abs(value) >= _MAX_STEP:
        raise ValueError(value)
    return value


def _as_json(value: Any) -> Any:
    """The same with strings in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 'NaN' if value != value else 'Infinity' if value > 0 else '-Infinity'
    return value
