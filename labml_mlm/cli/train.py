"""
# From the command line to a finished run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""

import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from labml import experiment, lab, logger
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.logger import Text

from labml_mlm.cli.messages import interrupted, last_checkpoint, log_summary, script_path
from labml_mlm.cli.resume import Resumption, note_run_of_job, run_of_job
from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exits, leave
from labml_mlm.common.files import write_atomically
from labml_mlm.common.labml_compat import set_project, tolerate_full_disk
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.overrides import _split, help_text, parse_overrides
from labml_mlm.configs.schema import items_of
from labml_mlm.configs.snapshot import defaults_of, record_of, text_of
from labml_mlm.distributed.failures import ending_together, is_lost
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs import metrics_log as log_file
from labml_mlm.runs import run as runs
from labml_mlm.tokenization.base import files_of
from labml_mlm.tracking import console as screen
from labml_mlm.tracking.uploader import App
from labml_mlm.training.signals import Stopped
from labml_mlm.training.state import restore


def train(conf: MLMConfigs, *, name: str, arguments: Sequence[str] | None = None):
    """
    Trains `conf` as a labml experiment, in the project of the file that calls this.

    * `name` is the experiment's
    * `arguments` are `name=value` overrides, `--resume RUN` to go on with a run (its uuid, its folder, or `last`), or
      `--help`; the command line's, unless given

    Returns when the run is completed. Otherwise it prints one message and exits: with 2 for what is wrong in the
    arguments or in the text, with 1 if the machine fails (no space left), with 128 + the signal's number after Ctrl-C,
    SIGTERM or a closed terminal. Errors in code of your own keep their traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    screen.set_up()
    with exits():
        if {'--help', '-h'} & set(arguments):
            # Of an option that is given, the items that it has
            conf._set_values(parse_overrides(conf, [argument for argument in arguments if '=' in argument]))
            if os.environ.get('RANK', '0') != '0':
                return
            print(f'usage: python {script_path()} [name=value ...] [--resume RUN] [--help]\n\n'
                  f'  --resume RUN\n        Go on with a run: its uuid or the beginning of it, its folder or that of a '
                  f'checkpoint, or `last`\n        for the newest\n\n'
                  f'Items, their defaults, and what they can be:\n\n{help_text(conf)}')
            return
        if not ranks().is_main:
            screen.silence()
        with ending_together(ranks(), last_checkpoint):
            try:
                launch = _Launch(conf, name, arguments)
            except KeyboardInterrupt:
                _leave(130, 'Interrupted before training began')
            try:
                launch.run()
            except KeyboardInterrupt:
                _leave(130, 'Interrupted')


class _Launch:
    """
    A run that was checked and built, without anything on the disk yet, whether it is a new one or goes on. Of several
    ranks the main one has the run's folder, and the others what it tells them.
    """

    def __init__(self, conf: MLMConfigs, name: str, arguments: Sequence[str]):
        self.conf = conf
        self.app = App()
        self.resumption: Resumption | None = None
        self.run_folder: runs.Run | None = None
        with ranks().together():
            script = set_project()
            arguments, run_name = _split(arguments)
            values = parse_overrides(conf, arguments)
            if ranks().size > 1 and 'device.cuda_device' in values:
                raise UserError('device.cuda_device: of several ranks each has a GPU of its own')
        ranks().check_same({**defaults_of(conf), **values, '--resume': run_name, 'torch': torch.__version__})
        try:
            with ranks().together():
                if ranks().is_main:
                    values, uuid = self._find(name, run_name, values)
                    self.app.probe()
                else:
                    uuid = None
            values, uuid, self.is_resumed, conf._saved_tokenizer = ranks().of_main(
                (values, uuid, self.resumption is not None, conf._saved_tokenizer))
            is_screen = ranks().is_main and not screen.is_plain()
            with ranks().together():
                experiment.create(name=name, python_file=script, writers={'screen'} if is_screen else set(), uuid=uuid)
                experiment.configs(conf, values)
                self._build()
            ranks().check_same(text_of(conf))
            self._restore()
            if ranks().is_main and not self.resumption:
                self.run_folder = runs.Run(experiment_singleton().run.run_path)
        except BaseException:
            self.unlock()
            raise

    def _find(self, name: str, run_name: str | None, values: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """The values and the uuid of the run, whether it is a new one or goes on."""
        folder = lab.get_experiments_path()
        # If torchrun has started all ranks anew
        before = run_of_job(folder / name)
        run_name = before or run_name
        if run_name is not None:
            self.resumption = Resumption(folder, run_name, experiment=name, is_restarted=before is not None)
            self.run_folder = self.resumption.run
            values = self.resumption.values(self.conf, values)
            if ranks().size > 1:
                # Of one process
                values.pop('device.cuda_device', None)
        uuid = self.run_folder.uuid if self.run_folder else os.environ.get('RUN_UUID') or experiment.generate_uuid()
        return values, uuid

    def _restore(self):
        """Puts the state of a run that goes on into what was built."""
        if not self.is_resumed:
            return
        checkpoint = tensors = None
        with ranks().together():
            if self.resumption:
                self.resumption.find_checkpoint(self.conf)
                checkpoint = self.resumption.checkpoint
                tensors = checkpoint and {name: checkpoint.tensors(name) for name in ('model', 'optimizer')}
        if not ranks().of_main(checkpoint is not None):
            return
        try:
            restore(self.conf, checkpoint, tensors)
        except UserError as e:
            # The same at all ranks
            _leave(2, str(e))

    def _build(self):
        # labml shows all configs anew at each item that is computed: to nobody, so far
        self.conf._set_update_callback(None)
        try:
            self.conf.init()
        except AttributeError as e:
            # What labml says of an item without value
            missing = re.search(r'cannot calculate config `(\w+)`', str(e))
            if missing is None:
                raise
            full = next(item for item in items_of(self.conf) if item.rpartition('.')[2] == missing[1])
            raise UserError(f'`{full}` has no value: give {full}=VALUE') from None

    def unlock(self):
        """The run is no longer this process's."""
        if self.run_folder is not None:
            self.run_folder.unlock()

    def run(self):
        """Trains, to the end or until a signal comes."""
        if not ranks().is_main:
            self._follow()
            return
        try:
            if self.resumption and self.conf.progress.epoch >= self.conf.epochs:
                done = self.conf.progress.epoch
                logger.log(f'The run {self.run_folder.uuid} has had all of its epochs ({done}): '
                           f'epochs={done + 1} would go on')
                return
            with ranks().together():
                self._start()
            self._train()
        finally:
            self.unlock()

    def _follow(self):
        """Trains at another rank than the main one, which tells of it."""
        conf = self.conf
        if conf.progress.epoch >= conf.epochs:
            return
        with ranks().together():
            # The main one starts
            pass
        try:
            conf.run()
        except KeyboardInterrupt:
            _leave(128 + (conf.interrupt.signal or 2), '')

    def _start(self):
        this, folder, conf = experiment_singleton(), self.run_folder, self.conf
        is_new = not folder.path.exists()
        record = record_of(conf, experiment=this.run.name)
        try:
            if self.resumption:
                self.resumption.take_up(conf)
                record = self.resumption.continued(record, tokens=conf.progress.tokens)
                # labml would write anew what tells how the run was started
                this.run.save_info = lambda: (folder.path / 'run.pid').write_text(str(this.run.pid))
                this.run.configs_path = folder.path / 'configs.resumed.yaml'
            else:
                folder.path.mkdir(parents=True, exist_ok=True)
                self._check_new()
            # All that it takes to go on, before the first step
            folder.record = record
            note_run_of_job(folder.uuid)
            for name, text in files_of(conf._get_computed('tokenizer')).items():
                write_atomically(folder.path / name, text.encode())
            this.start(global_step=conf.progress.tokens)
        except BaseException as e:
            if is_new and not isinstance(e, UserError):
                shutil.rmtree(folder.path, ignore_errors=True)
            if not isinstance(e, OSError):
                raise
            raise OSError(f'cannot start the run in {folder.path}: {e.strerror}'
                          + (f': {e.filename}' if e.filename else '')) from e
        conf.saver.about = {'configs': record}
        tolerate_full_disk(conf)

    def _check_new(self):
        folder = self.run_folder
        folder.lock()
        if (folder.path / 'run.pid').exists():
            raise UserError(f'there is a run with the uuid {folder.uuid} already, in {folder.path}; '
                            f'--resume {folder.uuid} goes on with it')

    def _train(self):
        conf, run, app = self.conf, self.run_folder, self.app
        writer = conf.saver.log = log_file.FileWriter(run.log)
        tracker_singleton().add_writer(writer)
        screen.add_writer()
        screen.on_gone = lambda: conf.interrupt.stop(signal.SIGPIPE)
        status, details = 'crashed', None
        try:
            app.start(run, writer)
            conf.run()
            status = 'completed'
        except KeyboardInterrupt as e:
            status = 'interrupted'
            if not isinstance(e, Stopped):
                # A second Ctrl-C waits for nothing
                writer.patience = 0.5
        except BaseException as e:
            details = 'another rank is gone' if is_lost(e) else str(e)
            raise
        finally:
            unwritten = _finish(status, details) or writer.lost or conf.saver.error
            with contextlib.suppress(KeyboardInterrupt):
                if status == 'completed':
                    log_summary(conf)
                    logger.log(['The run is in ', (str(run.path), Text.value)])
                app.finish(status, details)
            screen.finish()
        if status == 'interrupted':
            _leave(128 + (conf.interrupt.signal or 2), interrupted(conf, run))
        if unwritten:
            raise OSError(f'some of the run could not be written to {run.path}: {unwritten}')


def _leave(code: int, message: str) -> NoReturn:
    """Ends the process; of several ranks the main one says why."""
    if ranks().is_main:
        leave(code, message)
    sys.exit(code)


def _finish(status: str, details: str | None) -> OSError | None:
    """Ends labml's experiment. Returns what kept it from noting that down."""
    this = experiment_singleton()
    try:
        this.finish(status, details)
    except OSError as e:
        # labml notes the status first: all that comes after is still to be done
        tracker_singleton().finish_loop()
        return e
    return None

