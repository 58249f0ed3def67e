"""
# When checkpoints are written

Training does not wait for the disk: a save copies the tensors to memory, and a thread does the rest. While the previous
one is still being written, a save that is due by the number of steps waits until the disk is free, and one of a
validation waits in memory, where a later one that is as good replaces it. Training waits for one that is better, and
for the one before the decay of `lr_schedule=wsd`, which comes once. A save that fails is reported once and tried again
the next time.

A model that has diverged must not take the place of a good checkpoint: after a step that was skipped, a save that is
due by the number of steps waits for one that was taken, and weights that are not finite are never saved.
"""
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from labml import logger
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.failures import is_rank_failure
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs.checkpoint import to_minimize
from labml_mlm.runs.checkpoint_folder import CheckpointFolder
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.tokenization.base import tokenizer_files
from labml_mlm.training.skipped_steps import are_finite
from labml_mlm.training.state import capture_state


class Checkpointer:
    """
    ## Saves a run every `interval` steps, at each validation, and before the decay of `lr_schedule=wsd`

    * `folder` is `checkpoints` in labml's run folder; `None` to save nothing, as at all ranks but the main one
    * `interval` is in optimizer steps; `None` for validations only
    * `keep` is how many of the last checkpoints are kept, in addition to the best and the one before the decay
    * `is_sharded`: is the state sharded over ranks? Then all of them must save together

    Set `log` to the run's `MetricsWriter` to have its values on the disk before a checkpoint is complete, and
    `metadata` to what every checkpoint holds besides the state.
    """

    def __init__(self, folder: Path | None, *, interval: int | None, keep: int, is_sharded: bool = False):
        self.folder = folder
        self.is_sharded = is_sharded
        self.interval = interval
        self.keep = keep
        self.log: MetricsWriter | None = None
        self.metadata: dict = {}
        # Why the last save failed, if it did
        self.error: Exception | None = None
        # How many saves training has waited for, and how long
        self.n_saved = 0
        self.seconds = 0.
        # Steps, epochs and rounds of the last state that was handed over
        self._last: tuple | None = None
        self._waiting: dict | None = None
        self._is_writing = False
        self._is_warned = False
        self._is_due = False
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def step(self, c: Any):
        """To be called after each training step of `c`, configs of a run."""
        self._is_due |= bool(self.interval and c.progress.steps % self.interval == 0)
        self._is_due |= c._is_before_decay
        if self._is_due and (self.is_sharded or c._is_before_decay):
            # All ranks save at the same step, when the previous save is no longer in memory
            self.finish()
        # A state to resume from is not urgent: it waits until the disk is free
        if self._is_due and not c.skipped_steps.in_a_row and not self._is_writing and not self._waiting:
            self.save(c)
        self._warn()

    def save(self, c: Any, *, valid: dict | None = None):
        """
        Saves the present state of `c`; `valid` is `loss` and `accuracy` of the validation of this state.
        """
        self._is_due = False
        at = c.progress.steps, c.progress.epoch, c.progress.round
        is_wanted = self.folder is not None and at != self._last
        if not (ranks().broadcast(is_wanted) if self.is_sharded else is_wanted):
            return
        began = time.monotonic()
        # The metrics of the steps so far come before it
        c.step_metrics.finish()
        c.skipped_steps.finish()
        try:
            tensors, state = capture_state(c)
        except Exception as e:  # whatever it is, the run is worth more
            if is_rank_failure(e) or self.is_sharded:
                # The other ranks wait for this one
                raise
            self.error = e
            return
        if self.folder is None:
            return
        if not are_finite(tensors['model']):
            self.error = UserError('weights of the model are not finite')
            return
        self._last = at
        save = {'step': c.progress.tokens, 'tensors': tensors, 'texts': tokenizer_files(c._get_computed('tokenizer')),
                'metadata': {**self.metadata, **state, 'valid': valid, 'before_decay': c._is_before_decay,
                             'time': time.time()},
                'log': self.log.sync() if self.log else None}
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            if self._waiting and _is_kept(self._waiting['metadata'], valid):
                self._changed.wait_for(lambda: not self._waiting)
            self._waiting = save
            self._changed.notify_all()
        self.n_saved += 1
        self.seconds += time.monotonic() - began

    def finish(self):
        """Returns when all saves are on the disk, or have failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing)
        self._warn()

    def close(self):
        """Nothing more is to be saved: the thread ends when it has written what it has."""
        with self._changed:
            thread, self._is_closed = self._thread, self._thread is not None
            self._changed.notify_all()
            is_idle = not self._waiting and not self._is_writing
        if thread is not None and is_idle:
            thread.join()

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    self._thread, self._is_closed = None, False
                    return
                save, self._waiting, self._is_writing = self._waiting, None, True
            try:
                self._write(**save)
                self.error, self._is_warned = None, False
            except Exception as e:
                self.error, self._last = e, None
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _write(self, *, step: int, tensors: dict, texts: dict, metadata: dict, log: Any):
        if log is not None:
            metadata['log_bytes'] = log.result()
        folder = CheckpointFolder(self.folder)
        folder.write(step, tensors=tensors, metadata=metadata, texts=texts)
        # Checkpoints that cannot be removed now are removed by the next save
        with contextlib.suppress(OSError):
            folder.prune(keep=self.keep)

    def _warn(self):
        if self.error is not None and not self._is_warned:
            self._is_warned = True
            logger.log(f'Cannot save a checkpoint: {self.error}. The run continues, and retries later', Text.warning)


def _is_kept(waiting: dict, valid: dict | None) -> bool:
    """
    May a save that waits, with this metadata, not be replaced by one with the figures `valid`? Not if it is from before
    a decay, or may be the best.
    """
    before, now = to_minimize(waiting['valid']), to_minimize(valid)
    return waiting['before_decay'] or before is not None and (now is None or not now <= before)
