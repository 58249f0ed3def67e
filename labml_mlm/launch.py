"""
# From the command line to a finished run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""
import contextlib
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from labml import experiment, logger, tracker
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.logger import Text

from labml_mlm import screen
from labml_mlm.compat import set_project
from labml_mlm.configs import MLMConfigs
from labml_mlm.errors import UserError
from labml_mlm.items import items_of
from labml_mlm.overrides import help_text, parse_overrides
from labml_mlm.tracking import App, FileWriter

# What a disk says that takes nothing more
_DISK_ERRORS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG


def train(conf: MLMConfigs, *, name: str, arguments: Sequence[str] | None = None):
    """
    Trains `conf` as a labml experiment, in the project of the file that calls this.

    * `name` is the experiment's
    * `arguments` are `name=value` overrides, or `--help`; the command line's, unless given

    Returns when the run is completed. Otherwise it prints one message and exits: with 2 for what is wrong in the
    arguments or in the text, with 1 if the machine fails (no space left), with 128 + the signal's number after Ctrl-C
    or SIGTERM. Errors in code of your own keep their traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    screen.set_up()
    try:
        if {'--help', '-h'} & set(arguments):
            print(f'usage: python {os.path.relpath(sys.argv[0])} [name=value ...] [--help]\n\n'
                  f'Items, their defaults, and what they can be:\n\n{help_text(conf)}')
            return
        app = App()
        _build(conf, app, name, arguments)
        _run(conf, app)
    except UserError as e:
        _exit(2, str(e))
    except BrokenPipeError:
        # Whoever read the output has gone; Python's own flush at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        # Ours have a message of their own and no number
        if e.errno is not None and e.errno not in _DISK_ERRORS:
            raise
        _exit(1, f'{e.strerror}: {e.filename}' if e.filename else e.strerror or str(e))


def _build(conf: MLMConfigs, app: App, name: str, arguments: Sequence[str]):
    """Creates the experiment and all that it needs, without anything on the disk."""
    try:
        script = set_project()
        values = parse_overrides(conf, arguments)
        app.probe()
        experiment.create(name=name, python_file=script, writers=set() if screen.is_plain() else {'screen'})
        experiment.configs(conf, values)
        conf.init()
    except KeyboardInterrupt:
        _exit(130, 'Interrupted before training began')
    except AttributeError as e:
        # What labml says of an item without value
        missing = re.search(r'cannot calculate config `(\w+)`', str(e))
        if missing is None:
            raise
        full = next(item for item in items_of(conf) if item.rpartition('.')[2] == missing[1])
        raise UserError(f'`{full}` has no value: give {full}=VALUE') from None


def _run(conf: MLMConfigs, app: App):
    run = experiment_singleton().run
    if (run.run_path / 'run.pid').exists():
        raise UserError(f'there is a run with the uuid {run.uuid} already, in {run.run_path}')
    is_folder_ours = not run.run_path.exists()
    try:
        experiment.start()
    except OSError as e:
        if is_folder_ours:
            shutil.rmtree(run.run_path, ignore_errors=True)
        raise OSError(f'cannot start the run in {run.run_path}: {e.strerror}'
                      + (f': {e.filename}' if e.filename else '')) from e
    writer = FileWriter(run.log_file)
    tracker_singleton().add_writer(writer)
    screen.add_writer()

    began = time.monotonic()
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
        unwritten = _finish(status, details) or writer.lost
        if status == 'completed':
            _log_summary(conf, time.monotonic() - began)
            logger.log(['The run is in ', (str(run.run_path), Text.value)])
        with contextlib.suppress(KeyboardInterrupt):
            app.finish()
    if status == 'interrupted':
        _exit(128 + (conf.interrupt.signal or 2),
              f'Interrupted after {tracker.get_global_step():,} tokens. The run is in {run.run_path}')
    if unwritten:
        raise OSError(f'some of the run could not be written to {run.run_path}: {unwritten}')


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


def _log_summary(conf: MLMConfigs, seconds: float):
    metrics = conf.valid_metrics
    logger.log('')
    logger.log([('Validation loss ', Text.meta), (f'{metrics.loss:.4f}', Text.value),
                (', masked accuracy ', Text.meta), (f'{metrics.accuracy:.4f}', Text.value),
                (f' after {tracker.get_global_step():,} tokens in {seconds / 60:.1f} minutes '
                 f'({conf.throughput.mean:,.0f} tokens/s in training)', Text.meta)])


def _exit(code: int, message: str) -> NoReturn:
    sys.stdout.flush()
    print(f'\n{message}' if sys.stdout.isatty() else message, file=sys.stderr)
    sys.exit(code)
