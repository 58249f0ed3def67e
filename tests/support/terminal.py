"""A terminal that programs write to, and what a person would see on it."""
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from collections.abc import Mapping
from typing import Any

import pyte

from support.project import SMALL


class Screen(pyte.HistoryScreen):
    """Keeps the lines that have scrolled away, and the first parts of those that were wrapped."""

    def __init__(self, columns: int, lines: int):
        super().__init__(columns, lines, history=10_000)
        self.wrapped: list[str] = []

    def draw(self, data: str):
        for character in data:
            if self.cursor.x >= self.columns:
                self.wrapped.append(self._line(self.buffer[self.cursor.y]))
            super().draw(character)

    @property
    def shown(self) -> list[str]:
        """All lines, from the first, without the empty ones at the end."""
        rows = [*self.history.top, *(self.buffer[y] for y in range(self.lines))]
        lines = [self._line(row) for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _line(self, row: Mapping[int, Any]) -> str:
        return ''.join(row[x].data for x in range(self.columns)).rstrip()


class Terminal:
    """A terminal of a size. `name` is its device, and `screen` what is on it."""

    def __init__(self, columns: int = 80, lines: int = 30):
        self._main, self.device = pty.openpty()
        self.name = os.ttyname(self.device)
        self.screen = Screen(columns, lines)
        # What was written to it, as it was
        self.written = ''
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self.resize(columns, lines)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def resize(self, columns: int, lines: int):
        """As a person does."""
        with self._lock:
            fcntl.ioctl(self.device, termios.TIOCSWINSZ, struct.pack('HHHH', lines, columns, 0, 0))
            self.screen.resize(lines, columns)

    def end(self):
        """No more is written to it here; returns when all is on the screen that others write, too."""
        os.close(self.device)
        self._thread.join(60)
        os.close(self._main)

    def close(self):
        """As when its window is closed."""
        os.close(self.device)
        os.close(self._main)

    def until(self, text: str):
        """Waits until this was written, in whatever colours."""
        deadline = time.monotonic() + 30
        while text not in re.sub(r'\x1b\[[\d;]*m', '', self.written):
            assert time.monotonic() < deadline, self.written
            time.sleep(0.01)

    def _read(self):
        while chunk := self._chunk():
            with self._lock:
                self.written += chunk.decode(errors='replace')
                self._stream.feed(chunk)

    def _chunk(self) -> bytes:
        try:
            return os.read(self._main, 1 << 16)
        except OSError:  # no process has it open any more
            return b''


def shown(terminal: Terminal) -> list[str]:
    """Closes the streams of this process, which go there, and returns all lines but empty ones."""
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    terminal.end()
    return [line for line in terminal.screen.shown if line]


class RunOnTerminal:
    """A run of a project on a terminal of its own."""

    def __init__(self, project, *arguments: str, columns: int = 80, lines: int = 30, **env: str):
        self.terminal = Terminal(columns, lines)
        self._project = project
        project.is_forked, project.outputs = True, []
        env = {'TERM': 'xterm-256color', 'CI': '', **env}
        has_steps = any(argument.startswith('max_steps=') for argument in arguments)
        small = [item for item in SMALL if not (has_steps and item.startswith('epochs='))]
        self.pid = project.pid = project.server.start(
            [project.script.name, f'text_path={project.text}', *small, *arguments], cwd=project.path,
            out=self.terminal.name, err=self.terminal.name, env=project.environment(**env))

    def wait(self) -> int:
        """Waits for its end, and returns the exit code."""
        code, self._project.is_forked = self._project.server.wait(), False
        return code

    def lines(self, *, code: int = 0) -> list[str]:
        """Waits for its end, and returns all lines that it has shown, but for empty ones."""
        found = self.wait()
        self.terminal.end()
        assert found == code, self.terminal.screen.shown
        return [line for line in self.terminal.screen.shown if line]
