"""The command `labml-mlm`: what was trained, and what to do with it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from labml_mlm.cli import commands
from labml_mlm.common import exit as exits
from labml_mlm.tracking.uploader import forget_output

_RUN = 'a run: its uuid or the beginning of it, its folder or that of a checkpoint, or `last` for the newest'
# Where runs of all projects are kept unless said otherwise: beside what labml itself keeps
_STORE = Path('~/.labml/app.sqlite')


def main(arguments: Sequence[str] | None = None):
    """
    Runs a command, from `arguments` or the command line.

    Exits with 2 and one message for what is wrong in the arguments or in a text, with 1 if the machine fails, with 130
    after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            # A text in a terminal of another encoding is no reason to stop
            stream.reconfigure(errors='replace')
    forget_output()
    with exits.exits(is_user_code=False):
        try:
            parsed.command(parsed)
            sys.stdout.flush()
        except KeyboardInterrupt:
            exits.leave(130, 'Interrupted')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='labml-mlm', description='What was trained, and what to do with it.')
    added = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, function, about: str) -> argparse.ArgumentParser:
        command_ = added.add_parser(name, help=about, description=about)
        command_.set_defaults(command=function)
        return command_

    listed = command('runs', commands.list_runs, 'List the runs of the labml project that one stands in.')

    samples = command('samples', commands.samples,
                      'How the prompts of a run were filled in, at each of its validations.')
    samples.add_argument('run', metavar='RUN', help=_RUN)

    plot = command('plot', commands.plot, 'Draw loss and masked accuracy of runs.')
    plot.add_argument('run', metavar='RUN', nargs='+', help=_RUN)
    plot.add_argument('-o', '--output', type=Path, default=Path('curves.png'), metavar='FILE',
                      help='the image (curves.png); its ending says what kind of one')

    fill_mask = command('fill-mask', commands.fill_mask,
                        'Fill in every [MASK] of a text, or of each line of standard input.')
    fill_mask.add_argument('run', metavar='RUN', help=_RUN)
    fill_mask.add_argument('text', metavar='TEXT', nargs='*', help='a text with [MASK] in it; without one, lines of '
                                                                   'standard input')
    fill_mask.add_argument('--top', type=_at_least_1, default=5, metavar='N', help='predictions for each [MASK] (5)')

    evaluate = command('evaluate', commands.evaluate,
                       'Loss, masked accuracy and perplexity on a text, beside the unigram baseline.')
    evaluate.add_argument('run', metavar='RUN', help=_RUN)
    evaluate.add_argument('--text', action='append', metavar='FILE',
                          help='a text in UTF-8; may be given again. Without it, what the run was validated on')
    evaluate.add_argument('--pseudo', action='store_true', help='also pseudo-perplexity: each token masked in turn, '
                                                                'which takes as many times longer as seq_len says')
    sync = command('sync', commands.sync, 'Send a labml app what it has not had yet of a run.')
    sync.add_argument('run', metavar='RUN', nargs='?', help=f'{_RUN}; without one, the newest')
    sync.add_argument('--all', action='store_true', help='all runs of the project')
    sync.add_argument('--url', help='where the app takes updates, in place of the app_url of the project')

    app = command('app', commands.app, 'Serve the labml app, for runs of any labml project.')
    app.add_argument('--host', default='127.0.0.1', help='the address to listen at (127.0.0.1). The app has no login')
    app.add_argument('--port', type=_port, default=5005, help='the port to listen at (5005)')
    app.add_argument('--store', type=Path, default=_STORE, metavar='FILE', help=f'where runs are kept ({_STORE})')
    app.add_argument('--allow-host', action='append', default=[], metavar='NAME',
                     help='a name that this server is called by; may be given again')

    for parser_ in (listed, samples, plot, fill_mask, evaluate, sync):
        parser_.add_argument('--path', type=Path, default=Path(), metavar='FOLDER',
                             help='a folder in the labml project, in place of the current one')
    for parser_ in (listed, samples, fill_mask, evaluate, sync):
        parser_.add_argument('--json', action='store_true', help='print JSON')
    for parser_ in (fill_mask, evaluate):
        parser_.add_argument('--checkpoint', default='best', metavar='WHICH',
                             help='`best` by validation loss (unless given), `last`, or a step')
    return parser


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: it has to be a whole number, at least 1')
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'{text}: a port is a number from 0 to 65535')
    return int(text)


if __name__ == '__main__':
    main()

