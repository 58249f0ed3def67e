"""Commands whose standard streams are closed, as under cron."""
import subprocess
import sys

import pytest

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
