import os
import sys

import pytest
from labml.internal.app.logs import APP_CONSOLE_LOGS
from support.terminal import Terminal


@pytest.fixture
def start_terminal(monkeypatch):
    """Puts a terminal in place of the streams, with what labml does to them."""
    opened = []

    def start(columns: int = 80):
        terminal = Terminal(columns)
        monkeypatch.setenv('TERM', 'xterm-256color')
        monkeypatch.delenv('NO_COLOR', raising=False)
        for name in ('stdout', 'stderr'):
            stream = os.fdopen(os.dup(terminal.device), 'w', buffering=1)

            def write(text, stream=stream, name=name):
                type(stream).write(stream, text)
                APP_CONSOLE_LOGS.outputs(**{f'{name}_': text})

            stream.write = write
            monkeypatch.setattr(sys, name, stream)
            opened.append(stream)
        # Output is collected, whatever other tests have left
        APP_CONSOLE_LOGS.set_app_tracker(None, frequency=0)
        APP_CONSOLE_LOGS.get_data_packet()
        return terminal

    yield start
    monkeypatch.undo()
    for stream in opened:
        stream.close()
