"""`benchmarks/gpu.py` without a GPU: its parts run, keep their figures, fail alone and end in time."""
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from support.project import ROOT


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    return importlib.import_module


@pytest.mark.long
def test_all_parts_run_on_the_cpu(tmp_path):
    result = subprocess.run([sys.executable, 'benchmarks/gpu.py', '--device', 'cpu', '--minutes', '20', '--peak', '1',
                             '--json', tmp_path / 'gpu.json'], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / 'gpu.json').read_text())
    parts = found['parts']
    assert {name: part['status'] for name, part in parts.items()} == dict.fromkeys(
        ['machine', 'tests', 'waits', 'base', 'profile', 'recipes'], 'complete')
    assert set(parts['tests']['figures']['outcomes']) == {'passed'}
    assert all(part['waits'] == 0 for part in parts['waits']['figures'].values())
    base = parts['base']['figures']
    sides = {name: figures for name, figures in base.items() if name.startswith('ours')}
    assert set(sides) == {'ours, batch 2', 'ours, batch 4', 'ours, compiled', 'ours, packed documents, masked'}
    for figures in sides.values():
        assert figures['tokens/s'] == pytest.approx(figures['batch'] * 32 / figures['ms/step'] * 1e3)
        assert figures['of peak'] == pytest.approx(figures['TFLOP/s'])
    assert 0 < base["Muon's share"]['share'] < 1
    # Hugging Face's are there, or it is said why not
    for name in ('HF BERT', 'HF ModernBERT, compiled'):
        assert isinstance(base[name], dict) or base[name].startswith('none: '), base[name]
    profile = parts['profile']['figures']
    assert len(profile['longest']) == 10 and sum(row['share'] for row in profile['longest']) <= 1
    assert profile['steps']['busy'] <= 1
    for recipe in ('char', 'subword'):
        figures = parts['recipes']['figures'][recipe]
        assert len(figures['validations']) >= 2 and figures['target'] is None
    assert 'tokens/s' in result.stdout and 'of the peak' in result.stdout


@pytest.mark.parametrize('arguments, message', [(['--minutes', '0'], '--minutes 0: it must be above 0'),
                                                (['--peak', '-1'], '--peak -1: it must be above 0')])
def test_what_is_given_is_checked(module, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, 'argv', ['gpu.py', *arguments])
    with pytest.raises(SystemExit) as e:
        module('gpu').main()
    assert e.value.code == 2 and capsys.readouterr().err.endswith(f'error: {message}\n')


def test_without_a_gpu_it_says_so(tmp_path):
    result = subprocess.run([sys.executable, 'benchmarks/gpu.py', '--json', tmp_path / 'gpu.json'], cwd=ROOT,
                            capture_output=True, text=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == 'there is no CUDA device here. --device cpu tests the script\n'
    assert not (tmp_path / 'gpu.json').exists()


@pytest.mark.parametrize('is_stopped', [False, True])
def test_outcomes_of_tests_are_kept_as_they_come(module, monkeypatch, tmp_path, capfd, is_stopped):
    """Also if the time is up before the last test ends."""
    gpu_tests, path, join = module('gpu_tests'), tmp_path / 'part', multiprocessing.context.ForkProcess.join
    (tmp_path / 'test_it.py').write_text(f'''
import time

import pytest

@pytest.mark.parametrize('name', ['with a space', 'PASSED'])
def test_that_passes(name):
    pass

def test_that_fails():
    assert 1 == 2

def test_that_is_skipped():
    pytest.skip('none here')

@pytest.fixture
def broken():
    raise ValueError

def test_with_an_error(broken):
    pass

def test_last():
    time.sleep({1000 if is_stopped else 0})
''')
    monkeypatch.setitem(gpu_tests._CHOICE, 'cpu', [str(tmp_path / 'test_it.py')])

    def join_until_error(process, timeout=None):
        """The time is up as soon as all but the last test have ended."""
        while timeout == 1000 and is_stopped and process.is_alive() and '"error"' not in path.read_text():
            time.sleep(0.01)
        if timeout != 1000 or not is_stopped:
            join(process, timeout)

    monkeypatch.setattr(multiprocessing.context.ForkProcess, 'join', join_until_error)
    result = module('gpu_part').run_part(gpu_tests.run, device='cpu', peak=None, seconds=1000., path=path)
    assert result['figures']['outcomes'] == {'passed': 2 if is_stopped else 3, 'failed': 1, 'skipped': 1, 'error': 1}
    assert result['status'] == ('time is up' if is_stopped else 'failed')
    assert result['error'] == (None if is_stopped else 'RuntimeError: 2 tests did not pass')
    wrong = [name.partition('::')[2] for name in result['figures']['not passed']]
    assert wrong == ['test_that_fails', 'test_with_an_error']
    assert 'test_that_fails' in capfd.readouterr().out


@pytest.mark.parametrize('name, peak', [
    ('NVIDIA H100 80GB HBM3', 989), ('NVIDIA H100 PCIe', 756), ('NVIDIA H100 NVL', None), ('NVIDIA H200', 989),
    ('NVIDIA A100-SXM4-80GB', 312), ('NVIDIA A100 80GB PCIe', 312), ('NVIDIA A10', 125), ('NVIDIA A10G', None),
    ('NVIDIA L4', 121), ('NVIDIA L40S', 362), ('NVIDIA L40', None), ('NVIDIA GeForce RTX 4090', 165),
    ('NVIDIA GeForce RTX 4090 D', None), ('Tesla T4', 65), ('Tesla V100-SXM2-16GB', 125), ('NVIDIA B200', 2250),
    ('NVIDIA GB200', None), ('NVIDIA GeForce GT 1030', None), ('NVIDIA T400', None)])
def test_the_peak_is_that_of_the_card(module, name, peak):
    assert module('gpu_cards').peak_of(name) == peak


def test_a_part_keeps_its_figures_whatever_happens(module, monkeypatch, tmp_path, capfd):
    run_part, join, path = module('gpu_part').run_part, multiprocessing.context.ForkProcess.join, tmp_path / 'part'

    def join_until_figure(process, timeout=None):
        """A time of 1000 seconds is up as soon as there is a figure."""
        while timeout == 1000 and process.is_alive() and not path.read_text():
            time.sleep(0.01)
        if timeout != 1000:
            join(process, timeout)

    def outcome(function, seconds=60.):
        result = run_part(function, device='cpu', peak=None, seconds=seconds, path=path)
        return result['status'], result['error'], result['figures']

    def complete(part):
        part.add('one', 1)
        part.measure('two', lambda: {'n': 2})
        part.measure('three', lacks)
        part.finish()

    def lacks():
        raise module('gpu_part').Missing('no such package')

    def fails(part):
        part.measure('one', lambda: {'n': 1 / 0})
        part.measure('two', lambda: {'n': 2})
        part.finish()

    def crashes(part):
        part.add('one', 1)
        sys.exit(3)

    def hangs(part):
        part.add('one', 1)
        subprocess.run(['sleep', 'infinity'])

    assert outcome(complete) == ('complete', None,
                                 {'one': 1, 'two': {'n': 2}, 'three': 'none: no such package'})
    assert outcome(fails) == ('failed', 'RuntimeError: failed: one',
                              {'one': 'failed: ZeroDivisionError: division by zero', 'two': {'n': 2}})
    assert outcome(crashes) == ('failed', 'SystemExit: 3', {'one': 1})
    monkeypatch.setattr(multiprocessing.context.ForkProcess, 'join', join_until_figure)
    assert outcome(hangs, seconds=1000.) == ('time is up', None, {'one': 1})
    assert 'two: ' in capfd.readouterr().out


def test_what_would_take_too_long_is_left_out(module, tmp_path):
    part = module('gpu_part').Part(device='cuda', peak=None, seconds=5., path=tmp_path / 'part')
    assert part.measure('long', lambda: {'n': 1}, seconds=60.) is None
    assert part.measure('short', lambda: {'n': 1}, seconds=1.) == {'n': 1}
    part.finish()
    lines = [json.loads(line) for line in (tmp_path / 'part').read_text().splitlines()]
    assert [name for name, _ in lines] == ['long', 'short']
    assert lines[0][1].startswith('none: it takes some 60 s, and ')


def test_other_parts_go_on_after_one_that_failed(module, monkeypatch, tmp_path, capfd):
    gpu = module('gpu')

    def fails(part):
        raise ValueError('no such thing')

    monkeypatch.setattr(gpu, 'PARTS', {'machine': (gpu.machine, 10.), 'first': (fails, 10.),
                                       'second': (lambda part: part.add('n', 2), 10.)})
    monkeypatch.setattr(sys, 'argv', ['gpu.py', '--device', 'cpu', '--json', str(tmp_path / 'gpu.json')])
    assert gpu.main() == 1
    parts = json.loads((tmp_path / 'gpu.json').read_text())['parts']
    assert parts['first']['status'] == 'failed' and parts['first']['error'] == 'ValueError: no such thing'
    assert parts['second']['figures'] == {'n': 2}
    assert 'first: failed after 0 s: ValueError: no such thing' in capfd.readouterr().out
