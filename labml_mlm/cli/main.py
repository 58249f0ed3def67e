"""The command line of `labml-mlm`."""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from labml_mlm.cli import commands
from labml_mlm.cli.export import export
from labml_mlm.common.exit import exit_on_error, exit_with
from labml_mlm.tracking.uploader import discard_captured_output

_RUN = 'a run: its uuid or the beginning of it, its folder or that of a checkpoint, or `last` for the newest'
_MODEL = f'{_RUN}; or the folder of a published encoder'
# Beside what labml itself keeps, for runs of all projects
_STORE = Path('~/.labml/app.sqlite')


def main(arguments: Sequence[str] | None = None):
    """
    Runs a command, from `arguments` or the command line.

    Exits with 2 and one message for anything wrong in the arguments or in a text, with 1 if the machine fails, with 130
    after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            # A terminal with another encoding must not end the command
            stream.reconfigure(errors='replace')
    discard_captured_output()
    with exit_on_error(is_user_code=False):
        try:
            parsed.command(parsed)
            sys.stdout.flush()
        except KeyboardInterrupt:
            exit_with(130, 'Interrupted')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='labml-mlm', description='Use, evaluate and watch the runs of labml_mlm.')
    added = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, function, about: str) -> argparse.ArgumentParser:
        command_ = added.add_parser(name, help=about, description=about)
        command_.set_defaults(command=function)
        return command_

    listed = command('runs', commands.list_runs, 'List the runs of the current labml project.')

    samples = command('samples', commands.samples,
                      'Show how the prompts of a run were filled in at each of its validations.')
    samples.add_argument('run', metavar='RUN', help=_RUN)

    plot = command('plot', commands.plot, 'Plot loss and masked accuracy of runs.')
    plot.add_argument('run', metavar='RUN', nargs='+', help=_RUN)
    plot.add_argument('-o', '--output', type=Path, default=Path('curves.png'), metavar='FILE',
                      help='the image (curves.png); its suffix sets the format')

    fill_mask = command('fill-mask', commands.fill_mask,
                        'Fill in every [MASK] of a text, or of each line of standard input.')
    fill_mask.add_argument('run', metavar='RUN', help=_MODEL)
    fill_mask.add_argument('text', metavar='TEXT', nargs='*',
                           help='a text with [MASK] in it; by default, lines of standard input')
    fill_mask.add_argument('--top', type=_at_least_1, default=5, metavar='N', help='predictions for each [MASK] (5)')

    evaluate = command('evaluate', commands.evaluate,
                       'Compute loss, masked accuracy and perplexity on a text, next to the unigram baseline.')
    evaluate.add_argument('run', metavar='RUN', help=_MODEL)
    evaluate.add_argument('--text', action='append', metavar='FILE',
                          help='a UTF-8 text or a folder of texts; may be repeated. By default, the validation set of '
                               'the run')
    evaluate.add_argument('--pseudo', action='store_true',
                          help='also pseudo-perplexity, which masks each token in turn; takes seq_len times as long')
    export_ = command('export', export, 'Write a model as a folder that Hugging Face loads, or as a file in ONNX.')
    export_.add_argument('run', metavar='RUN', help=_MODEL)
    export_.add_argument('target', metavar='FOLDER', type=Path, help='the folder, or a file that ends in .onnx')
    export_.add_argument('--force', action='store_true', help='replace what an export has written before')
    export_.add_argument('--custom-code', action='store_true',
                         help='with code of its own, for `trust_remote_code=True`: any model, exact in 16 bits, too')
    export_.add_argument('--sentence-transformers', action='store_true', help='a `SentenceTransformer`, too')
    export_.add_argument('--encoder', action='store_true', help='ONNX: hidden states in place of logits')

    sync = command('sync', commands.sync, 'Send a labml app the parts of a run that it does not have.')
    sync.add_argument('run', metavar='RUN', nargs='?', help=f'{_RUN}; by default, the newest')
    sync.add_argument('--all', action='store_true', help='all runs of the project')
    sync.add_argument('--url', help='the address of the app, instead of the app_url of the project')

    app = command('app', commands.app, 'Serve the labml app, for runs of any labml project.')
    app.add_argument('--host', default='127.0.0.1', help='the address to listen on (127.0.0.1). The app has no login')
    app.add_argument('--port', type=_port, default=5005, help='the port to listen on (5005)')
    app.add_argument('--store', type=Path, default=_STORE, metavar='FILE', help=f'where runs are stored ({_STORE})')
    app.add_argument('--allow-host', action='append', default=[], metavar='NAME',
                     help='a name by which this server may be called; may be repeated')

    for parser_ in (listed, samples, plot, fill_mask, evaluate, export_, sync):
        parser_.add_argument('--path', type=Path, default=Path(), metavar='FOLDER',
                             help='a folder in the labml project, instead of the current one')
    for parser_ in (listed, samples, fill_mask, evaluate, sync):
        parser_.add_argument('--json', action='store_true', help='print JSON')
    for parser_ in (fill_mask, evaluate, export_):
        parser_.add_argument('--checkpoint', default='best', metavar='WHICH',
                             help='`best` by validation loss (the default), `last`, or a step')
    return parser


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: it must be an integer, at least 1')
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'{text}: a port must be from 0 to 65535')
    return int(text)
