"""
# `labml-mlm report`
"""
import argparse
import time
from collections.abc import Callable
from pathlib import Path

from labml_mlm.common.arguments import Parser
from labml_mlm.common.errors import UserError
from labml_mlm.common.files import write_atomically
from labml_mlm.common.project import logs_path
from labml_mlm.common.table import size_text
from labml_mlm.report.gather import gather
from labml_mlm.report.page import page
from labml_mlm.runs.log_lines import Skipped, say_skipped
from labml_mlm.runs.run import find_run

_SUFFIXES = '.html', '.htm'


def add_report(command: Callable[..., Parser], about_run: str):
    """Adds the command. `command(name, function, about)` returns its parser, and `about_run` is what a run can be."""
    parser = command('report', report, 'Write a page on runs that needs neither an app nor a network: curves, samples, '
                                       'items that differ, figures, versions.')
    parser.add_argument('run', metavar='RUN', nargs='+', help=about_run)
    parser.add_argument('-o', '--output', type=Path, default=Path('report.html'), metavar='FILE',
                        help='where to (report.html)')
    parser.add_argument('--path', type=Path, default=Path(), metavar='FOLDER',
                        help='a folder in the labml project, instead of the current one')


def report(parsed: argparse.Namespace):
    """A page on runs."""
    _check_target(parsed.output)
    logs = logs_path(parsed.path)
    runs = {run.uuid: run for run, _ in (find_run(logs, name) for name in parsed.run)}
    gathered = [gather(run) for run in runs.values()]
    for run, data in zip(runs.values(), gathered, strict=True):
        say_skipped(+Skipped({run.log: data.n_damaged, run.samples.path: data.n_damaged_samples}))
    # A text may have half of a surrogate pair, which no file has
    content = page(gathered, now=time.time()).encode(errors='replace')
    write_atomically(parsed.output, content)
    print(f'{parsed.output} has {", ".join(runs)}: {size_text(len(content))}')


def _check_target(path: Path):
    """Raises `UserError` for what cannot be a page."""
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f'-o {path}: it must end in {" or ".join(_SUFFIXES)}')
    if path.is_dir():
        raise UserError(f'-o {path}: it is a folder')
    if not path.parent.is_dir():
        raise UserError(f'-o {path}: there is no folder {path.parent}')
