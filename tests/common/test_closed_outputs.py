"""Commands whose standard streams are closed, as under cron."""
import json
import subprocess
import sys

import pytest
from support.project import SMALL

CLOSED = ['>&-', '2>&-', '<&-', '>&- 2>&-', '<&- >&- 2>&-']
# A file that is opened after the import gets none of what is printed, by Python and from C
OPENS = '''
import os
import labml_mlm
import labml.logger
with open('data', 'wb') as f:
    print('printed', flush=True)
    for number in (1, 2):
        os.write(number, b'written')
    f.write(b'data')
    assert f.fileno() > 2
'''


def ended(code: str, closed: str, folder, *arguments: str) -> int:
    """The exit code of Python code with streams closed."""
    command = ['sh', '-c', f'exec "$@" {closed}', 'sh', sys.executable, '-c', code, *arguments]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize('closed', CLOSED)
def test_files_get_no_output(closed, tmp_path):
    assert ended(OPENS, closed, tmp_path) == 0
    assert (tmp_path / 'data').read_bytes() == b'data'


@pytest.mark.parametrize('closed', CLOSED)
@pytest.mark.parametrize('arguments, code', [(['--help'], 0), (['runs'], 0), (['nothing'], 2), (['info', 'last'], 2)])
def test_exit_codes_are_as_with_streams(closed, arguments, code, tmp_path):
    (tmp_path / '.labml.yaml').touch()
    main = 'import sys\nfrom labml_mlm.__main__ import main\nmain(sys.argv[1:])'
    assert ended(main, closed, tmp_path, *arguments) == code


def in_shell(project, *arguments: str) -> int:
    """The exit code of Python in a project, without any standard stream."""
    return subprocess.run(['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', sys.executable, *arguments], cwd=project.path,
                          env=project.environment(), timeout=300).returncode


@pytest.mark.long
def test_runs_are_trained_and_resumed_without_streams(project):
    values = [f'text_path={project.text.name}', *SMALL]
    assert in_shell(project, 'train.py', *values, 'd_model=15') == 2
    assert in_shell(project, 'train.py', *values) == 0
    assert in_shell(project, 'train.py', '--resume', 'last', 'epochs=2') == 0
    assert project.status() == 'completed'
    [run] = project.runs
    tracked = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    assert len(tracked) > 1
    assert in_shell(project, '-m', 'labml_mlm', 'sync') == 1


@pytest.mark.long
def test_sweeps_are_trained_without_streams(project):
    values = [project.text.name, *SMALL, 'seed=1,2']
    assert in_shell(project, '-m', 'labml_mlm', 'sweep', *values) == 0
    assert len(project.runs) == 2
    for run in project.runs:
        assert json.loads((run / 'run_log.jsonl').read_text().splitlines()[-1])['status'] == 'completed'
