import io
import subprocess
import sys

import pytest
from labml.internal.tracker.indicators.numeric import Scalar
from labml.logger import Text

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
