from pathlib import Path

import pytest
from support.exports import NO_PYTHON

from labml_mlm.task_export.folder import export_task_folder


@pytest.fixture(scope='session')
def task_folders(fine_tuned, tmp_path_factory) -> dict[str, Path]:
    """The exports of all models by name."""
    path = tmp_path_factory.mktemp('task_folders')
    for name, trained in fine_tuned.items():
        export_task_folder(trained, path / name, python=NO_PYTHON)
    return {name: path / name for name in fine_tuned}
