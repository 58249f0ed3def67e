"""
# When checkpoints are written, and that training does not wait for it

A save copies the tensors to memory; a thread does the rest. While a slow disk still takes the last one, one that is due
by the number of steps waits for the disk, and one of a validation waits in memory, where a later one takes its place. A
save that fails is said once and tried again at the next occasion.
"""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from labml import logger
from labml.logger import Text

from labml_mlm.distributed.failures import is_lost
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs import checkpoint
from labml_mlm.runs.metrics_log import FileWriter
from labml_mlm.tokenization.base import files_of
from labml_mlm.training.state import capture


class Saver:
    """
    ## Saves a run at every `interval` steps and at each validation

    * `folder` is `checkpoints` in labml's run folder; without one nothing is saved, as at all ranks but the main one
    * `interval` is in optimizer steps; `None` for validations only
    * `keep` is how many of the last checkpoints stay, beside the best
    * `is_sharded`: do ranks have slices of the state? Then all of them have to save together

    Set `log` to the run's `FileWriter` to have its values on the disk before a checkpoint is complete, and `about` to
    what else each checkpoint tells.
    """

    def __init__(self, folder: Path | None, *, interval: int | None, keep: int, is_sharded: bool = False):
        self.folder = folder
        self.is_sharded = is_sharded
        self.interval = interval
        self.keep = keep
        self.log: FileWriter | None = None
        self.about: dict = {}
        # Why the last save failed, if it did
        self.error: Exception | None = None
        # Steps, epochs and rounds of the last state that was handed over
        self._last: tuple | None = None
        self._waiting: dict | None = None
        self._is_writing = False
        self._is_warned = False
        self._is_due = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def step(self, c: Any):
        """After each training step of `c`, configs of a run."""
        self._is_due |= bool(self.interval and c.progress.steps % self.interval == 0)
        if self._is_due and self.is_sharded:
            # All ranks give what they have, at the same step, and the one before is no longer in memory
            self.finish()
        # A state to go on from is not urgent: it waits until the disk is free
        if self._is_due and not self._is_writing and not self._waiting:
            self.save(c)
        self._warn()

    def save(self, c: Any, *, valid: dict | None = None):
        """
        Saves the state of `c` as it is now; `valid` is `loss` and `accuracy` of the validation at this state.
        """
        self._is_due = False
        at = c.progress.steps, c.progress.epoch, c.progress.round
        is_wanted = self.folder is not None and at != self._last
        if not (ranks().of_main(is_wanted) if self.is_sharded else is_wanted):
            return
        # What the steps so far have given comes before it
        c.step_metrics.finish()
        try:
            tensors, document = capture(c)
        except Exception as e:  # whatever it is, the run is worth more
            if is_lost(e) or self.is_sharded:
                # The others wait for this rank
                raise
            self.error = e
            return
        if self.folder is None:
            return
        self._last = at
        save = {'step': c.progress.tokens, 'tensors': tensors, 'texts': files_of(c._get_computed('tokenizer')),
                'document': {**self.about, **document, 'valid': valid, 'time': time.time()},
                'log': self.log.mark() if self.log else None}
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._waiting = save
            self._changed.notify_all()

    def finish(self):
        """Returns when all that was to be saved is on the disk, or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing)
        self._warn()

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                save, self._waiting, self._is_writing = self._waiting, None, True
            try:
                self._write(**save)
                self.error, self._is_warned = None, False
            except Exception as e:
                self.error, self._last = e, None
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _write(self, *, step: int, tensors: dict, texts: dict, document: dict, log: Any):
        if log is not None:
            document['log_bytes'] = log.result()
        checkpoint.write(self.folder, step, tensors=tensors, document=document, texts=texts)
        # What cannot be removed now will be the next time
        with contextlib.suppress(OSError):
            checkpoint.prune(self.folder, keep=self.keep)

    def _warn(self):
        if self.error is not None and not self._is_warned:
            self._is_warned = True
            logger.log(f'Cannot save a checkpoint: {self.error}. The run goes on, and tries again', Text.warning)

