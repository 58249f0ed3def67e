"""
# From the command line to a finished run

Everything is checked and built before labml's experiment starts, so a run that cannot work leaves no folder behind.
"""
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
from labml_mlm.overrides import help_text, parse_overrides
from labml_mlm.tracking import App, FileWriter


def train(conf: MLMConfigs, *, name: str, arguments: Sequence[str] | None = None):
    """
    Trains `conf` as a labml experiment, in the project of the file that calls this.

    * `name` is the experiment's
    * `arguments` are `name=value` overrides, or `--help`; the command line's, unless given

    Returns when the run is completed. Otherwise it prints one message and exits: with 2 for what is wrong in the
    arguments or in the text, with 1 if the machine fails (no space left), with 128 + the signal's number after Ctrl-C
    or SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if {'--help', '-h'} & set(arguments):
        print(f'usage: python {os.path.relpath(sys.argv[0])} [name=value ...] [--help]\n\n'
              f'Items, their defaults, and what they can be:\n\n{help_text(conf)}')
        return
    screen.set_up()
    script = set_project()
    try:
        values = parse_overrides(conf, arguments)
        app = App()
        app.probe()
        experiment.create(name=name, python_file=script, writers=set() if screen.is_plain() else {'screen'})
        experiment.configs(conf, values)
        _build(conf)
        _run(conf, app)
    except UserError as e:
        _exit(2, str(e))
    except KeyboardInterrupt:
        _exit(128 + (conf.interrupt.signal or 2), 'Interrupted before training began')
    except BrokenPipeError:
        # Whoever read the output has gone; Python's own flush at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        _exit(1, f'{e.strerror}: {e.filename}' if e.filename else e.strerror or str(e))


def _build(conf: MLMConfigs):
    try:
        conf.init()
    except AttributeError as e:
        # What labml says of an item without value
        missing = re.search(r'cannot calculate config `(\w+)`', str(e))
        if missing is None:
            raise
        raise UserError(f'`{missing[1]}` has no value: give {missing[1]}=VALUE') from None


def _run(conf: MLMConfigs, app: App):
    run = experiment_singleton().run
    try:
        watcher = experiment.start()
    except OSError as e:
        shutil.rmtree(run.run_path, ignore_errors=True)
        raise OSError(f'cannot write the files of the run in {run.run_path}: {e.strerror}') from e
    writer = FileWriter(run.log_file)
    tracker_singleton().add_writer(writer)
    screen.add_writer()
    app.start()
    began = time.monotonic()
    try:
        with watcher:
            # Configs were computed before there was a file for them
            experiment_singleton().configs_processor.update_configs({})
            conf.run()
    except KeyboardInterrupt:
        app.finish()
        _exit(128 + (conf.interrupt.signal or 2),
              f'Interrupted after {tracker.get_global_step():,} tokens. The run is in {run.run_path}')
    app.finish()
    _log_summary(conf, time.monotonic() - began)
    logger.log(['The run is in ', (str(run.run_path), Text.value)])
    if writer.lost:
        raise OSError(f'the last metrics could not be written to {run.log_file}: {writer.lost.strerror}')


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
