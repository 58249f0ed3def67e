"""Output while something is shown at the bottom of a real terminal."""
import logging
import multiprocessing
import os
import sys
import time

import pytest
from labml.internal.app.logs import APP_CONSOLE_LOGS
from rich.text import Text
from support.terminal import shown

from labml_mlm.screen import live_terminal
from labml_mlm.screen.live_terminal import LiveTerminal, without_echo


def view(width, height):
    return Text('live 1\nlive 2', style='red', no_wrap=True, overflow='crop')


def wait_for_frames(terminal, n=2):
    n_before = terminal.written.count('live 2')
    deadline = time.monotonic() + 10
    while terminal.written.count('live 2') < n_before + n:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_output_scrolls_above(start_terminal):
    terminal = start_terminal()
    # It keeps the stream, as many libraries do
    log = logging.getLogger('a_library')
    log.addHandler(logging.StreamHandler())
    writes = [sys.stdout.write, sys.stderr.write]
    with LiveTerminal(view):
        print('one', 'two')
        print('\x1b[31mred\x1b[0m')
        log.warning('three')
        wait_for_frames(terminal)
        print('four', end='')
        print('\nfive', file=sys.stderr)
    print('six')
    log.handlers.clear()
    assert [sys.stdout.write, sys.stderr.write] == writes
    # Frames are no part of what labml's app gets
    data = APP_CONSOLE_LOGS.get_data_packet().data
    assert data['stdout'] == 'one two\n\x1b[31mred\x1b[0m\nfoursix\n'
    assert data['stderr'] == 'three\n\nfive\n'
    assert shown(terminal) == ['one two', 'red', 'three', 'five', 'four', 'live 1', 'live 2', 'six']
    assert '\x1b[31mred' in terminal.written


def test_many_lines_and_long_ones(start_terminal):
    terminal = start_terminal()
    with LiveTerminal(view):
        for i in range(200):
            print(f'line {i}')
        # To be copied as one
        print('long ' * 40)
    assert shown(terminal) == [*(f'line {i}' for i in range(200)), *(('long ' * 40)[i:i + 80].rstrip()
                               for i in (0, 80, 160)), 'live 1', 'live 2']


def test_line_that_is_rewritten_is_one_line(start_terminal):
    """A progress bar of another library."""
    terminal = start_terminal()
    with LiveTerminal(view):
        for i in range(100):
            print(f'\r{i}%', end='', file=sys.stderr, flush=True)
        wait_for_frames(terminal)
        assert any(line == '99%' for line in terminal.screen.shown)
    assert shown(terminal) == ['99%', 'live 1', 'live 2']


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_terminal_is_clean_after_an_error(start_terminal, error):
    terminal = start_terminal()
    with pytest.raises(error), LiveTerminal(view):
        print('no end', end='')
        raise error
    print('after')
    assert shown(terminal) == ['no end', 'live 1', 'live 2', 'after']
    assert not terminal.screen.cursor.hidden


def test_cursor_is_visible_meanwhile(start_terminal):
    """The process may be killed."""
    terminal = start_terminal()
    with LiveTerminal(view):
        wait_for_frames(terminal)
        assert not terminal.screen.cursor.hidden


def test_size_is_followed(start_terminal):
    terminal = start_terminal()
    sizes = []

    def bar(width, height):
        sizes.append((width, height))
        return Text('live 1\n' + 'x' * width + '\nlive 2')

    with LiveTerminal(bar) as live:
        for size in ((40, 20), (130, 40), (40, 20), (200, 10)):
            wait_for_frames(terminal)
            terminal.resize(*size)
            print('above')
            wait_for_frames(terminal)
            assert sizes[-1] == size and live.width == size[0]
            assert not terminal.screen.wrapped
        # A terminal that is empty for those who ask
        terminal.resize(0, 0)
        assert live.width == 80
        terminal.resize(200, 10)
        wait_for_frames(terminal)
    lines = shown(terminal)
    assert lines[-3:] == ['live 1', 'x' * 200, 'live 2'] and lines[-4] == 'above'


def test_view_is_less_high_than_the_terminal(start_terminal):
    terminal = start_terminal()
    def high(width, height):
        return Text('\n'.join(map(str, range(100))) + '\nlive 2')

    with LiveTerminal(high):
        wait_for_frames(terminal)
        print('above')
        wait_for_frames(terminal)
    lines = shown(terminal)
    assert lines.count('live 2') == 1 and len(lines) <= 30 and lines[0] == 'above'


def test_draws_ten_times_a_second_at_most(start_terminal, monkeypatch):
    start_terminal()
    times = []

    def drawn(width, height):
        times.append(time.monotonic())
        return view(width, height)

    with LiveTerminal(drawn):
        began = time.monotonic()
        while time.monotonic() < began + 1.:
            print('.')
    # The first and the last one come at once
    assert 3 <= len(times) <= 12
    # A frame that takes long comes less often: not more than 0.4% of the time
    clock = iter(range(1000))
    monkeypatch.setattr(live_terminal.time, 'thread_time', lambda: next(clock) * 0.01)
    times.clear()
    with LiveTerminal(drawn):
        time.sleep(1.)
    assert len(times) <= 3


def test_no_color(start_terminal, monkeypatch):
    terminal = start_terminal()
    monkeypatch.setenv('NO_COLOR', '1')
    with LiveTerminal(view):
        wait_for_frames(terminal)
    assert shown(terminal) == ['live 1', 'live 2']
    assert '\x1b[31m' not in terminal.written and '\x1b[' in terminal.written


def test_output_of_a_forked_process(start_terminal):
    """Its copy of the lock may be held for ever."""
    terminal = start_terminal()
    with LiveTerminal(view) as live, live._lock:
        child = multiprocessing.get_context('fork').Process(target=print, args=['of a child'])
        child.start()
        child.join(20)
        assert child.exitcode == 0
    assert 'of a child' in terminal.written


def test_terminals_own_echo_of_ctrl_c_wraps_nothing(start_terminal):
    terminal = start_terminal()

    def draw(width, height):
        return without_echo(lambda width, height: Text(f'live 1\nlive 2{"x" * (width - 6)}'), width, height)

    with LiveTerminal(draw):
        wait_for_frames(terminal)
        # As its driver does
        os.write(terminal.device, b'^C')
        wait_for_frames(terminal)
    lines = shown(terminal)
    assert len(lines) == 2 and lines[0] == 'live 1' and not terminal.screen.wrapped
