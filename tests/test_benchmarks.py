"""Benchmarks: figures as JSON and PNG, parameters of the scaling arithmetic, invalid overrides."""
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from support.docs import COMMANDS
from support.project import ROOT
from support.published import save

pytestmark = pytest.mark.long


def run(*arguments):
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_documented(script, *arguments):
    """The command that the documentation gives for a script, with more arguments."""
    [command] = [command for command in COMMANDS if f'benchmarks/{script}.py' in command]
    return run(*shlex.split(command)[1:], *arguments)


def table_rows(out):
    """Cells of the rows of Markdown tables."""
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in out.splitlines()
            if line.startswith('| BERT')]


def number(cell):
    return float(cell.replace(',', ''))


def test_step_writes_json_and_png(tmp_path):
    pytest.importorskip('matplotlib')
    out = run_documented('step', '--rounds', '2', '--steps', '1', '--json', str(tmp_path / 'step.json'),
                         '--plot', str(tmp_path / 'step.png'))
    found = json.loads((tmp_path / 'step.json').read_text())
    # Hugging Face's sides need transformers
    sides = {side['side']: side for side in found['sides'] if not side['side'].startswith('HF')}
    assert list(sides) == ['labml_nn', 'ours', 'ours, compiled']
    assert sides['labml_nn']['ratio'] == 1 and sides['ours']['ratio'] > 0
    assert all(side['memory, MB'] > 0 and 0 < side['of peak'] < 1 for side in found['sides'])
    assert {name: len(found['seconds'][name]) for name in sides} == dict.fromkeys(sides, 2)
    assert (tmp_path / 'step.png').read_bytes().startswith(b'\x89PNG')
    assert 'of peak' in out


def test_profile_of_a_step():
    out = run_documented('step_profile', '--layers', '2', '--steps', '2', '--rows', '200')
    assert '2 layers, eager' in out
    table = out[out.index('calls\n'):].splitlines()[1:]
    rows = {line[:58].strip(): line[58:].split() for line in table}
    assert {'mm', 'gelu', 'outside', '_scaled_dot_product_flash_attention_for_cpu'} <= rows.keys()
    # Attention has two products, and its backward pass five
    floors = [float(rows[f'_scaled_dot_product_flash_attention_for_cpu{end}'][2]) for end in ('', '_backward')]
    assert 0 < 2 * floors[0] < floors[1]
    assert sum(float(row[1].rstrip('%')) for row in rows.values()) == pytest.approx(100, abs=len(rows) * 0.05)


def test_scaling_writes_json(tmp_path):
    out = run_documented('scaling', '--points', '2', '--steps', '1', '--json', str(tmp_path / 'scaling.json'))
    sweeps = json.loads((tmp_path / 'scaling.json').read_text())
    assert out.count('slope') == len(sweeps) == 4
    assert sweeps['batch_size']['values'] == [4, 8]
    for sweep in sweeps.values():
        assert all(seconds > 0 and megabytes > 0 for seconds, megabytes in sweep['ours'])


def test_learning_writes_json_and_png(tmp_path):
    pytest.importorskip('matplotlib')
    out = run_documented('learning', '--text', 'text=python_topics', '--seconds', '2', '--seeds', '2', '--sides',
                         'labml_nn', 'char_labml_nn_size',
                         '--side', 'short: seq_len_schedule=8:0.5,32 masking_schedule=linear',
                         '--json', str(tmp_path / 'learning.json'), '--plot', str(tmp_path / 'learning.png'))
    found = json.loads((tmp_path / 'learning.json').read_text())
    assert list(found['curves']) == ['labml_nn', 'char_labml_nn_size', 'short']
    for name, seeds in found['curves'].items():
        assert len(seeds) == 2
        for points in seeds:
            seconds, tokens, losses, accuracies = zip(*points, strict=True)
            # A side trains until a step ends after its time is over
            assert all(at >= fraction * 2 for at, fraction in zip(seconds, [0.09, 0.22, 0.44, 0.67, 1], strict=True))
            assert list(tokens) == sorted(tokens)
            assert losses[-1] < losses[0] and all(0 <= accuracy < 1 for accuracy in accuracies), name
    assert (tmp_path / 'learning.png').read_bytes().startswith(b'\x89PNG')
    assert 'masked accuracy after' in out and 'short' in out


def test_docs_scaling_shows_the_output_of_plan():
    page = (ROOT / 'docs/scaling.md').read_text()
    lines = [line for line in run('benchmarks/plan.py').splitlines() if line]
    # Two tables, each with a title and four lines of parameters
    assert len(lines) == 2 * (1 + 4 + 2 + 6)
    assert sum('arithmetic, not measured' in line for line in lines) == 2
    assert all(line in page for line in lines)


def test_plan_follows_from_its_parameters():
    default = table_rows(run('benchmarks/plan.py', '--gpus', '8'))
    out = run('benchmarks/plan.py', '--gpus', '8', '--peak', '494.5', '--link', '225')
    assert out.count('* Rates: peak=494.5 TFLOP/s, link=225 GB/s, network=50 GB/s') == 2
    slower = table_rows(out)
    assert len(slower) == len(default) == 2 * 2
    for before, after in zip(default, slower, strict=True):
        # Half the rate takes twice the time
        assert number(after[3]) == pytest.approx(2 * number(before[3]), abs=0.15)
        assert number(before[4]) < number(after[4]) < 2 * number(before[4])


def test_plan_rejects_incomplete_machines():
    result = subprocess.run([sys.executable, 'benchmarks/plan.py', '--gpus', '12'], cwd=ROOT, capture_output=True,
                            text=True)
    assert result.returncode == 2
    assert result.stderr.endswith('--gpus: numbers above 8 must be multiples of --gpus-per-machine\n')


@pytest.mark.parametrize('name', ['checkpoint', 'distributed', 'fill_mask', 'masking', 'overhead', 'score', 'waiting',
                                  'watched'])
def test_invalid_override_is_reported_without_traceback(name):
    result = subprocess.run([sys.executable, f'benchmarks/{name}.py', 'seq_len=x'], cwd=ROOT, capture_output=True,
                            text=True)
    assert (result.returncode, result.stderr) == (2, '`seq_len=x`: it must be an integer.\n')


def test_load_loses_nothing():
    out = run_documented('load', '--quick')
    assert '5 runs of 2,000 steps and 6 indicators' in out
    assert 'Requests that failed: 0. Values lost: 0.' in out
    # A page may not have been looked at in that time; updates were sent
    assert re.search(r'an update +\d+\.\d ms +\d+ +\d+ ms', out) and int(re.search(r'(\d+) MB of memory', out)[1]) > 20


def test_reviews_keep_figures_and_go_on(tmp_path):
    pytest.importorskip('sklearn')
    command = ['benchmarks/reviews.py', tmp_path, '--quick', '--sides', 'majority,tfidf', '--seeds', '2']
    first = run(*command, '--labels', '50')
    second = run(*command, '--labels', '50,200')
    measured = [line for line in (first + second).splitlines() if ' s' in line and 'labels, seed' in line]
    # What is there is not measured again
    assert len(measured) == len(set(measured)) == 1 + 2 + 2
    outcomes = json.loads((tmp_path / 'results.json').read_text())['outcomes']
    assert [(outcome['side'], outcome['n'], outcome['seed']) for outcome in outcomes] == [
        ('majority', None, 1), *(('tfidf', n, seed) for n in (50, 200) for seed in (1, 2))]
    # One word tells the labels
    assert [outcome['values']['film'] for outcome in outcomes] == [0.5, 1, 1, 1, 1]
    assert second.splitlines()[-1].split()[-5:-1] == ['1.000', '±0.000', '1.000', '±0.000']


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--sides', 'tfdf'], '--sides tfdf: it must be one of majority, vader, tfidf'),
    (['--sides', 'words'], '--sides words: it must be one of'),
    (['--labels', '51'], '--labels 51: it must be one of 50, 200, all\n'),
    (['--sides', 'frozen', '--transformers-python', sys.executable],
     'this side needs a folder of MiniLM: --model FOLDER'),
    (['--sides', 'loop', '--transformers-python', ''], 'this side needs a Python with transformers'),
])
def test_reviews_say_what_is_wrong(arguments, message):
    result = subprocess.run([sys.executable, 'benchmarks/reviews.py', '--quick', *arguments], cwd=ROOT, text=True,
                            capture_output=True)
    assert result.returncode == 2 and result.stderr.startswith(message), result.stderr


def test_reviews_beside_transformers(needs_transformers, tmp_path):
    pytest.importorskip('sklearn')
    model = save(tmp_path / 'model')
    (model / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'BertTokenizer'}))
    out = run('benchmarks/reviews.py', tmp_path / 'data', '--quick', '--sides', 'frozen,loop', '--labels', '50',
              '--seeds', '1', '--model', model, '--transformers-python', os.environ['LABML_MLM_TRANSFORMERS_PYTHON'])
    outcomes = json.loads((tmp_path / 'data/results.json').read_text())['outcomes']
    assert [outcome['side'] for outcome in outcomes] == ['frozen', 'loop']
    assert all(0.4 < outcome['values']['film'] <= 1 and outcome['seconds'] > 0 for outcome in outcomes), out


def test_learning_at_equal_tokens(tmp_path):
    out = run('benchmarks/learning.py', '--text', 'text=python_topics', '--tokens', '40000', '--seeds', '1',
              '--cpu-time', '--sides', 'ours', '--side', 'shallow: transformer.n_layers=1',
              '--json', str(tmp_path / 'learning.json'))
    curves = json.loads((tmp_path / 'learning.json').read_text())['curves']
    # Steps of 2,048 tokens
    assert {name: points[-1][1] for name, [points] in curves.items()} == {'ours': 40_960, 'shallow': 40_960}
    assert curves['shallow'][0][-1][0] < curves['ours'][0][-1][0]
    assert '0.04 million tokens' in out and 'CPU time' in out


SEARCH = 'rates', 'text.txt', 'recipe=char', 'n_prompts=0', 'd_model=16', 'transformer.n_layers=1', '--minutes', '0.03'


def search(folder, *arguments):
    return subprocess.run([sys.executable, ROOT / 'benchmarks' / 'search.py', *arguments], cwd=folder, text=True,
                          capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})


def test_search_goes_on_where_it_ended(tmp_path):
    optuna = pytest.importorskip('optuna')
    (tmp_path / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\n')
    (tmp_path / 'text.txt').write_text('The quick brown fox jumps over the lazy dog.\n' * 2000)
    space = '--space', 'optimizer.learning_rate=1e-6,1e-2', 'transformer.n_heads=2,4'
    first = search(tmp_path, *SEARCH, *space, '--trials', '2', '--confirm', '0')
    assert first.returncode == 0 and '2 candidates in' in first.stdout, first.stderr
    n_before = len(list(tmp_path.glob('logs/char_mlm/*')))
    second = search(tmp_path, *SEARCH, *space, '--trials', '6', '--confirm', '1', '--seeds', '2')
    assert second.returncode == 0 and '6 candidates in' in second.stdout, second.stderr
    assert 'with 2 seeds' in second.stdout
    # Each candidate has a run of each rung that it came to; the same candidate, the same runs
    runs = [json.loads((path / 'configs.json').read_text()) for path in tmp_path.glob('logs/char_mlm/*')]
    assert n_before < len(runs) <= 3 * 4 + 1
    storage = optuna.storages.journal.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / 'searches' / 'rates.journal')))
    study = optuna.load_study(study_name='rates', storage=storage)
    best = max(study.get_trials(), key=lambda trial: trial.user_attrs['figures'][-1][0])
    assert best.params['optimizer.learning_rate'] == '1e-2'
    other = search(tmp_path, *SEARCH, '--space', 'transformer.n_heads=2,4', '--trials', '1')
    assert other.returncode == 2 and 'there is a search rates with other space' in other.stderr


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--space', 'transformer.n_heads=2,5'], 'd_model=16 is not divisible by n_heads=5'),
    (['--space', 'transformer.n_heads=2'], 'a space has several values of an item'),
    (['--space', 'transformer.n_head=2,4'], 'transformer.n_heads'),
    (['--space', 'seed=1,2', '--hours', '0'], '--hours 0: it must be above 0'),
])
def test_a_search_that_cannot_be_made(tmp_path, arguments, message):
    pytest.importorskip('optuna')
    (tmp_path / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\n')
    (tmp_path / 'text.txt').write_text('The quick brown fox jumps over the lazy dog.\n' * 2000)
    result = search(tmp_path, *SEARCH, *arguments)
    assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr
    assert not (tmp_path / 'logs').exists() and not (tmp_path / 'searches').exists()
