"""Complete runs on a real terminal, and the view by a fake clock."""
import io
import os
import re
import signal
import threading

import pytest
from labml import monit, tracker
from labml.internal.monitor import monitor_singleton
from labml.internal.tracker import tracker_singleton
from labml.internal.tracker.writers.screen import ScreenWriter
from rich.console import Console
from support.project import values_of
from support.terminal import RunOnTerminal

from labml_mlm.screen.live_view import LiveView
from labml_mlm.screen.time_left import Work

# 31 steps an epoch
LONG = 'n_prompts=1', 'max_steps=200'


def is_of_view(line):
    return line.startswith('epoch ') or '%' in line and 'elapsed' in line


@pytest.mark.parametrize('columns', [40, 80, 130])
def test_screen_after_200_steps(project, columns):
    run = RunOnTerminal(project, *LONG, columns=columns)
    run.terminal.until('epoch 1/7')
    n_before = len(run.terminal.screen.wrapped)
    lines = run.lines()
    assert max(map(len, lines)) <= columns
    # One view, and above it four lines for each of the seven validations
    assert len([line for line in lines if line.startswith('epoch ')]) == 1
    view = next(i for i, line in enumerate(lines) if line.startswith('epoch '))
    first = next(i for i, line in enumerate(lines) if line.startswith('step 31 '))
    assert len([line for line in lines if re.match(r'step \d+  loss\.valid \d', line)]) == 7
    assert view - first == 4 * 7
    end = next(i for i, line in enumerate(lines) if line.startswith('Validation loss'))
    assert end - view == {40: 7, 80: 12, 130: 7}[columns]
    if columns > 40:
        # Messages of the end alone
        assert set(run.terminal.screen.wrapped[n_before:]) <= {*lines[end:]}
    assert lines[view].startswith('epoch 7/7   step 200/200')
    assert '100%' in lines[view + 1] and 'left' not in lines[view + 1]
    assert len([line for line in lines[view:end] if line.startswith('guess  unigram ')]) == 1
    assert not run.terminal.screen.cursor.hidden


def test_metrics_are_those_of_a_run_without_a_terminal(project):
    """To the bit."""
    RunOnTerminal(project, 'epochs=2', RUN_UUID='terminal').lines()
    assert project.train('epochs=2', env={'RUN_UUID': 'file'}).returncode == 0
    on_terminal, in_file = (values_of(project.path / f'logs/test/{name}/log.jsonl') for name in ('terminal', 'file'))
    assert len(on_terminal['loss.train']) == 62
    for name in in_file:
        if name != 'tokens_per_second':
            assert on_terminal[name] == in_file[name], name


def test_size_is_followed_in_a_run(project):
    run = RunOnTerminal(project, 'epochs=12', 'n_prompts=0', columns=130)
    run.terminal.until('loss.valid')
    run.terminal.resize(60, 25)
    # The next but one line is certainly of the new width
    run.terminal.until('step 155')
    n_before = len(run.terminal.screen.wrapped)
    run.terminal.until('step 310')
    assert len(run.terminal.screen.wrapped) == n_before
    assert len([line for line in run.lines() if line.startswith('epoch 12/12')]) == 1


def test_no_color_removes_colours(project):
    run = RunOnTerminal(project, NO_COLOR='1')
    lines = run.lines()
    assert [line for line in lines if re.match(r'epoch 1/1   step 31/31', line)]
    assert re.search(r'\nfilled .*\ntrue .*\n[^\n]*[+x]', '\n'.join(lines))
    assert not re.search(r'\x1b\[[\d;]*m', run.terminal.written)


@pytest.mark.parametrize('env', [{'TERM': 'dumb'}, {'CI': 'true'}])
def test_plain_lines_where_they_cannot_be_rewritten(project, env):
    run = RunOnTerminal(project, **env)
    lines = run.lines()
    assert '\x1b' not in run.terminal.written and not any(map(is_of_view, lines))
    assert [line for line in lines if re.match(r' +[\d,]+  loss.train: ', line)]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_terminal_is_clean_after_a_signal(project, number):
    run = RunOnTerminal(project, 'epochs=100000', 'n_prompts=0')
    run.terminal.until('loss.valid')
    os.kill(run.pid, number)
    lines = run.lines(code=128 + number)
    assert not run.terminal.screen.cursor.hidden
    assert len([line for line in lines if line.startswith('epoch ')]) == 1
    assert ''.join(lines[-2:]).startswith('Interrupted after') or lines[-1].startswith('Interrupted after')


def test_output_and_errors_of_ones_own_code(project):
    project.script.write_text("""
import sys
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    def training_step(self, batch):
        super().training_step(batch)
        if self.progress.steps == 10:
            print('printed')
            print('an error', file=sys.stderr)
        if self.progress.steps == 20:
            print('no end', end='')
            raise RuntimeError('of mine')


train(Configs(), name='test')
""")
    lines = RunOnTerminal(project).lines(code=1)
    texts = 'printed', 'an error', 'no end', 'epoch 1/1   step 20/31', 'Traceback', 'RuntimeError: of mine'
    places = [next(i for i, line in enumerate(lines) if line.startswith(text)) for text in texts]
    assert places == sorted(places)
    assert len([line for line in lines if line.startswith('epoch ')]) == 1


def test_app_gets_what_was_printed_without_the_frames(project, fake_app):
    project.configure(fake_app.url)
    run = RunOnTerminal(project, 'epochs=3', 'n_prompts=1')
    lines = run.lines()
    sent = ''.join(update.get('stdout', '') for update in fake_app.updates)
    assert len(re.findall(r'step \d+  loss\.valid', sent)) == 3 and sent.count('filled') == 3
    assert 'elapsed' not in sent and '\x1b[2K' not in sent and '\x1b[1A' not in sent
    assert any(map(is_of_view, lines))


def test_labml_is_as_before_after_the_view(monkeypatch):
    shown = view_with(monkeypatch, Clock())
    writers = [type(writer) for writer in tracker_singleton()._Tracker__writers]
    for _ in shown.epochs(0, 2):
        assert monitor_singleton()._Monitor__is_silent
        assert not any(isinstance(writer, ScreenWriter) for writer in tracker_singleton()._Tracker__writers)
        break
    shown.epochs(0, 1).close()
    epochs = shown.epochs(0, 2)
    next(epochs)
    epochs.close()
    assert not monitor_singleton()._Monitor__is_silent
    assert sorted(map(str, writers)) == sorted(str(type(writer)) for writer in tracker_singleton()._Tracker__writers)
    monitor_singleton().clear()


class Clock:
    """Seconds that pass only when they are told to, and a run of 2 epochs of 50 steps, 0.5 s each."""

    def __init__(self):
        self.now = 1000.
        self.steps = self.validations = 0

    def __call__(self):
        return self.now

    def work(self):
        return Work(steps=self.steps, seconds=0., length=0, left={0: 100 - self.steps}, is_shorter_faster=False,
                    validations=2 - self.validations, passes=0., saves=0., n_saved=0, save_seconds=0.)


class NoTerminal:
    """In place of a terminal."""
    width = 80

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def view_with(monkeypatch, clock):
    shown = LiveView(clock.work, clock=clock)
    monkeypatch.setattr(shown, '_terminal', NoTerminal())
    return shown


def test_times_by_a_fake_clock(monkeypatch, capsys):
    clock, left = Clock(), {}
    shown = view_with(monkeypatch, clock)
    for _ in shown.epochs(0, 2):
        with shown.phase('Train', is_track_time=False):
            for _ in range(50):
                # The first one compiles
                clock.now += 30.5 if not clock.steps else 0.5
                clock.steps += 1
                tracker.set_global_step(clock.steps)
                tracker.save('loss.train', 1.)
                shown.update(0.5)
                shown._draw(80, 24)
                left[clock.steps] = shown._frame.left
                assert shown._frame.elapsed == pytest.approx(clock.now - 1000)
        with shown.phase('Valid', is_track_time=False):
            for i in range(10):
                clock.now += 1.
                shown.update((i + 1) / 10)
                shown._draw(80, 24)
                left[clock.steps, i] = shown._frame.left
                assert shown._frame.phase == 'validation' and shown._frame.fraction == (i + 1) / 10
        tracker.save('loss.valid', 2.)
        clock.validations += 1
    assert [left[step] for step in range(1, 4)] == [None, None, None]
    # A validation is not known before there was one, and then takes 10 s
    assert [left[step] for step in (4, 10, 50)] == [48., 45., 25.]
    assert [left[50, i] for i in (0, 9)] == [25. - 1, 25. - 10]
    assert [left[step] for step in (51, 60, 100)] == pytest.approx([24.5 + 10, 20. + 10, 10.])
    assert [left[100, i] for i in (0, 9)] == pytest.approx([9., 0.])
    assert capsys.readouterr().out.count('loss.valid') == 2
    tracker.set_global_step(None)


@pytest.mark.parametrize('width', [40, 80, 130])
def test_long_work_has_a_clock(monkeypatch, width):
    clock = Clock()
    shown = view_with(monkeypatch, clock)

    def head():
        console = Console(width=width, file=io.StringIO())
        console.print(shown._draw(width, 24))
        return console.file.getvalue().splitlines()[0].strip()

    for _ in shown.epochs(0, 1):
        with shown.phase('Train', is_track_time=False):
            with shown.work('Compiling the model'):
                clock.now += 95.
                assert head().startswith('Compiling the model 1:35')
            assert head() == 'epoch 1/1   step 0/100   first step'


def test_sections_of_ones_own_code_are_silent(monkeypatch, capsys):
    shown = view_with(monkeypatch, Clock())
    for _ in shown.epochs(0, 1):
        with monit.section('Mine'):
            pass
    assert 'Mine' not in capsys.readouterr().out


def test_nothing_is_left_running(monkeypatch):
    before = threading.active_count()
    shown = view_with(monkeypatch, Clock())
    for _ in shown.epochs(0, 1):
        pass
    assert threading.active_count() == before
