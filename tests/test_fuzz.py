"""`benchmarks/fuzz.py` with a small budget: it finds nothing in the package, and a fault that is put there."""
import importlib
import json
import os
import random
import subprocess
import sys

import pytest
from support.project import ROOT

FUZZ = '''
import sys
from unittest import mock
sys.path.insert(0, 'benchmarks')
import fuzz

def run(*arguments):
    sys.argv = ['fuzz.py', *arguments]
    try:
        fuzz.main()
    except SystemExit as e:
        print(f'ended with {int(e.code)}', flush=True)

run('--cases', '16', '--seed', '15', '--minutes', '5', '--keep', FOLDER)
with mock.patch('labml_mlm.cli.commands.sync_run', side_effect=KeyError('planted')):
    run('--cases', '2', '--seed', '7', '--minutes', '5', '--format', 'delivered', '--keep', FOLDER)
'''


def test_nothing_is_found_but_what_is_planted(tmp_path):
    kept = tmp_path / 'kept'
    result = subprocess.run([sys.executable, '-c', FUZZ.replace('FOLDER', repr(str(kept)))], cwd=ROOT, text=True,
                            capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    clean, planted, _ = result.stdout.split('ended with ')
    assert planted.startswith('0'), result.stdout + result.stderr
    assert '16 cases from seed 15' in clean
    assert result.stdout.endswith('ended with 1\n')
    assert planted.count("exit code 70: KeyError: 'planted'") == 2
    for seed in (7, 8):
        assert f'--format delivered --seed {seed} --cases 1' in planted
        assert (kept / f'{seed}-delivered.json').exists()
        assert "KeyError: 'planted'" in (kept / f'{seed}-delivered.json.txt').read_text()


@pytest.fixture
def mutations(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    return importlib.import_module('fuzz_mutations')


DATA = {'json': json.dumps({'a': [1, {'b': 'text'}], 'c': None}).encode(), 'jsonl': b'{"a": 1}\n{"b": [2]}\n' * 3,
        'yaml': b'a: 1\nb: [x, 2]\n', 'text': b'any text'}


@pytest.mark.parametrize('kind', DATA)
def test_damage_is_that_of_its_seed(mutations, kind):
    damaged = [mutations.mutate(DATA[kind], kind, random.Random(seed)) for seed in range(100)]
    assert damaged == [mutations.mutate(DATA[kind], kind, random.Random(seed)) for seed in range(100)]
    # A value may take its own place
    assert len(set(damaged)) > 60 and sum(one != DATA[kind] for one in damaged) > 80


def test_sealed_metadata_is_read(mutations, tmp_path):
    from labml_mlm.runs import checkpoint

    (tmp_path / 'checkpoint.json').write_bytes(mutations.seal({'format': 1, 'step': 3, 'files': {}}))
    assert checkpoint.read(tmp_path).step == 3
