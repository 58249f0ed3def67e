"""Runs in a folder that this user can only read."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from support.permissions import held_by_permissions
from support.project import SMALL

# Each command in one process, as importing torch takes long; prints its exit code and the last line of its errors
COMMANDS = '''
import contextlib
import io
import json
import sys
from labml_mlm.__main__ import main

for arguments in json.loads(sys.argv[1]):
    code, out, errors = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
        except SystemExit as e:
            code = e.code
    print(json.dumps([code, errors.getvalue().strip()]))
'''


@pytest.fixture
def read_only(trained, tmp_path):
    """A copy of the project with the run `feed`, in which nothing can be written; and how to run Python in it."""
    prefix = held_by_permissions()
    folder = shutil.copytree(trained.path, tmp_path / 'project')
    for path in (folder, *folder.rglob('*')):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def python(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*prefix, sys.executable, *arguments], cwd=folder, capture_output=True, text=True,
                              env={**os.environ, 'HOME': str(tmp_path), 'OMP_NUM_THREADS': '1'})
    yield folder, python
    for path in (folder, *folder.rglob('*')):
        path.chmod(0o755)


def test_commands_read_a_run_that_they_cannot_write(read_only, tmp_path):
    folder, python = read_only
    (tmp_path / 'words').write_text('the quick brown fox')
    to = {name: str(tmp_path / name) for name in ('plot.png', 'vectors.npy', 'exported', 'metrics.csv', 'page.html')}
    commands = [['runs'], ['info', 'feed'], ['evaluate', 'feed'], ['fill-mask', 'feed', 'the q[MASK]ick brown fox'],
                ['embed', 'feed', str(tmp_path / 'words'), '-o', to['vectors.npy']],
                ['score', 'feed', str(tmp_path / 'words')], ['plot', 'feed', '-o', to['plot.png']],
                ['export', 'feed', to['exported']],
                ['export-metrics', 'feed', '-o', to['metrics.csv']], ['report', 'feed', '-o', to['page.html']]]
    refused = [['plot', 'feed', '-o', str(folder / 'plot.png')], ['delete', 'feed', '--yes'],
               ['export', 'feed', str(folder / 'exported')]]
    result = python('-c', COMMANDS, json.dumps([*commands, *refused]))
    assert result.returncode == 0, result.stderr
    ended = [json.loads(line) for line in result.stdout.splitlines()]
    for arguments, (code, errors) in zip(commands, ended, strict=False):
        assert code == 0, (arguments, errors)
    assert all(os.path.exists(path) for path in to.values())
    for arguments, (code, errors) in zip(refused, ended[len(commands):], strict=True):
        assert code in (1, 2) and 'Permission denied' in errors.splitlines()[-1], (arguments, errors)
        assert 'Traceback' not in errors


def test_training_there_is_refused_before_the_text_is_read(read_only):
    folder, python = read_only
    for arguments, message in ((['--resume', 'feed'], 'this user cannot train the run feed'),
                               (['text_path=nothing', *SMALL],
                                f'no run can be started in {folder / "logs/test"}: this user cannot write to')):
        result = python('train.py', *arguments)
        assert result.returncode == 2 and message in result.stderr.splitlines()[-1], result.stderr
        assert 'Traceback' not in result.stderr
