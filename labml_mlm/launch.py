"""
# From the command line to a finished run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""
import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from labml import experiment, lab, logger, tracker
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.logger import Text

from labml_mlm import checkpoint, log_file, resume, runs, screen
from labml_mlm.compat import set_project
from labml_mlm.configs import MLMConfigs
from labml_mlm.errors import UserError, did_you_mean
from labml_mlm.exits import exits, leave
from labml_mlm.items import items_of
from labml_mlm.overrides import help_text, parse_overrides
from labml_mlm.state import restore
from labml_mlm.tracking import App


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
            print(f'usage: python {_script()} [name=value ...] [--resume RUN] [--help]\n\n'
                  f'  --resume RUN\n        Go on with a run, by its uuid, its folder, or `last` for the newest\n\n'
                  f'Items, their defaults, and what they can be:\n\n{help_text(conf)}')
            return
        try:
            launch = _Launch(conf, name, arguments)
        except KeyboardInterrupt:
            leave(130, 'Interrupted before training began')
        launch.run()


class _Launch:
    """A run that was checked and built, without anything on the disk yet, whether it is a new one or goes on."""

    def __init__(self, conf: MLMConfigs, name: str, arguments: Sequence[str]):
        self.conf = conf
        self.app = App()
        # What goes on, from which checkpoint, and what changes
        self.resumed: runs.Run | None = None
        self.checkpoint: checkpoint.Checkpoint | None = None
        self.changes: list[str] = []

        script = set_project()
        arguments, resume_name = _split(arguments)
        values = parse_overrides(conf, arguments)
        path = None
        if resume_name is not None:
            self.resumed, path = runs.find(lab.get_experiments_path(), resume_name, experiment=name)
            values, self.changes = self._values_to_resume(name, values)
        self.app.probe()
        experiment.create(name=name, python_file=script, writers=set() if screen.is_plain() else {'screen'},
                          uuid=self.resumed.uuid if self.resumed else None)
        experiment.configs(conf, values)
        self._build()
        if self.resumed:
            self._restore(path)
        self.run_folder = runs.Run(experiment_singleton().run.run_path)
        if not self.resumed and (self.run_folder.path / 'run.pid').exists():
            raise UserError(f'there is a run with the uuid {self.run_folder.uuid} already, in {self.run_folder.path}; '
                            f'--resume {self.run_folder.uuid} goes on with it')

    def _values_to_resume(self, name: str, values: dict) -> tuple[dict, list[str]]:
        """Takes the run for this process. Returns its values with the changes, and those in words."""
        run = self.resumed
        if run.experiment != name:
            raise UserError(f'the run {run.uuid} is one of the experiment {run.experiment}, and this script is {name}')
        if run.record is None:
            raise UserError(f'the run {run.uuid} cannot go on: it has no configs.json')
        run.lock()
        return resume.overrides(self.conf, run.record, values)

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
        self.conf._set_update_callback(experiment_singleton().configs_processor._on_configs_updated)

    def _restore(self, path: Path | None):
        """Puts the run's state into the configs: that of a checkpoint, or of the last one that is whole."""
        run = self.resumed
        resume.check_same(self.conf, run.record)
        if path is not None:
            self.checkpoint = checkpoint.read(path)
            self.checkpoint.check()
        else:
            self.checkpoint, wrong = checkpoint.last_of(run.checkpoints)
            if wrong and self.checkpoint is None:
                raise UserError(f'no checkpoint of the run {run.uuid} can be used: {"; ".join(wrong)}')
            for message in wrong:
                logger.log(f'{message}. The checkpoint before it is used', Text.warning)
        if self.checkpoint is not None:
            restore(self.conf, self.checkpoint)

    def run(self):
        """Trains, to the end or until a signal comes."""
        if self.resumed:
            if self.conf.progress.epoch >= self.conf.epochs:
                self.resumed.unlock()
                logger.log(f'The run {self.resumed.uuid} is completed: all of its {self.conf.epochs} epochs are over. '
                           f'epochs={self.conf.epochs + 1} would go on')
                return
            self._take_up()
        try:
            self._start()
            self._train()
        finally:
            self.run_folder.unlock()

    def _take_up(self):
        """Makes the run's folder what it was at the checkpoint."""
        run, conf = self.resumed, self.conf
        step, n_bytes = 0, 0
        if self.checkpoint is not None:
            step, n_bytes = self.checkpoint.step, self.checkpoint.document['log_bytes']
        checkpoint.clean(run.checkpoints)
        for later, path in checkpoint.folders(run.checkpoints).items():
            if later > step:
                checkpoint.remove(path)
        if missing := log_file.cut(run.log, n_bytes):
            logger.log(f'{run.log} lacks {missing:,} bytes that it had at the checkpoint: its metrics are not complete',
                       Text.warning)
        run.note_resumed(self.changes)
        where = f'from {self.checkpoint.path}' if self.checkpoint else 'from the beginning: it has no checkpoint yet'
        logger.log([('Going on', Text.title), f' with {run.uuid} {where}'])
        for change in self.changes:
            logger.log(change, Text.highlight)
        if differing := resume.differing_versions(conf, run.record):
            logger.log(f'Not as when the run was started: {", ".join(differing)}. Losses may differ in their last bits',
                       Text.meta)

    def _start(self):
        this, folder = experiment_singleton(), self.run_folder
        is_folder_ours = not folder.path.exists()
        record = resume.record_of(self.conf, experiment=this.run.name)
        try:
            if self.resumed:
                was = self.resumed.record
                record |= {name: was[name] for name in ('time', 'text', 'versions')}
                record['resumed'] = [*was['resumed'], {'time': record['time'], 'tokens': self.conf.progress.tokens}]
                # labml would write anew what tells how the run was started
                this.run.save_info = lambda: None
                this.run.configs_path = folder.path / 'configs.resumed.yaml'
            # All that it takes to go on, before the first step
            folder.record = record
            this.start(global_step=self.conf.progress.tokens)
            if not self.resumed:
                folder.lock()
        except BaseException as e:
            if is_folder_ours:
                shutil.rmtree(folder.path, ignore_errors=True)
            if not isinstance(e, OSError):
                raise
            raise OSError(f'cannot start the run in {folder.path}: {e.strerror}'
                          + (f': {e.filename}' if e.filename else '')) from e
        self.conf.saver.about = {'configs': record}

    def _train(self):
        conf, run, app = self.conf, self.run_folder, self.app
        writer = conf.saver.log = log_file.FileWriter(run.log)
        tracker_singleton().add_writer(writer)
        screen.add_writer()
        status, details = 'crashed', None
        try:
            app.start()
            conf.run()
            status = 'completed'
        except KeyboardInterrupt:
            status = 'interrupted'
        except BaseException as e:
            details = str(e)
            raise
        finally:
            unwritten = _finish(status, details) or writer.lost or conf.saver.error
            if status == 'completed':
                _log_summary(conf)
                logger.log(['The run is in ', (str(run.path), Text.value)])
            with contextlib.suppress(KeyboardInterrupt):
                app.finish()
        if status == 'interrupted':
            lost = f'The last checkpoint could not be saved: {conf.saver.error}. ' if conf.saver.error else ''
            leave(128 + (conf.interrupt.signal or 2), f'Interrupted after {tracker.get_global_step():,} tokens. {lost}'
                                                      f'To go on: python {_script()} --resume {run.uuid}')
        if unwritten:
            raise OSError(f'some of the run could not be written to {run.path}: {unwritten}')


def _split(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides, and the run to go on with if there is one."""
    overrides, name = [], None
    arguments = iter(arguments)
    for argument in arguments:
        option, equals, value = argument.partition('=')
        if option == '--resume':
            name = value if equals else next(arguments, '')
            if not name or name.startswith('-'):
                raise UserError('--resume needs a run: its uuid, its folder, or last')
        elif option.startswith('-'):
            raise UserError(f'`{argument}` is not an override and no option.'
                            f'{did_you_mean(option, ["--resume", "--help"])}')
        else:
            overrides.append(argument)
    return overrides, name


def _script() -> str:
    return os.path.relpath(sys.argv[0])


def _finish(status: str, details: str | None) -> OSError | None:
    """Ends labml's experiment. Returns what kept it from noting that down."""
    this = experiment_singleton()
    try:
        this.finish(status, details)
    except OSError as e:
        # labml notes the status first: all that comes after is still to be done
        tracker_singleton().finish_loop()
        if this.app_experiment is not None:
            this.app_experiment.status(this.run.distributed_rank, status, details, time.time())
        return e
    return None


def _log_summary(conf: MLMConfigs):
    metrics, progress = conf.valid_metrics, conf.progress
    logger.log('')
    logger.log([('Validation loss ', Text.meta), (f'{metrics.loss:.4f}', Text.value),
                (', masked accuracy ', Text.meta), (f'{metrics.accuracy:.4f}', Text.value),
                (f' after {progress.tokens:,} tokens in {progress.seconds / 60:.1f} minutes '
                 f'({conf.throughput.mean:,.0f} tokens/s in training)', Text.meta)])
