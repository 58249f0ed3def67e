"""Output to pipes and terminals: of the parts of `console`, and of complete runs."""
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest
from labml.internal.tracker.indicators.numeric import Scalar
from labml.logger import Text
from support.project import SMALL, values_of

from labml_mlm.runs.samples_log import Sample
from labml_mlm.tracking import console
from labml_mlm.tracking.console import ColourlessDestination, PlainDestination, PlainWriter
from labml_mlm.training.sampler import log_sample


def test_plain_destination_prints_complete_lines_only(capsys):
    plain = PlainDestination()
    plain.log([('good', Text.success), ' text'], is_new_line=True, is_reset=True)
    plain.log([('live', Text.value)], is_new_line=False, is_reset=True)
    plain.log([], is_new_line=True, is_reset=True)
    plain.log(['  Prepare model', ('...[DONE]', Text.success), ('\n', None)], is_new_line=False, is_reset=True)
    plain.log([('\n', None)], is_new_line=False, is_reset=True)
    assert capsys.readouterr().out == 'good text\nPrepare model...[DONE]\n'


def test_colourless_destination_prints_no_colours(capsys):
    ColourlessDestination(True).log([('good', Text.success)], is_new_line=False, is_reset=False)
    assert capsys.readouterr().out == 'good'


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
def sample():
    return lambda: log_sample(Sample(['a', 'b', '\n', '\n'], [1, 3], ['b', 'a'], [True, False]))


def test_sample_in_a_pipe_has_marks(capsys, sample, monkeypatch):
    monkeypatch.setattr(console.logger_singleton(), '_Logger__destinations', [PlainDestination()])
    sample()
    assert capsys.readouterr().out == 'masked  a_↵_\nfilled  ab↵a\n         + x\n'


def test_sample_on_a_terminal_has_colours(capsys, sample, monkeypatch):
    monkeypatch.setattr('labml_mlm.training.sampler.has_colours', lambda: True)
    sample()
    out = capsys.readouterr().out
    assert f'{Text.success.ansi()}b' in out
    assert f'{Text.danger.ansi()}a' in out
    assert out.count('\n') == 2


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


class Terminal:
    """A run on a terminal, without a signal when that is closed, as after `setsid`."""

    def __init__(self, project, *arguments, **env):
        self.project = project
        self.screen, terminal = pty.openpty()
        name = os.ttyname(terminal)
        project.is_forked = True
        project.pid = project.server.start([project.script.name, f'text_path={project.text}', *SMALL, *arguments],
                                           cwd=project.path, out=name, err=name, env=project.environment(**env))
        os.close(terminal)

    def read(self):
        """The next output; empty at the end."""
        assert select.select([self.screen], [], [], 60)[0]
        try:
            return os.read(self.screen, 1 << 16).decode(errors='replace')
        except OSError:  # no process has the terminal open any more
            return ''

    def close(self):
        os.close(self.screen)

    def wait(self):
        """The exit code."""
        code, self.project.is_forked = self.project.server.wait(), False
        return code


def output_on_a_terminal(project, **env):
    """Of a complete run."""
    terminal, out = Terminal(project, **env), ''
    while chunk := terminal.read():
        out += chunk
    terminal.close()
    assert terminal.wait() == 0, out
    return out


def test_terminal_shows_labml_live_line_in_colour(project):
    out = output_on_a_terminal(project)
    live = [part for part in out.split('\r') if 'loss.train' in part and 'Train:' in part]
    assert len(live) > 10
    assert '\x1b[' in out


def test_no_color_removes_colours(project):
    out = output_on_a_terminal(project, NO_COLOR='1')
    assert 'Train:' in out
    assert '\x1b' not in out
    assert re.search(r'\n?filled .*\n[^\n]*[+x]', out.replace('\r', ''))


def test_closed_terminal_does_not_end_the_run(project):
    terminal, out = Terminal(project, 'epochs=8'), ''
    while 'loss.train' not in out:
        chunk = terminal.read()
        assert chunk, out
        out += chunk
    terminal.close()
    assert terminal.wait() == 0
    assert project.status() == 'completed'
    assert len(values_of(project.runs[0] / 'log.jsonl')['loss.valid']) == 8
