"""
# From the command line to a finished run

`train` prepares a run (`PreparedRun`), starts labml's experiment, trains, and reports how it ended.
"""
import contextlib
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from labml import logger
from labml.internal.experiment import experiment_singleton
from labml.internal.tracker import tracker_singleton
from labml.logger import Text

from labml_mlm.common.errors import DivergedError, UserError
from labml_mlm.common.exit import exit_on_error, exit_with, interrupted_by_all_signals, leave_work
from labml_mlm.common.files import write_atomically
from labml_mlm.common.importing import stop_if_importing
from labml_mlm.common.labml_compat import tolerate_full_disk
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.same_text import describe_texts
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.distributed.failures import exit_on_rank_failure, is_rank_failure
from labml_mlm.distributed.last_word import repeat_after_torchrun
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.help import help_text, width
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.python_values import merged_values
from labml_mlm.items.unread import unread_at_end
from labml_mlm.launch import session
from labml_mlm.launch.about import log_about, text_about
from labml_mlm.launch.messages import (
    after_divergence,
    after_rank_failure,
    how_to_call,
    how_to_resume,
    how_to_train_longer,
    interrupted,
    log_next,
    log_summary,
)
from labml_mlm.launch.prepare import PreparedRun
from labml_mlm.launch.resume import set_run_of_job
from labml_mlm.notebook.page import page
from labml_mlm.runs.metrics_log import MetricsWriter
from labml_mlm.runs.run import Run
from labml_mlm.runs.text_files import write_files
from labml_mlm.screen import console
from labml_mlm.tokenization.base import tokenizer_files
from labml_mlm.training.signals import Stopped

# In a sweep's process that trains nothing: called with what would be trained
rehearse: 'Callable[[ToTrain], NoReturn] | None' = None


def train(conf: MLMConfigs, values: Mapping[str, Any] = MappingProxyType({}), *, name: str,
          arguments: Sequence[str] | None = None, resume: str | Path | None = None, **items: Any) -> Path | None:
    """
    Trains `conf` as a labml experiment, in the project of the file that calls this.

    * `values` are items by dotted name, `{'transformer.n_layers': 2}`, and so are keywords, which win: `epochs=2`. They
      are checked like those of the command line, which win over both
    * `name` is the experiment's
    * `arguments` are `name=value` overrides, `--resume RUN` to resume a run (its uuid, its name, its folder, or
      `last`), `--name`, `--comment` and `--tags` of a new run, or `--help` (`--help all`, `--help NAME`); by default
      those of the command line, of which a notebook has none
    * `resume` is the run to resume, as for `--resume`

    Returns the folder of the run when it is complete. Otherwise it prints one message and exits: with 2 for anything
    wrong in the arguments or the text, with 1 if the machine fails (no space left) or the run diverges, with 128 + the
    signal's number after Ctrl-C, SIGTERM or a closed terminal. Errors in your own code keep their traceback.

    In a notebook, and at Python's prompt, there is an exception in place of an exit: `UserError` for what is wrong,
    `OSError` if the machine fails, `DivergedError` if the run diverges. When the kernel is interrupted the run is
    saved, and its folder returned.

    It may be called any number of times. Each run is as if it was the only one, and what it changes in labml, in torch
    and in the process is put back at its end. `conf` has then what it has computed, the trained `conf.model` for one,
    until it is trained again or is given another value.

    Nothing is trained where `labml-mlm … --import FILE` imports the file that calls this: the import ends here.
    """
    stop_if_importing()
    arguments = session.command_line() if arguments is None else arguments

    def find() -> ToTrain:
        return ToTrain(conf, name, arguments, values=merged_values(values, items), resume=resume)

    return train_found(find, topic=help_topic(arguments))


class ToTrain(NamedTuple):
    """What to train."""
    conf: MLMConfigs
    # That of the experiment
    name: str
    arguments: Sequence[str]
    # In the project, if no script of the user's calls
    folder: Path | None = None
    # Arguments before those of all scripts, for `--help`
    usage: str = ''
    # What is given in Python as arguments are
    values: Mapping[str, Any] = MappingProxyType({})
    resume: str | Path | None = None


def train_found(find: Callable[[], ToTrain], *, topic: str | None) -> Path | None:
    """`train`, for what `find` says; or `--help` on a topic, where it must not ask other ranks."""
    is_going_on = session.is_interactive()
    with contextlib.nullcontext() if is_going_on else exit_on_error(), session.in_own_process(), \
            contextlib.ExitStack() as stack:
        if not is_going_on:
            stack.enter_context(interrupted_by_all_signals())
        console.set_up()
        if topic is not None:
            _print_help(find(), topic)
            return None
        if not ranks().is_main:
            console.silence()
        if console.is_notebook():
            stack.enter_context(page())
        with exit_on_rank_failure(ranks(), after_rank_failure):
            try:
                found = find()
                if rehearse is not None:
                    rehearse(found)
                stack.enter_context(session.in_training(found.conf))
                prepared = PreparedRun(found.conf, found.name, found.arguments, found.folder, values=found.values,
                                       resume=found.resume)
            except KeyboardInterrupt as e:
                if not is_going_on:
                    leave_work()
                _exit(_code(e), 'Interrupted before training began')
            try:
                _run(prepared)
            except KeyboardInterrupt as e:
                _exit(_code(e), str(e) or _interrupted_early(prepared))
            return prepared.run and prepared.run.path


def help_topic(arguments: Sequence[str]) -> str | None:
    """What help is asked for: `all`, the name of an item, or an empty string; `None` if none is."""
    for argument, following in zip(arguments, [*arguments, ''][1:], strict=True):
        option, equals, topic = argument.partition('=')
        if option in ('--help', '-h'):
            return topic if equals else '' if '=' in following or following.startswith('-') else following
    return None


def _print_help(found: ToTrain, topic: str):
    conf = found.conf
    # Nested items depend on the options that are chosen
    conf._set_values(parse_overrides(conf, [argument for argument in found.arguments
                                            if '=' in argument and not argument.startswith('-')]))
    items = help_text(conf, topic)
    if os.environ.get('RANK', '0') != '0':
        return
    if topic not in ('', 'all'):
        print(items)
        return
    options = {'--resume RUN': 'Resume a run: its uuid or the beginning of it, its name or `last` for the newest, its '
                               'folder or that of a checkpoint',
               '--name NAME': "Name of the experiment, in place of the script's",
               '--comment TEXT': 'What to show beside the name in the list of runs; by default the overrides',
               '--tags A,B': 'Words to filter runs by; by default the recipe, the text, the tokenizer and the device',
               '--help [all|NAME]': 'Show the items that matter first, all of them, or one and those below it'}
    usage = (f'usage: {how_to_call()} {found.usage}[name=value ...] [--resume RUN] [--name NAME] [--comment TEXT] '
             '[--tags A,B] [--help [all|NAME]]')
    lines = ['Set items by name=value: seq_len=64', '',
             *textwrap.wrap(usage, width(), subsequent_indent=' ' * 8, break_long_words=False, break_on_hyphens=False),
             '']
    for option, text in options.items():
        lines += [f'  {option}', *textwrap.wrap(text, width(), initial_indent=' ' * 8, subsequent_indent=' ' * 8)]
    print('\n'.join([*lines, '', 'Items, defaults, and what is allowed', '', items]))


def _run(prepared: PreparedRun):
    """Trains, to the end or until a signal comes."""
    if not ranks().is_main:
        _follow(prepared.conf)
        return
    try:
        conf = prepared.conf
        if prepared.resumption and conf._is_complete:
            logger.log(f'The run {prepared.run.uuid} {how_to_train_longer(conf)} to train longer, with '
                       f'{how_to_resume(prepared.run)}')
            return
        with ranks().synchronize_errors():
            _start(prepared)
        log_about(prepared)
        try:
            _train(prepared)
        except DivergedError as e:
            error = DivergedError(f'{e}. {after_divergence(prepared.run)}')
            # The other ranks wait for the message
            ranks().check_errors(error)
            raise error from None
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
    except KeyboardInterrupt as e:
        _exit(_code(e, conf), '')
    except DivergedError as e:
        ranks().check_errors(e)


def _start(prepared: PreparedRun):
    """Starts labml's experiment: from here on the run is on the disk."""
    this, run, conf = experiment_singleton(), prepared.run, prepared.conf
    is_new = not run.path.exists()
    # A folder, where no script trains
    script = this.run.python_file if os.path.isfile(this.run.python_file) else None
    snapshot = take_snapshot(conf, experiment=this.run.name, script=script)
    snapshot['script_experiment'] = prepared.script_name if prepared.script_name != this.run.name else None
    try:
        if prepared.resumption:
            prepared.resumption.rewind(conf)
            snapshot = prepared.resumption.merged_snapshot(snapshot, tokens=conf.progress.tokens)
            # labml would overwrite how the run was started
            this.run.save_info = lambda: write_atomically(run.path / 'run.pid', str(this.run.pid).encode())
            this.run.configs_path = run.path / 'configs.resumed.yaml'
        else:
            run.path.mkdir(parents=True, exist_ok=True)
            _lock_new(run)
        # Everything it takes to resume, before the first step
        run.snapshot = snapshot
        write_files(run.path, describe_texts(conf))
        set_run_of_job(run.uuid)
        for name, text in tokenizer_files(conf._get_computed('tokenizer')).items():
            write_atomically(run.path / name, text.encode())
        with console.silent(is_silent=not conf.verbose):
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
    status, details, code, is_saved = 'crashed', None, 0, False
    try:
        uploader.start(run, writer, is_output_sent=conf.is_output_sent)
        conf.run()
        status = 'completed'
    except KeyboardInterrupt as e:
        status, code, is_saved = 'interrupted', _code(e, conf), isinstance(e, Stopped)
        if not is_saved:
            # A second Ctrl-C waits for nothing
            writer.patience = 0.5
    except BaseException as e:
        details = 'another rank failed' if is_rank_failure(e) else str(e)
        raise
    finally:
        error = _finish_experiment(status, details) or writer.error or conf.checkpointer.error
        with contextlib.suppress(KeyboardInterrupt):
            if status == 'completed':
                if unread := unread_at_end(conf, prepared.given):
                    logger.log(f'Given, but nothing has read it: {", ".join(unread)}', Text.warning)
                log_summary(conf)
                logger.log(f'Trained on {text_about(conf)}', Text.meta)
                log_next(conf, run)
            uploader.finish(status, details)
        console.finish()
    if status == 'interrupted':
        _end_interrupted(conf, run, code=code, is_saved=is_saved)
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


def _code(error: KeyboardInterrupt, conf: MLMConfigs | None = None) -> int:
    """The exit code after a signal, which came in the training of `conf` if that has noted one."""
    number = None if conf is None else conf.interrupt.signal
    return 128 + (number or getattr(error, 'number', signal.SIGINT))


def _interrupted_early(prepared: PreparedRun) -> str:
    """After a signal before the first step, or after the last one."""
    run = prepared.run
    return interrupted(prepared.conf, run) if run is not None and run.path.exists() else 'Interrupted'


def _end_interrupted(conf: MLMConfigs, run: Run, *, code: int, is_saved: bool):
    """After a signal: ends the process, or in a notebook returns."""
    if not (session.is_interactive() and is_saved):
        _exit(code, interrupted(conf, run))
    logger.log(interrupted(conf, run), Text.warning)
    if code != 128 + signal.SIGINT:
        # It was meant for the whole process
        signal.raise_signal(code - 128)


def _exit(code: int, message: str) -> NoReturn:
    """Ends the process, or in a notebook what it does; only the main rank says why."""
    if session.is_interactive():
        raise KeyboardInterrupt(message) from None
    if ranks().is_main:
        repeat_after_torchrun(message)
        exit_with(code, message)
    sys.exit(code)
