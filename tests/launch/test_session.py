"""Several runs in one process, and what is as before afterwards."""
import json
import signal
import sys
from pathlib import Path

import pytest
from support.project import SMALL_VALUES, TEXT, values_of

from labml_mlm import MLMConfigs, train
from labml_mlm.common.errors import UserError
from labml_mlm.launch import session

# A run with random numbers of all kinds: weights, masks, order, dropout
VALUES = {**SMALL_VALUES, 'epochs': 1, 'n_prompts': 0, 'transformer.dropout': 0.1, 'text_path': 'text.txt'}
HEAD = f'''
import json, signal, sys, threading
import torch
from labml_mlm import MLMConfigs, train

VALUES = {VALUES!r}
'''
# What may differ between two runs
TIMES = {'tokens_per_second'}


def losses(folder):
    return {name: values for name, values in values_of(folder / 'log.jsonl').items() if name not in TIMES}


@pytest.fixture
def run_script(project):
    """Runs a script that has `VALUES`, and returns the lines that it prints."""
    def run_script(source, *, code=0):
        project.script.write_text(HEAD + source)
        result = project.run()
        assert result.returncode == code, result.stderr
        return result.stdout.splitlines()
    project.text.write_text(TEXT)
    return run_script


def test_runs_in_one_process_have_the_numbers_of_one_alone(run_script, project):
    run_script('''
train(MLMConfigs(), VALUES, name='first', seed=1)
conf = MLMConfigs()
train(conf, VALUES, name='second', seed=2)
train(conf, VALUES, name='third', seed=2)
conf.d_model = 32
train(conf, {**VALUES, 'seed': 3}, name='other', d_model=16)
train(MLMConfigs(), VALUES, name='compiled', compile=False, masking_schedule='linear')
''')
    first, second, third = (losses(next(project.path.glob(f'logs/{name}/*'))) for name in ('first', 'second', 'third'))
    assert second['loss.train'] != first['loss.train']
    assert third == second
    run_script("train(MLMConfigs(), VALUES, name='alone', seed=2)")
    assert losses(next(project.path.glob('logs/alone/*'))) == second
    assert len(second['loss.train']) == 31


@pytest.mark.parametrize('end', ['', 'raise RuntimeError("own")', 'raise UserError("own")',
                                 'signal.raise_signal(signal.SIGINT)', 'raise KeyboardInterrupt'])
def test_all_is_as_before_after_a_run(run_script, end):
    """Whatever the run, or code of the user's in it, has changed."""
    lines = run_script(f'''
import random
import time
import numpy as np
from labml import tracker
from labml.internal import experiment, lab, logger, monitor, tracker as trackers
from labml.internal.app.logs import APP_CONSOLE_LOGS
from labml_mlm.common.errors import UserError
from labml_mlm.training.state import rng_state

class Configs(MLMConfigs):
    def sample(self):
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision('medium')
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        {end}

def state():
    modules = experiment, lab, logger, monitor, trackers
    singletons = [module._internal for module in modules]
    return [
        [id(one) for one in singletons], vars(lab._internal)['path'], logger._internal._Logger__destinations,
        dict(vars(trackers._internal)), dict(vars(monitor._internal)),
        APP_CONSOLE_LOGS.app_tracker, APP_CONSOLE_LOGS.frequency,
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision(),
        torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, torch.is_grad_enabled(), rng_state(),
        sys.stdout.errors, threads(),
    ]

def threads():
    # One that has just been ended may need a moment
    deadline = time.monotonic() + 5
    while (found := threading.enumerate()) != [threading.main_thread()] and time.monotonic() < deadline:
        time.sleep(0.01)
    return found

tracker.set_scalar('own.*', False)
lab.lab_singleton(), logger.logger_singleton(), monitor.monitor_singleton()
before = state()
kind = None
try:
    train(Configs(), VALUES, name='test')
except BaseException as e:
    kind = type(e).__name__
for a, b in zip(before, state(), strict=True):
    assert a == b, (a, b)
print(kind)
print(train(MLMConfigs(), VALUES, name='next'))
''')
    kinds = {'': 'None', 'raise RuntimeError("own")': 'RuntimeError'}
    assert kinds.get(end, 'SystemExit') in lines
    # And the next run works
    statuses = Path(lines[-1], 'run_log.jsonl').read_text().splitlines()
    assert json.loads(statuses[-1])['status'] == 'completed'


@pytest.fixture
def in_notebook(monkeypatch, tmp_path):
    """As at Python's prompt, in an empty folder."""
    monkeypatch.setattr(sys, 'ps1', '>>> ', raising=False)
    monkeypatch.delattr(sys.modules['__main__'], '__file__', raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('values, items, message', [
    ({'n_layers': 2}, {}, '`n_layers`: there is no such item. Did you mean `transformer.n_layers`?'),
    ({}, {'n_layers': 2}, 'Did you mean `transformer.n_layers`?'),
    ({'transformer.n_layer': 2}, {}, 'Did you mean `transformer.n_layers`?'),
    ({}, {'num_train_epochs': 2}, '`num_train_epochs`: there is no such item. Did you mean `epochs`?'),
    ({}, {'transformer': {'n_layers': 2}}, '`transformer` has nested items'),
    ({'seq_len': -3}, {}, '`seq_len = -3`: it must be at least 1'),
    ({}, {'epochs': 'two'}, "`epochs = 'two'`: it must be a number"),
    ({}, {'tokenizer': 'bpee'}, 'Did you mean `bpe`?'),
    ({}, {'recipe': 'chars'}, '`recipe'),
    ({'loop_count': 3}, {}, '`loop_count` cannot be set: training goes by `epochs`'),
    (['epochs=2'], {}, "['epochs=2'] is no dict of values by name, such as {'transformer.n_layers': 2}"),
    ({1: 2}, {}, '{1: 2} is no dict of values by name'),
    ({}, {'resume': 3}, 'resume must be a run: its uuid, its folder, or last'),
    ({}, {'resume': ''}, 'resume must be a run'),
    ({}, {'resume': 'beef'}, 'beef'),
])
def test_wrong_values_are_an_exception_in_a_notebook(in_notebook, values, items, message, tmp_path):
    with pytest.raises(UserError) as e:
        train(MLMConfigs(), values, name='test', **items)
    assert message in str(e.value)
    assert not (tmp_path / 'logs').exists()


def test_wrong_values_end_a_script(project):
    project.script.write_text(HEAD + "train(MLMConfigs(), VALUES, name='test', n_layers=3)\nprint('went on')")
    result = project.run()
    assert result.returncode == 2
    assert result.stderr == '`n_layers`: there is no such item. Did you mean `transformer.n_layers`? `--help all` ' \
                            'lists them all\n'
    assert 'went on' not in result.stdout


def test_arguments_win_over_values(project):
    project.text.write_text(TEXT)
    project.script.write_text(HEAD + "train(MLMConfigs(), VALUES, name='test', d_model=32)")
    assert project.run('d_model=24').returncode == 0
    [folder] = project.runs
    given = json.loads((folder / 'configs.json').read_text())['given']
    assert given['d_model'] == 24
    assert given['transformer.n_layers'] == VALUES['transformer.n_layers']


def test_resume_in_python(run_script, project):
    run_script('''
train(MLMConfigs(), VALUES, name='whole', epochs=2, lr_schedule='constant')
train(MLMConfigs(), VALUES, name='test', lr_schedule='constant')
train(MLMConfigs(), name='test', resume='last', epochs=2)
''')
    [folder] = project.path.glob('logs/test/*')
    assert losses(folder) == losses(next(project.path.glob('logs/whole/*')))


def test_resumed_run_refuses_other_values(run_script):
    lines = run_script('''
train(MLMConfigs(), VALUES, name='test')
sys.ps1 = '>>> '
try:
    train(MLMConfigs(), name='test', resume='last', d_model=32)
except ValueError as e:
    print(e)
''')
    assert lines[-1].startswith('`d_model=32`: in this run it is 16, and cannot change.')


def test_arguments_of_a_kernel_are_not_ours(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['launcher.py', '-f', 'kernel.json'])
    assert session.command_line() == ['-f', 'kernel.json']
    monkeypatch.setattr(sys, 'ps1', 'In : ', raising=False)
    # `%run launcher.py -f kernel.json`
    monkeypatch.setattr(sys.modules['__main__'], '__file__', 'launcher.py', raising=False)
    assert session.command_line() == ['-f', 'kernel.json']
    monkeypatch.delattr(sys.modules['__main__'], '__file__', raising=False)
    assert session.command_line() == []


def interrupt_in_notebook(run_script, how, *, code=0):
    return run_script(f'''
class Configs(MLMConfigs):
    def sample(self):
        super().sample()
        {how}

sys.ps1 = '>>> '
try:
    print('returned', train(Configs(), VALUES, name='test', epochs=3))
except KeyboardInterrupt as e:
    print('raised', e)
''', code=code)


def test_interrupted_run_returns_in_a_notebook(run_script, project):
    lines = interrupt_in_notebook(run_script, 'signal.raise_signal(signal.SIGINT)')
    assert lines[-1] == f'returned {project.runs[0]}'
    # A script, which has been run in it
    assert f'To resume: python train.py --resume {project.runs[0].name}' in ' '.join(lines)
    assert project.status() == 'interrupted'
    assert list(project.runs[0].glob('checkpoints/*'))


def test_second_interrupt_is_an_exception_in_a_notebook(run_script, project):
    lines = interrupt_in_notebook(run_script, 'raise KeyboardInterrupt')
    assert lines[-1].startswith('raised Interrupted after ')
    assert project.status() == 'interrupted'


def test_other_signals_end_a_notebook_when_the_run_is_saved(run_script, project):
    interrupt_in_notebook(run_script, 'signal.raise_signal(signal.SIGTERM)', code=-signal.SIGTERM)
    assert project.status() == 'interrupted'
    assert list(project.runs[0].glob('checkpoints/*'))
