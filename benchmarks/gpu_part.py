"""A part of `gpu.py`: in a process of its own, which is ended when its time is up."""
import contextlib
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Seconds in which a process ends that is asked to
_GRACE = 3.


class Missing(Exception):
    """Something cannot be measured here, and that is no failure."""


class Part:
    """
    ## What a part measures with, and where its figures go

    * `device` is `cuda` or `cpu`, where sizes are tiny
    * `peak` is that of the card in TFLOP/s, if it was given
    * `seconds` is the time of the part
    * `path` is a file that has a line for each figure
    """

    def __init__(self, *, device: str, peak: float | None, seconds: float, path: Path):
        self.device = device
        self.peak = peak
        self.path = path
        self._end = time.monotonic() + seconds
        self._failed: list[str] = []

    @property
    def is_tiny(self) -> bool:
        """Is this no measurement, but a test of the script?"""
        return self.device != 'cuda'

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def keep(self, name: str, value: Any):
        """Keeps a figure, for JSON, in place of an earlier one of that name."""
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps([name, value]) + '\n')

    def add(self, name: str, value: Any, text: str | None = None):
        """Keeps a figure, and prints it, as `text` or as it is."""
        self.keep(name, value)
        print(f'  {name}: {value if text is None else text}', flush=True)

    def measure(self, name: str, function: Callable[[], dict[str, Any]], *, seconds: float = 0.,
                show: Callable[[dict[str, Any]], str] = str) -> dict[str, Any] | None:
        """
        Keeps the figures that `function` returns, and returns them. If something is `Missing`, no `seconds` are left or
        it fails, the reason is kept; `finish` tells of failures.
        """
        if self.left < seconds and not self.is_tiny:
            self.add(name, f'none: it takes some {seconds:.0f} s, and {max(0., self.left):.0f} are left')
            return None
        try:
            figures = function()
        except Missing as e:
            self.add(name, f'none: {e}')
            return None
        except Exception as e:
            traceback.print_exc()
            self._failed.append(name)
            self.add(name, f'failed: {one_line(e)}')
            return None
        self.add(name, figures, show(figures))
        return figures

    def finish(self):
        """Raises `RuntimeError` if a measurement has failed."""
        if self._failed:
            raise RuntimeError(f'failed: {", ".join(self._failed)}')


def one_line(error: BaseException) -> str:
    """What an error says, shortened."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:500]}'


def run_part(run: Callable[[Part], None], *, device: str, peak: float | None, seconds: float,
             path: Path) -> dict[str, Any]:
    """
    Runs a part in a process of its own, for so many seconds at the most. Returns its `status`, `complete`, `failed` or
    `time is up`, its `error`, the `seconds` that it took and its `figures`.
    """
    path.write_text('')
    began = time.monotonic()
    # Without imports anew; this process never uses a GPU itself
    process = multiprocessing.get_context('fork').Process(target=_child, args=(run, device, peak, seconds, path))
    process.start()
    try:
        process.join(seconds)
    finally:
        # Also after Ctrl-C, which a group of its own does not get
        is_over = process.is_alive()
        if is_over:
            _end(process)
    lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines() if line.endswith(']')]
    figures = dict(lines)
    error = figures.pop('error', None)
    status = 'time is up' if is_over else 'failed' if error or process.exitcode else 'complete'
    if status == 'failed' and error is None:
        error = f'the process ended with {process.exitcode}'
    return {'status': status, 'error': error, 'seconds': round(time.monotonic() - began, 1), 'figures': figures}


def _child(run: Callable[[Part], None], device: str, peak: float | None, seconds: float, path: Path):
    # Its own children end with it
    os.setpgid(0, 0)
    try:
        run(Part(device=device, peak=peak, seconds=seconds, path=path))
    except BaseException as e:
        traceback.print_exc()
        with path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(['error', one_line(e)]) + '\n')
        os._exit(1)


def _end(process: multiprocessing.Process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.join(_GRACE)
        if not process.is_alive():
            return
    # It has no group of its own yet
    process.kill()
    process.join()
