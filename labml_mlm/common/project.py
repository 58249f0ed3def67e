"""
# The labml project

A project is a folder with a `.labml.yaml`; its runs are in `logs/`, its data in `data/`. labml finds it from the file
that calls labml. That would be a file of this package, wherever it is installed, so `set_project` finds the script.
"""
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import labml.internal.lab
from labml.utils import get_caller_file

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import expand_home

# What is in it calls labml for others
_PACKAGE = Path(__file__).parent.parent


def set_project(folder: Path | None = None) -> str:
    """
    Makes the project of the file that called into this package labml's project. Returns that file's path.

    * `folder` is in the project if no file of the user's calls; it need not have a `.labml.yaml`

    Raises `UserError` if labml cannot use its `.labml.yaml`.
    """
    ours = {str(path) for path in _PACKAGE.rglob('*.py')}
    script = str((folder or Path(get_caller_file(ours))).resolve())
    # labml warns of a missing .labml.yaml
    is_warned_of = folder is None or is_in_project(folder.resolve())
    try:
        with contextlib.nullcontext() if is_warned_of else contextlib.redirect_stdout(io.StringIO()):
            _set_project(script)
    except RuntimeError as e:
        raise UserError(f'.labml.yaml: {e}') from None
    return script


def _set_project(script: str):
    if labml.internal.lab._internal is None:
        labml.internal.lab._internal = labml.internal.lab.Lab(Path(script))
    else:
        labml.internal.lab.lab_singleton().set_path(script)


@contextlib.contextmanager
def in_project_of(folder: Path) -> Iterator[None]:
    """Inside, labml's project, and so its data path, is the one that contains `folder`, if there is one."""
    before = labml.internal.lab._internal
    try:
        if is_in_project(folder):
            labml.internal.lab._internal = _lab(folder)
        yield
    finally:
        labml.internal.lab._internal = before


def logs_path(folder: Path) -> Path:
    """
    labml's folder of experiments, in the project that contains `folder`.

    Raises `UserError` if there is no project, or if labml cannot use its `.labml.yaml`.
    """
    folder = expand_home(folder).resolve()
    if not is_in_project(folder):
        if (folder / 'logs').is_dir():
            # labml takes the folder of a script for the project then
            return folder / 'logs'
        raise UserError(f'{folder} is not in a labml project: there is no .labml.yaml in it or above it')
    return _lab(folder).experiments


def logs_path_for(run: str | Path, folder: str | Path) -> Path:
    """`logs_path` for a run that may be given by its folder, which needs no project."""
    try:
        return logs_path(Path(folder))
    except UserError:
        if not expand_home(run).is_dir():
            raise
        return Path(folder)


def app_url(folder: Path, url: str | None = None) -> str:
    """
    Where the labml app takes updates, as labml's clients have it: `url`, or what the project that contains `folder`
    says.

    Raises `UserError` if there is none.
    """
    try:
        if found := url and labml.internal.lab.get_app_url_for_handle('track', base_url=url):
            return found
    except RuntimeError as e:
        raise UserError(str(e)) from None
    folder = expand_home(folder).resolve()
    configs = _lab(folder).app_configs if is_in_project(folder) else None
    if configs is None:
        raise UserError('there is no labml app to send to: set app_url in .labml.yaml, or give --url')
    return configs.url


def is_in_project(folder: Path) -> bool:
    """Is there a `.labml.yaml` in a folder, an absolute path, or above it?"""
    return any((parent / '.labml.yaml').is_file() for parent in (folder, *folder.parents))


def _lab(folder: Path) -> Any:
    try:
        return labml.internal.lab.Lab(folder)
    except RuntimeError as e:
        raise UserError(f'.labml.yaml: {e}') from None
