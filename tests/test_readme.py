"""README's commands, run as they stand there."""
import gzip
import json
import re
import shutil
import subprocess
import sys

import pytest
from support.project import ROOT

from labml_mlm import MLMConfigs
from labml_mlm.configs.schema import config_items

README = (ROOT / 'README.md').read_text(encoding='utf-8')
COMMANDS = [line for block in re.findall(r'```sh\n(.*?)```', README, re.DOTALL) for line in block.splitlines()]
SET_UP = [command for command in COMMANDS if command.startswith('python3 -m venv')]
USE, EXTEND, MASK = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
# On several ranks
LAUNCHED = [command for command in COMMANDS if 'torchrun' in command or 'labml launch' in command]
# How they are done in seconds
BENCHMARKS = {'fill_mask': '', 'benchmarks/app': ' --runs 2 --steps 100',
              'benchmarks/distributed': ' --steps 1 --sizes tiny',
              'benchmarks/data': ' --megabytes 1 --bpe-megabytes 1',
              'watched': ' transformer.n_layers=1 d_model=16 transformer.n_heads=2 batch_size=512'}
TRAIN = 'python experiments/char_mlm.py text_path=my_text.txt epochs=1 transformer.n_layers=1 n_prompts=0'


@pytest.fixture
def checkout(tmp_path, project):
    """A copy of what git tracks, with texts that train in a second."""
    path = tmp_path / 'checkout'
    files = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.splitlines()
    for file in files:
        if (ROOT / file).exists():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, path / file)
    (path / 'my_text.txt').write_text('the quick brown fox jumps over the lazy dog\nTo be or not to be\n' * 400)
    (path / 'my_mlm.py').write_text(EXTEND)
    with gzip.open(path / 'topics.jsonl.gz', 'wt') as f:
        f.writelines(json.dumps({'text': 'the quick brown fox ' * (i % 20 + 1)}) + '\n' for i in range(1000))
    (path / 'poems').mkdir()
    (path / 'poems/one.txt').write_text((path / 'my_text.txt').read_text())
    # `python` is the one that runs the tests
    (tmp_path / 'bin').mkdir()
    for name, command in {'python': sys.executable, 'labml-mlm': f'{sys.executable} -m labml_mlm',
                          'torchrun': f'{sys.executable} -m torch.distributed.run',
                          'labml': f'{sys.executable} -m labml.cli'}.items():
        (tmp_path / 'bin' / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tmp_path / 'bin' / name).chmod(0o755)

    def run(command):
        env = project.environment()
        env['PATH'] = f'{tmp_path / "bin"}:{env["PATH"]}'
        return subprocess.run(['bash', '-c', command], cwd=path, env=env, capture_output=True, text=True)

    return run


def test_all_kinds_of_commands_are_found():
    assert len(SET_UP) == 2
    assert len(COMMANDS) == 38


@pytest.mark.parametrize('command', [
    pytest.param(command, marks=[pytest.mark.long] if 'benchmarks/' in command or command in LAUNCHED else [])
    for command in COMMANDS if command not in SET_UP])
def test_command(checkout, command, app, project):
    if '--resume' in command or 'labml-mlm' in command:
        assert checkout(TRAIN.replace('n_prompts=0', '') if 'samples' in command else TRAIN).returncode == 0
    elif ' experiments/' in command and 'text_path' not in command and '--help' not in command:
        # The same on a text that takes seconds
        command += ' text_path=my_text.txt'
    if 'scaling' in command:
        command += ' --points 2 --steps 1'
    elif 'benchmarks/learning' in command:
        command += ' --seconds 1 --seeds 1 --sides labml_nn ours together --text text=python_topics'
    elif 'benchmarks/masking' in command:
        command += ' --batches 1'
    elif 'benchmarks/' in command:
        command += ' --rounds 1' + next((more for name, more in BENCHMARKS.items() if name in command), ' --steps 2')
    if 'sync' in command:
        project.configure(app.app_url)
    if command == 'labml-mlm app':
        # Until somebody ends it
        command = f'timeout --signal INT 10 {command} --port 0 --store store.sqlite'
    result = checkout(command)
    assert result.returncode == (124 if 'timeout' in command else 0), result.stderr
    expected = {'--help': 'usage', 'benchmarks/step': 'of peak', 'benchmarks/over': 'all beside it',
                'benchmarks/scal': 'slope', 'benchmarks/check': '% of training time',
                'benchmarks/fill': 'batches ', 'benchmarks/data': 'speed of tokenizers', 'gzip': '', 'import': 'import',
                'benchmarks/distributed': 'A run of one process pays',
                'benchmarks/learn': 'masked accuracy after', 'benchmarks/mask': 'seq_len',
                'benchmarks/app': 'updates/s', 'benchmarks/watched': 'of the speed',
                ' app': 'The labml app is at', 'sync': 'values sent', ' runs': 'completed', 'fill-mask': 'To be or n',
                ' samples': 'masked  ', ' plot': 'has the curves of',
                '--pseudo': 'Pseudo-perplexity', 'evaluate': 'unigram', '--resume last epochs': 'epochs: 1 → 6',
                '--resume': 'The run'}
    assert next((text for part, text in expected.items() if part in command), 'The run is in') in result.stdout


@pytest.mark.long
def test_first_command_on_a_fresh_machine(checkout):
    """Installs into a new virtual environment and trains to the end on what it can get."""
    main, tests = SET_UP
    assert tests == main.replace('.[app]', '.[app,test]').replace('python experiments/char_mlm.py', 'python -m pytest')
    result = checkout(main)
    assert result.returncode == 0, result.stderr
    accuracy = float(re.search(r'masked accuracy ([\d.]+) after', result.stdout)[1])
    assert accuracy > 0.5


def test_refusal_is_what_readme_shows(checkout):
    command, message = re.search(r'```\n\$ (.*)\n(.*)\n```', README).groups()
    result = checkout(command)
    assert result.returncode == 2
    assert result.stderr.strip() == message


def test_table_of_items_is_true():
    items = config_items(MLMConfigs())
    rows = re.findall(r'^\| (`.*?) \| (.*?) \| (.*?) \|$', README, re.MULTILINE)
    assert len(rows) > 15
    for names, defaults, meaning in rows:
        names = re.findall(r'`(.*?)`', names)
        assert set(names) <= set(items), names
        for name, default in zip(names, defaults.split(', '), strict=True):
            shown = default.strip('`').replace('`', '')
            actual = items[name].default
            if isinstance(actual, bool):
                assert shown == str(actual).lower(), name
            elif isinstance(actual, int | float):
                assert float(shown) == actual, name
            elif shown:
                assert shown in (actual, actual.replace('transformer.', '')), name
            else:
                assert not actual, name
        # Whatever is in code style in the meaning of an item with options is one of them
        if items[names[0]].options:
            allowed = {*items[names[0]].allowed, *items}
            mentioned = set(re.findall(r'`(\w+)`', meaning)) - {'none'}
            assert mentioned <= allowed, mentioned - allowed


def test_use_example(checkout, tmp_path):
    assert checkout(TRAIN).returncode == 0
    (tmp_path / 'checkout/use.py').write_text(USE + "\nprint(features.shape, per_token[0].shape)\n")
    result = checkout('python use.py')
    assert result.returncode == 0, result.stderr
    first, *predictions, shapes = result.stdout.splitlines()
    assert first.startswith('th') and len(first) == 3
    assert len(predictions) == 5
    assert shapes == 'torch.Size([2, 128]) torch.Size([5, 128])'


def test_masking_example():
    namespace = {}
    exec(MASK, namespace)
    x, masked, labels = (namespace[name] for name in ('x', 'masked', 'labels'))
    assert masked.shape == labels.shape == x.shape == (32, 64)
    assert (labels != 0).any()
