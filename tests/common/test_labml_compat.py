"""Where labml cannot write to the home folder."""
import os
import subprocess
import sys

import pytest
from support.permissions import held_by_permissions, of_unknown_user

from labml_mlm.common import labml_compat
from labml_mlm.common.errors import UserError

HOME = '''
import os
from labml_mlm.common.labml_compat import computer_singleton, give_home

before = os.environ.get('HOME')
print(give_home())
assert os.environ.get('HOME') == before and give_home() is None
print(len(computer_singleton().uuid), computer_singleton().home)
'''


def given(path, *prefix: str, home: str | None) -> tuple[str, str]:
    """Why there is a temporary home folder, and which, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in ('HOME', 'USER', 'LOGNAME')}
    if home is not None:
        environment['HOME'] = home
    result = subprocess.run([*prefix, sys.executable, '-c', HOME], cwd=path, env=environment, capture_output=True,
                            text=True)
    assert result.returncode == 0, result.stderr
    reason, computer = result.stdout.splitlines()[-2:]
    n, folder = computer.split(maxsplit=1)
    assert n == '32'
    return reason, folder


def test_home_that_can_be_written_is_used(tmp_path):
    assert given(tmp_path, home=str(tmp_path)) == ('None', str(tmp_path))
    assert (tmp_path / '.labml').is_dir()


def test_user_without_a_home_folder(tmp_path):
    """As in a container with a user of any number."""
    reason, folder = given(tmp_path, *of_unknown_user(), home=None)
    assert reason.startswith('There is no home folder: labml takes this for a new computer')
    assert not os.path.exists(folder)


@pytest.mark.parametrize('is_labml_there', [False, True])
def test_read_only_home_folder(tmp_path, is_labml_there):
    prefix = held_by_permissions()
    if is_labml_there:
        given(tmp_path, home=str(tmp_path))
    for folder in (tmp_path, *tmp_path.rglob('*/')):
        folder.chmod(0o555)
    reason, folder = given(tmp_path, *prefix, home=str(tmp_path))
    assert reason.startswith(f'{tmp_path} cannot be written (Permission denied): ')
    assert folder != str(tmp_path) and not os.path.exists(folder)


def test_without_any_folder_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path / 'file/home'))
    (tmp_path / 'file').touch()
    monkeypatch.setattr(labml_compat.labml_computer, '_internal', None)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'nothing'))
    with pytest.raises(UserError, match='file/home cannot be written .*: set HOME or TMPDIR to one that can'):
        labml_compat.give_home()
    assert os.environ['HOME'] == str(tmp_path / 'file/home')


def test_run_without_a_home_folder_says_so_and_trains(project):
    result = project.train(env={'HOME': '/proc'})
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stdout.splitlines() if line.startswith('/proc cannot be written')]
    assert 'set HOME to a folder that can be written' in line
    assert project.status() == 'completed'
