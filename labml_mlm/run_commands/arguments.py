"""The commands on runs, and their arguments."""
from collections.abc import Callable
from pathlib import Path

from labml_mlm.common.arguments import Parser
from labml_mlm.run_commands.completion import SHELLS, completion
from labml_mlm.run_commands.delete import delete
from labml_mlm.run_commands.export_metrics import export_metrics
from labml_mlm.run_commands.info import diff, info


def add_run_commands(parser: Parser, command: Callable[..., Parser], about_run: str):
    """
    Adds the commands to the `parser` of all.

    * `command(name, function, about)` adds one, and returns its parser
    * `about_run` says what a run can be called
    """
    info_ = command('info', info, 'Tell what a run is, how it went, and how to resume it.')
    info_.add_argument('run', metavar='RUN', help=about_run)

    diff_ = command('diff', diff, 'Tell what differs in two runs: items, text, tokenizer, versions, figures.')
    diff_.add_argument('run', metavar='RUN', nargs=2, help=about_run)

    export_ = command('export-metrics', export_metrics,
                      'Write the metrics of runs as a table with the columns run, experiment, step, name and value.')
    export_.add_argument('run', metavar='RUN', nargs='+', help=about_run)
    export_.add_argument('-o', '--output', type=Path, required=True, metavar='FILE',
                         help='where to: .csv, .parquet, or - for CSV on standard output')

    delete_ = command('delete', delete, 'Delete runs, from the disk and from the labml app if one answers.')
    delete_.add_argument('run', metavar='RUN', nargs='+', help=about_run)
    delete_.add_argument('--yes', action='store_true', help='ask nothing')

    for parser_ in (info_, diff_, export_, delete_):
        parser_.add_argument('--path', type=Path, default=Path(), metavar='FOLDER',
                             help='a folder in the labml project, instead of the current one')
    for parser_ in (info_, diff_):
        parser_.add_argument('--json', action='store_true', help='print JSON')

    completion_ = command('completion', lambda parsed: completion(parsed, parser),
                          'Print a script that completes commands, options and runs in a shell.')
    completion_.add_argument('shell', metavar='SHELL', choices=SHELLS,
                             help='bash: eval "$(labml-mlm completion bash)" in ~/.bashrc; '
                                  'zsh: labml-mlm completion zsh > a file _labml-mlm in a folder of $fpath')
