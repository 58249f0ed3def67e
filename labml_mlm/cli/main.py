"""The command line of `labml-mlm`."""
import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from labml_mlm.cli.parser import command_parser
from labml_mlm.common.arguments import check_names
from labml_mlm.common.errors import UnknownPart, UserError
from labml_mlm.common.exit import Terminated, end_by, exit_on_error, exit_with, interrupted_by_all_signals
from labml_mlm.tracking.uploader import discard_captured_output


def main(arguments: Sequence[str] | None = None):
    """
    Runs a command, from `arguments` or the command line.

    Exits with 2 and one message for anything wrong in the arguments or in a text, with 1 if the machine fails, with 130
    after Ctrl-C. After SIGTERM and the like, the process ends by that signal; a file that was half written is removed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ['train']:
        # Its arguments are those of training scripts
        from labml_mlm.launch.train_files import train_files

        train_files(arguments[1:])
        return
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            # A terminal with another encoding must not end the command
            stream.reconfigure(errors='replace')
    discard_captured_output()
    with exit_on_error(is_user_code=False):
        try:
            parser, names = command_parser()
            if not arguments:
                parser.print_help()
                return
            check_names(parser, names, arguments)
            parsed, more = parser.parse_known_args(arguments)
            if more:
                raise UserError(f'labml-mlm {arguments[0]}: too many arguments: {shlex.join(more)}. '
                                f'`labml-mlm {arguments[0]} --help` says what it takes')
            _import_files(parsed)
            with interrupted_by_all_signals():
                parsed.command(parsed)
            sys.stdout.flush()
        except UnknownPart as e:
            raise UserError(_how_to_import(e, arguments)) from None
        except Terminated as e:
            end_by(e.number)
        except KeyboardInterrupt:
            exit_with(130, 'Interrupted')


def _import_files(parsed: argparse.Namespace):
    if files := getattr(parsed, 'imported', None):
        # It imports torch, too, which takes seconds
        from labml_mlm.common.importing import import_file

        for path in files:
            import_file(path)


def _how_to_import(error: UnknownPart, arguments: Sequence[str]) -> str:
    """What is missing, and the command that has it."""
    script = error.script if error.script and error.script.endswith('.py') else None
    if any(argument.partition('=')[0] == '--import' for argument in arguments):
        return (f'{error.about}: what --import names does not register it'
                + (f'. The run was trained by {script}' if script else ''))
    command = shlex.join(['labml-mlm', arguments[0], '--import', script or 'FILE.py', *arguments[1:]])
    gone = ', which is not there any more: give its present path' if script and not Path(script).exists() else ''
    return (f'{error.about}. It is registered by {script or "the file that trained the run"}{gone}, and nothing is '
            f'imported unless you say so: {command}')
