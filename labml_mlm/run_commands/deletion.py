"""
# Deleting runs

A folder is deleted if it is a run in labml's folder of experiments, `logs/<experiment>/<uuid>`, and nothing else: no
link, no checkpoint, no run of another project, and never a run that is being trained.

It is first renamed to `.<uuid>.deleted`, which no command takes for a run: after a kill it is gone as a run, and what
is left of it is removed with the next one.
"""
import os
import shutil
from pathlib import Path

from labml_mlm.common.errors import UserError
from labml_mlm.runs.run import Run, find_run

_SUFFIX = '.deleted'


def find_deletable(logs: Path, name: str) -> Run:
    """
    The run that `name` means, as `find_run` takes it.

    Raises `UserError` if there is none, or if it must not be deleted.
    """
    run, at = find_run(logs, name)
    if at is not None:
        raise UserError(f'{name} is a checkpoint of the run {run.uuid}, and only whole runs are deleted')
    place = logs.resolve() / run.experiment / run.uuid
    # `name` itself may be a link, or lead through one
    is_path = os.sep in name or Path(name).is_symlink()
    if place.is_symlink() or is_path and _plain(name) != place or run.path.resolve() != place:
        raise UserError(f'{name} is not a folder in {logs}, or is a link: only runs of this project are deleted, '
                        'and links are not followed')
    _refuse_running(run)
    return run


def delete_run(run: Run) -> int:
    """
    Deletes a run that `find_deletable` has found. Returns how many bytes it had.

    Raises `UserError` if it is being trained by now, or must not be deleted by this user; `OSError` if some of its
    files cannot be removed.
    """
    _refuse_running(run)
    run.lock()
    try:
        n_bytes = size_of(run.path)
        hidden = run.path.with_name(f'.{run.uuid}{_SUFFIX}')
        _remove_leftovers(run.path.parent)
        os.rename(run.path, hidden)
    except PermissionError as e:
        raise UserError(f'this user cannot delete the run {run.uuid}: {e.filename}: {e.strerror}') from None
    finally:
        run.unlock()
    shutil.rmtree(hidden)
    if not any(run.path.parent.iterdir()):
        run.path.parent.rmdir()
    return n_bytes


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; what is linked does not count."""
    return sum((Path(parent) / name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)


def _refuse_running(run: Run):
    if run.status == 'running':
        raise UserError(f'the run {run.uuid} is running, in process {run.owner() or run.pid}: end it first')


def _plain(name: str) -> Path:
    """An absolute path without `..`, as the names stand, with the links before the project resolved."""
    path = Path(os.path.abspath(os.path.expanduser(name)))
    return path.parent.parent.resolve() / path.parent.name / path.name


def _remove_leftovers(experiment: Path):
    for path in experiment.glob(f'.*{_SUFFIX}'):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
