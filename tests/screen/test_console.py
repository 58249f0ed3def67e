"""Output to pipes and terminals: of the parts of `console`, and of complete runs."""
import io
import os
import re
import signal
import subprocess
import sys

import pyte
import pytest
from labml import logger, monit
from labml.internal.tracker.indicators.numeric import Scalar
from labml.logger import Text
from support.project import SMALL, values_of
from support.terminal import RunOnTerminal, Screen

from labml_mlm.runs.samples_log import Sample
from labml_mlm.screen import console
from labml_mlm.screen.console import PlainDestination, PlainWriter, TerminalDestination
from labml_mlm.training.sampler import log_sample


def test_plain_destination_prints_complete_lines_only(capsys):
    plain = PlainDestination()
    plain.log([('good', Text.success), ' text'], is_new_line=True, is_reset=True)
    plain.log([('live', Text.value)], is_new_line=False, is_reset=True)
    plain.log([], is_new_line=True, is_reset=True)
    plain.log(['  Prepare model', ('...[DONE]', Text.success), ('\n', None)], is_new_line=False, is_reset=True)
    plain.log([('\n', None)], is_new_line=False, is_reset=True)
    assert capsys.readouterr().out == 'good text\nPrepare model...[DONE]\n'


def test_terminal_without_colours(capsys):
    TerminalDestination(has_colours=False).log([('good', Text.success)], is_new_line=False, is_reset=False)
    assert capsys.readouterr().out == 'good'


@pytest.mark.parametrize('columns', [40, 130])
def test_lines_that_are_rewritten_leave_nothing_on_a_terminal(capsys, monkeypatch, columns):
    monkeypatch.setattr(console, 'columns', lambda: columns)
    terminal, screen = TerminalDestination(), Screen(columns, 20)
    for parts, is_new_line in ([[('Prepare a', None), '...'], False], [[], True], [['  Prepare b...'], False],
                               [['  Prepare b', ('...[DONE]', Text.success), '\t0.1ms', '\n'], False],
                               [['live ' * 50], False], [['shorter'], False], [['a message'], True],
                               [['\n'], False], [['the next'], True]):
        terminal.log(parts, is_new_line=is_new_line, is_reset=True)
    pyte.Stream(screen).feed(capsys.readouterr().out.replace('\n', '\r\n'))
    assert screen.shown[:2] == ['Prepare a...', '  Prepare b...[DONE]    0.1ms']
    assert screen.shown[2:] == ['a message', '', 'the next']
    assert not screen.wrapped


def test_labml_is_silent_inside_only(capsys, monkeypatch):
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [PlainDestination()])
    with console.silent(), console.silent_sections():
        logger.log('hidden')
        with monit.section('hidden'):
            pass
    with console.silent_sections():
        logger.log('shown')
    with monit.section('section'):
        pass
    out = capsys.readouterr().out
    assert 'hidden' not in out and 'shown' in out and 'section...[DONE]' in out


def indicators(**values):
    scalars = {}
    for name, numbers in values.items():
        name = name.replace('_', '.')
        scalars[name] = Scalar(name, is_print=True)
        for number in numbers:
            scalars[name].collect_value(number)
    return scalars


def test_metrics_are_printed_at_each_validation_and_interval(capsys, monkeypatch):
    clock = [100.]
    monkeypatch.setattr(console.time, 'monotonic', lambda: clock[0])
    writer = PlainWriter(interval=30.)
    writer.write(global_step=1000, indicators=indicators(loss_train=[2.]))
    assert capsys.readouterr().out == ''
    clock[0] += 30
    writer.write(global_step=2000, indicators=indicators(loss_train=[4.], lr=[0.0001]))
    assert capsys.readouterr().out == '       2,000  loss.train: 3.0000  lr: 1.00e-04\n'
    writer.write(global_step=3000, indicators=indicators(loss_train=[1.], other=[]))
    writer.write(global_step=3000, indicators=indicators(loss_train=[], loss_valid=[12345.6]))
    assert capsys.readouterr().out == '       3,000  loss.train: 1.0000  loss.valid: 12,346\n'


@pytest.fixture
def sample(monkeypatch):
    monkeypatch.setattr('labml_mlm.screen.sample_lines.is_unicode', lambda: True)
    return lambda: log_sample(Sample(['a', 'b', '\n', '\n'], [1, 3], ['b', 'a'], [True, False]))


def test_sample_in_a_pipe_has_marks(capsys, sample, monkeypatch):
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [PlainDestination()])
    sample()
    assert capsys.readouterr().out == 'masked  a░↵░\nfilled  ab↵a\ntrue    ab↵↵\n         + x\n'


def test_sample_on_a_terminal_has_colours(capsys, sample, monkeypatch):
    monkeypatch.setattr('labml_mlm.training.sampler.has_colours', lambda: True)
    sample()
    out = capsys.readouterr().out
    assert f'{Text.success.ansi()}b' in out
    assert f'{Text.danger.ansi()}a' in out
    assert out.count('\n') == 3


def test_sample_whose_truth_is_not_known_has_neither_marks_nor_a_true_line(capsys, monkeypatch):
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [PlainDestination()])
    log_sample(Sample(['a', '[MASK]'], [1], ['b'], [None]))
    assert [line[:6] for line in capsys.readouterr().out.splitlines()] == ['masked', 'filled']


def test_sample_is_as_wide_as_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [PlainDestination()])
    sample = Sample(list('x' * 300), [150], ['y'], [False])
    # Standard output is no terminal here
    for size, width in ((None, 100), (40, 40), (200, 200)):
        if size is not None:
            monkeypatch.setattr('sys.stdout.fileno', lambda: 0)
            monkeypatch.setattr(console.os, 'get_terminal_size', lambda _, size=size: os.terminal_size((size, 24)))
        log_sample(sample)
        assert {len(line) for line in capsys.readouterr().out.splitlines()[:3]} == {width}


def test_output_in_another_encoding_is_replaced(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding='ascii')
    monkeypatch.setattr('sys.stdout', stream)
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [])
    console.set_up()
    print('↵')
    stream.flush()
    assert raw.getvalue() == b'?\n'


def test_display_is_restored_for_ipython_9():
    """labml imports `display` from a module that no longer has it."""
    code = '''
import sys, types
for name in ("IPython", "IPython.core", "IPython.core.display", "IPython.display"):
    module = sys.modules[name] = types.ModuleType(name)
    if "." in name:
        setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
sys.modules["IPython.display"].display = "shown"
import labml_mlm.common.labml_compat
from IPython.core.display import display
print(display)
'''
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout == 'shown\n', result.stderr


@pytest.mark.parametrize('arguments', [['--help'], SMALL])
def test_closed_pipe_at_the_start_ends_the_run(project, arguments):
    result = subprocess.run(['bash', '-c', 'set -o pipefail; "$@" | head -n 1', '-', sys.executable, project.script,
                             f'text_path={project.text}', *arguments],
                            cwd=project.path, env=project.environment(), capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ''
    # `--help` may be complete before `head` ends
    assert result.returncode == 1 or arguments == ['--help']


def test_closed_pipe_in_training_ends_the_run_like_a_signal(project):
    process = project.start(f'text_path={project.text}', *SMALL, 'epochs=100000', 'n_prompts=0')
    while 'loss.valid' not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert re.fullmatch(r'Interrupted after [\d,]+ tokens\. To resume: python train\.py --resume \w+\n', err)
    assert project.status() == 'interrupted'


@pytest.mark.parametrize('env, is_live', [({}, True), ({'TERM': 'dumb'}, False), ({'CI': 'true'}, False),
                                          ({'CI': 'false'}, True), ({'TERM': ''}, True)])
def test_which_terminals_are_live(monkeypatch, env, is_live):
    monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
    for name, value in {'TERM': 'xterm', 'CI': '', 'NO_COLOR': '', **env}.items():
        monkeypatch.setenv(name, value)
    assert console.is_live() == console.has_colours() == is_live
    monkeypatch.setattr('sys.stdout.isatty', lambda: False)
    assert not console.is_live() and console.is_plain()


def test_closed_terminal_does_not_end_the_run(project):
    run = RunOnTerminal(project, 'epochs=8')
    run.terminal.until('loss.valid')
    # Without a signal, as after `setsid`
    run.terminal.close()
    assert run.wait() == 0
    assert project.status() == 'completed'
    assert len(values_of(project.runs[0] / 'log.jsonl')['loss.valid']) == 8
