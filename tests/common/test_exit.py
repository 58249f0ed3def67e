"""An end by a signal."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import os
import signal
import sys
import tempfile

from labml_mlm.common.exit import Terminated, end_by, interrupted_by_all_signals

folder = tempfile.TemporaryDirectory()
print(folder.name, end='')
try:
    with interrupted_by_all_signals():
        os.kill(os.getpid(), int(sys.argv[1]))
        print('too late')
except Terminated as e:
    end_by(e.number)
'''


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_temporary_folders_are_removed_and_output_is_written(number):
    ended = subprocess.run([sys.executable, '-c', SCRIPT, str(int(number))], capture_output=True, text=True,
                           env={**os.environ, 'PYTHONUNBUFFERED': ''})
    assert ended.returncode == -number and not ended.stderr
    assert Path(ended.stdout).is_absolute() and not Path(ended.stdout).exists()
