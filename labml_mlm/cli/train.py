"""
# From the command line to a finished run

`train` prepares a run (`PreparedRun`), starts labml's experiment, trains, and reports how it ended.
"""
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from labml import logger
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.logger import Text

from labml_mlm.cli.messages import after_rank_failure, interrupted, log_summary, script_path
from labml_mlm.cli.prepare import PreparedRun
from labml_mlm.cli.resume import set_run_of_job
from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exit_on_error, exit_with
from labml_mlm.common.files import write_atomically
from labml_mlm.common.labml_compat import tolerate_full_disk
from labml_mlm.common.overrides import help_text, parse_overrides
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.distributed.failures import exit_on_rank_failure, is_rank_failure
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.runs.run import Run
from labml_mlm.tokenization.base import tokenizer_files
from labml_mlm.tracking import console
from labml_mlm.training.signals import Stopped


def train(conf: MLMConfigs, *, name: str, arguments: Sequence[str] | None = None):
    """
    Trains `conf` as a labml experiment, in the project of the file that calls this.

    * `name` is the experiment's
    * `arguments` are `name=value` overrides, `--resume RUN` to resume a run (its uuid, its folder, or `last`), or
      `--help`; by default those of the command line

    Returns when the run is complete. Otherwise it prints one message and exits: with 2 for anything wrong in the
    arguments or the text, with 1 if the machine fails (no space left), with 128 + the signal's number after Ctrl-C,
    SIGTERM or a closed terminal. Errors in your own code keep their traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    console.set_up()
    with exit_on_error():
        if {'--help', '-h'} & set(arguments):
            _print_help(conf, arguments)
            return
        if not ranks().is_main:
            console.silence()
        with exit_on_rank_failure(ranks(), after_rank_failure):
            try:
                prepared = PreparedRun(conf, name, arguments)
            except KeyboardInterrupt:
                _exit(130, 'Interrupted before training began')
            try:
                _run(prepared)
            except KeyboardInterrupt:
                _exit(130, 'Interrupted')


def _print_help(conf: MLMConfigs, arguments: Sequence[str]):
    # Nested items depend on the options that are chosen
    conf._set_values(parse_overrides(conf, [argument for argument in arguments if '=' in argument]))
    if os.environ.get('RANK', '0') != '0':
        return
    print(f'usage: python {script_path()} [name=value ...] [--resume RUN] [--help]\n\n'
          f'  --resume RUN\n        Resume a run: its uuid or the beginning of it, its folder, that of a checkpoint,\n'
          f'        or `last` for the newest\n\n'
          f'Items, their defaults, and what they can be:\n\n{help_text(conf)}')


def _run(prepared: PreparedRun):
    """Trains, to the end or until a signal comes."""
    if not ranks().is_main:
        _follow(prepared.conf)
        return
    try:
        conf = prepared.conf
        if prepared.resumption and conf._is_complete:
            steps, done = conf.progress.steps, conf.progress.epoch
            has_steps = conf.max_steps is not None and steps >= conf.max_steps
            logger.log(f'The run {prepared.run.uuid} has completed all of its ' +
                       (f'steps ({steps:,}): give max_steps={2 * steps}' if has_steps else
                        f'epochs ({done}): give epochs={done + 1}') + ' to train longer')
            return
        with ranks().synchronize_errors():
            _start(prepared)
        _train(prepared)
    finally:
        prepared.unlock()


def _follow(conf: MLMConfigs):
    """Trains at a rank other than the main one, which does the logging."""
    if conf._is_complete:
        return
    with ranks().synchronize_errors():
        # The main rank starts
        pass
    try:
        conf.run()
    except KeyboardInterrupt:
        _exit(128 + (conf.interrupt.signal or 2), '')


def _start(prepared: PreparedRun):
    """Starts labml's experiment: from here on the run is on the disk."""
    this, run, conf = experiment_singleton(), prepared.run, prepared.conf
    is_new = not run.path.exists()
    snapshot = take_snapshot(conf, experiment=this.run.name)
    try:
        if prepared.resumption:
            prepared.resumption.rewind(conf)
            snapshot = prepared.resumption.merged_snapshot(snapshot, tokens=conf.progress.tokens)
            # labml would overwrite how the run was started
            this.run.save_info = lambda: (run.path / 'run.pid').write_text(str(this.run.pid))
            this.run.configs_path = run.path / 'configs.resumed.yaml'
        else:
            run.path.mkdir(parents=True, exist_ok=True)
            _lock_new(run)
        # Everything it takes to resume, before the first step
        run.snapshot = snapshot
        set_run_of_job(run.uuid)
        for name, text in tokenizer_files(conf._get_computed('tokenizer')).items():
            write_atomically(run.path / name, text.encode())
        this.start(global_step=conf.progress.tokens)
    except BaseException as e:
        if is_new and not isinstance(e, UserError):
            shutil.rmtree(run.path, ignore_errors=True)
        if not isinstance(e, OSError):
            raise
        raise OSError(f'cannot start the run in {run.path}: {e.strerror}'
                      + (f': {e.filename}' if e.filename else '')) from e
    conf.checkpointer.metadata = {'configs': snapshot}
    tolerate_full_disk(conf)


def _lock_new(run: Run):
    run.lock()
    if (run.path / 'run.pid').exists():
        raise UserError(f'there is a run with the uuid {run.uuid} already, in {run.path}; '
                        f'--resume {run.uuid} resumes it')


def _train(prepared: PreparedRun):
    conf, run, uploader = prepared.conf, prepared.run, prepared.uploader
    writer = conf.checkpointer.log = MetricsWriter(run.log)
    tracker_singleton().add_writer(writer)
    console.add_writer()
    console.on_closed = lambda: conf.interrupt.stop(signal.SIGPIPE)
    status, details = 'crashed', None
    try:
        uploader.start(run, writer)
        conf.run()
        status = 'completed'
    except KeyboardInterrupt as e:
        status = 'interrupted'
        if not isinstance(e, Stopped):
            # A second Ctrl-C waits for nothing
            writer.patience = 0.5
    except BaseException as e:
        details = 'another rank failed' if is_rank_failure(e) else str(e)
        raise
    finally:
        error = _finish_experiment(status, details) or writer.error or conf.checkpointer.error
        with contextlib.suppress(KeyboardInterrupt):
            if status == 'completed':
                log_summary(conf)
                logger.log(['The run is in ', (str(run.path), Text.value)])
            uploader.finish(status, details)
        console.finish()
    if status == 'interrupted':
        _exit(128 + (conf.interrupt.signal or 2), interrupted(conf, run))
    if error:
        raise OSError(f'some of the run could not be written to {run.path}: {error}')


def _finish_experiment(status: str, details: str | None) -> OSError | None:
    """Ends labml's experiment. Returns the error if its status cannot be written."""
    this = experiment_singleton()
    try:
        this.finish(status, details)
    except OSError as e:
        # labml writes the status first: the rest is still to be done
        tracker_singleton().finish_loop()
        return e
    return None


def _exit(code: int, message: str) -> NoReturn:
    """Ends the process; only the main rank says why."""
    if ranks().is_main:
        exit_with(code, message)
    sys.exit(code)
