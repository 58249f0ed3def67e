"""
# `labml-mlm delete`

First from the disk, then from the labml app of the project, if one answers.
"""
import argparse
import contextlib
import sys
import time

from labml_mlm.common.errors import UserError
from labml_mlm.common.project import app_url, logs_path
from labml_mlm.common.table import print_table, size_text
from labml_mlm.run_commands.deletion import delete_run, find_deletable, size_of
from labml_mlm.runs.run import Run
from labml_mlm.tracking.client import Undelivered
from labml_mlm.tracking.removal import remove_from_app


def delete(parsed: argparse.Namespace):
    """Deletes runs, if a person or `--yes` says so."""
    logs = logs_path(parsed.path)
    runs = list({run.uuid: run for run in (find_deletable(logs, name) for name in parsed.run)}.values())
    if not parsed.yes and not _ask(runs):
        print('Nothing is deleted')
        return
    freed = 0
    for run in runs:
        n_bytes = delete_run(run)
        freed += n_bytes
        print(f'The run {run.uuid} is deleted: {size_text(n_bytes)}', flush=True)
    if len(runs) > 1:
        print(f'That frees {size_text(freed)}')
    url = None
    # A project without an app
    with contextlib.suppress(UserError):
        url = app_url(parsed.path)
    if url is None:
        return
    try:
        removed = remove_from_app([run.uuid for run in runs], url)
    except Undelivered as e:
        print(f'Not taken off the labml app at {url.partition("/api/")[0]}: {e}', file=sys.stderr)
        return
    if removed:
        print(f'Taken off the labml app: {", ".join(removed)}')


def _ask(runs: list[Run]) -> bool:
    """Lists what is to be deleted. Raises `UserError` if nobody can answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(f'nobody can be asked here whether to delete {", ".join(run.uuid for run in runs)}: --yes '
                        'deletes without a question')
    rows = [[run.uuid, run.experiment, time.strftime('%Y-%m-%d %H:%M', time.localtime(run.started)), run.status,
             size_text(size_of(run.path))] for run in runs]
    print_table(rows, numbers=(4,))
    print(f'Delete {"this run" if len(runs) == 1 else f"these {len(runs)} runs"} for ever? [y/N]', end=' ', flush=True)
    return sys.stdin.readline().strip().lower() in ('y', 'yes')
