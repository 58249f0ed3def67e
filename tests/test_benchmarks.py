"""What README does not run: figures as JSON and PNG, and what is left out where something is missing."""
import importlib
import json
import subprocess
import sys

import pytest
from support.project import ROOT

from labml_mlm.configs.schema import config_items

pytestmark = pytest.mark.long


def run(*arguments):
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_step_as_json_and_png(tmp_path):
    pytest.importorskip('matplotlib')
    out = run('benchmarks/step.py', '--rounds', '2', '--steps', '1', '--sides', 'ours', 'labml_nn',
              '--json', str(tmp_path / 'step.json'), '--plot', str(tmp_path / 'step.png'))
    found = json.loads((tmp_path / 'step.json').read_text())
    ours, theirs = found['sides']
    assert (ours['side'], ours['ratio']) == ('ours', 1)
    assert theirs['side'] == 'labml_nn' and theirs['ratio'] > 0
    assert all(side['memory, MB'] > 0 and 0 < side['of peak'] < 1 for side in found['sides'])
    assert {name: len(times) for name, times in found['seconds'].items()} == {'ours': 2, 'labml_nn': 2}
    assert (tmp_path / 'step.png').read_bytes().startswith(b'\x89PNG')
    assert 'of peak' in out


def test_scaling_as_json(tmp_path):
    run('benchmarks/scaling.py', '--only', 'batch_size', '--points', '2', '--steps', '1', '--json',
        str(tmp_path / 'scaling.json'))
    sweep = json.loads((tmp_path / 'scaling.json').read_text())['batch_size']
    assert sweep['values'] == [4, 8]
    assert all(seconds > 0 and megabytes > 0 for seconds, megabytes in sweep['ours'])


def test_learning_as_json_and_png(tmp_path):
    pytest.importorskip('matplotlib')
    out = run('benchmarks/learning.py', '--text', 'text=python_topics', '--seconds', '2', '--seeds', '2', '--sides',
              'labml_nn', 'ours', 'together', '--side', 'short: seq_len_schedule=8:0.5,32 masking_schedule=linear',
              '--json', str(tmp_path / 'learning.json'), '--plot', str(tmp_path / 'learning.png'))
    found = json.loads((tmp_path / 'learning.json').read_text())
    assert list(found['curves']) == ['labml_nn', 'ours', 'together', 'short']
    for name, of_seeds in found['curves'].items():
        assert len(of_seeds) == 2
        for points in of_seeds:
            seconds, tokens, losses, accuracies = zip(*points, strict=True)
            # A turn ends with the step in which its time is over
            assert all(at >= share * 2 for at, share in zip(seconds, [0.09, 0.22, 0.44, 0.67, 1], strict=True))
            assert list(tokens) == sorted(tokens)
            assert losses[-1] < losses[0] and all(0 <= accuracy < 1 for accuracy in accuracies), name
    assert (tmp_path / 'learning.png').read_bytes().startswith(b'\x89PNG')
    assert 'short' in out


def test_plan_is_what_the_page_shows():
    page = (ROOT / 'docs/scaling.md').read_text()
    tables = [line for line in run('benchmarks/plan.py').splitlines() if line]
    assert len(tables) == 2 * (1 + 2 + 6)
    assert all(line in page for line in tables)


@pytest.mark.parametrize('name', ['checkpoint', 'distributed', 'fill_mask', 'masking', 'overhead', 'watched'])
def test_wrong_overrides(name):
    result = subprocess.run([sys.executable, f'benchmarks/{name}.py', 'seq_len=x'], cwd=ROOT, capture_output=True,
                            text=True)
    assert (result.returncode, result.stderr) == (2, '`seq_len=x`: it has to be an integer.\n')


def test_together_is_what_the_experiment_does(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    monkeypatch.syspath_prepend(ROOT / 'experiments')
    learning, char_mlm = importlib.import_module('learning'), importlib.import_module('char_mlm')
    items = config_items(char_mlm.Configs())
    own = {name: str(items[name].default) for name in vars(char_mlm.Configs) if name in items}
    assert own == learning.TOGETHER
