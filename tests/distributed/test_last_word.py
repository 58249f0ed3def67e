"""How to resume stands below the traceback of torchrun."""
import os
import pty
import signal
import socket
import subprocess
import sys

import pytest

from labml_mlm.distributed import last_word

SCRIPT = '''
import time
from labml_mlm.distributed.last_word import repeat_after_torchrun

try:
    print('started', flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    repeat_after_torchrun('how to resume')
'''


@pytest.fixture
def store():
    with socket.create_server(('localhost', 0)) as server:
        yield server


def start(store, pid: int) -> subprocess.Popen:
    """The process that prints `message`, connected to the store of a torchrun with that process id."""
    return subprocess.Popen([sys.executable, '-I', '-S', last_word.__file__, *map(str, store.getsockname()[:2]),
                             str(pid), 'message'], stderr=subprocess.PIPE, text=True)


def test_message_is_printed_when_the_store_closes(store):
    process = start(store, os.getpid())
    connection, _ = store.accept()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    connection.close()
    assert process.communicate(timeout=60)[1].splitlines()[-1] == 'message'


def test_message_is_printed_when_torchrun_has_ended(store):
    """Its store may be on another machine."""
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    process = start(store, ended.pid)
    assert process.communicate(timeout=60)[1].splitlines()[-1] == 'message'


@pytest.mark.parametrize('environment', [{}, {'TORCHELASTIC_USE_AGENT_STORE': 'True'}])
def test_nothing_is_started_without_torchrun_or_a_terminal(monkeypatch, environment):
    started = []
    monkeypatch.setattr(subprocess, 'Popen', lambda *a, **_: started.append(a))
    monkeypatch.delenv('TORCHELASTIC_USE_AGENT_STORE', raising=False)
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: not environment, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    last_word.repeat_after_torchrun('message')
    assert started == []


def read(terminal: int) -> str:
    """What comes next; empty once nothing has the terminal open."""
    try:
        return os.read(terminal, 1 << 16).decode()
    except OSError:
        return ''


def test_last_line_after_ctrl_c_is_ours(tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    terminal, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=1',
                                'script.py'], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs,
                               start_new_session=True)
    os.close(theirs)
    out = ''
    while 'started' not in out and (more := read(terminal)):
        out += more
    os.killpg(process.pid, signal.SIGINT)
    while more := read(terminal):
        out += more
    process.wait()
    os.close(terminal)
    assert 'SignalException' in out
    assert out.splitlines()[-1] == 'how to resume'
