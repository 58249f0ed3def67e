"""
# A message that is the last on the screen

After Ctrl-C, torchrun waits for all ranks, and then prints a traceback of its own, some 40 lines: how to resume the run
has scrolled away by then. So `repeat_after_torchrun` starts a process that outlives torchrun and prints the message
again. torchrun's store closes after the traceback, and before a shell asks for the next command.

This file is also the script of that process, so it imports nothing but Python's own modules.
"""
import contextlib
import os
import socket
import subprocess
import sys
import time

# Seconds that torchrun may take: it gives the ranks 30
_PATIENCE = 60.
# Seconds for its traceback, where the store had closed before this process was there
_TRACEBACK = 1.
# Seconds between two looks at whether torchrun is still there
_INTERVAL = 0.1


def repeat_after_torchrun(message: str):
    """Prints a message on the terminal, once torchrun has ended. Without torchrun or a terminal, nothing happens."""
    environment = os.environ
    if environment.get('TORCHELASTIC_USE_AGENT_STORE') != 'True' or not sys.stderr.isatty():
        return
    with contextlib.suppress(OSError):
        # In a session of its own, which a second Ctrl-C does not reach
        subprocess.Popen([sys.executable, '-I', '-S', __file__, environment['MASTER_ADDR'], environment['MASTER_PORT'],
                          str(os.getppid()), message],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _wait(host: str, port: int, torchrun: int) -> bool:
    """Waits until the store has closed, or torchrun has ended; not for ever. Has it?"""
    deadline = time.monotonic() + _PATIENCE
    try:
        store = socket.create_connection((host, port), timeout=_PATIENCE)
    except OSError:
        time.sleep(_TRACEBACK)
        return True
    with store:
        store.settimeout(_INTERVAL)
        while time.monotonic() < deadline:
            try:
                # It answers only what it is asked
                store.recv(1)
                return True
            except TimeoutError:
                try:
                    os.kill(torchrun, 0)
                except OSError:
                    return True
            except OSError:
                return True
    # It goes on, as with `--max-restarts`
    return False


if __name__ == '__main__':
    if _wait(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])):
        print('', "The traceback is torchrun's, which ends so after any signal.", sys.argv[4],
              sep='\n', file=sys.stderr, flush=True)
