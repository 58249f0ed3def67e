"""The commands and Python blocks of README and `docs/`, run as they stand there."""
import functools
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.docs import BLOCKS, COMMANDS, PAGES, README
from support.project import ROOT

INSTALL = [command for command in COMMANDS if 'pip install' in command]
# Run by `test_benchmarks.py`
BENCHMARKS_WITH_FILES = [command for command in COMMANDS if '--plot' in command or command.endswith(
    ('benchmarks/step.py', 'benchmarks/scaling.py'))]
[USE] = BLOCKS['README.md']
EXTEND, *PARTS, MASK = BLOCKS['extending.md']
WORKED_EXAMPLES = BLOCKS['architecture.md']
# In several processes
LAUNCHED = [command for command in COMMANDS if any(part in command for part in ('torchrun', 'labml launch', 'sweep'))]
# Arguments with which a command takes seconds
QUICK = {'benchmarks/step_profile': '--steps 2 --layers 1', 'benchmarks/fill_mask': '--rounds 1',
         'benchmarks/score': '--rounds 1 --texts 8 transformer.n_layers=1',
         'benchmarks/app': '--rounds 1 --runs 2 --steps 100',
         'benchmarks/distributed': '--rounds 1 --steps 1 --sizes tiny',
         'benchmarks/data': '--rounds 1 --megabytes 1 --bpe-megabytes 1 --short-megabytes 1',
         'benchmarks/watched': '--rounds 1 transformer.n_layers=1 d_model=16 transformer.n_heads=2 batch_size=512',
         'labml-mlm sweep': 'transformer.n_layers=1 d_model=16 transformer.n_heads=2 max_steps=5',
         'benchmarks/fuzz': '--cases 3', 'benchmarks/load': '--quick',
         'benchmarks/masking': '--batches 1', 'benchmarks/plan': '', 'benchmarks/': '--rounds 1 --steps 2',
         'labml-mlm app': '--port 0 --store store.sqlite'}
# What a command prints, by a part of it; the first that fits
EXPECTED = {'--help': 'usage', 'benchmarks/step_profile': 'a step takes', 'benchmarks/over': 'everything else',
            'benchmarks/check': '% of training time', 'benchmarks/fill': 'batches ',
            'benchmarks/score': 'encoder alone',
            'benchmarks/data': 'throughput of tokenizers', 'benchmarks/domain': 'transformers',
            'benchmarks/distributed': 'In a single process all of this',
            'benchmarks/fuzz': 'cases from seed', 'benchmarks/load': 'Values lost: 0',
            'benchmarks/mask': 'seq_len', 'benchmarks/app': 'updates/s',
            'benchmarks/watched': 'ratio', 'benchmarks/plan': 'not measured', 'gzip': '', 'import [MASK]': 'import',
            'labml-mlm app': 'The labml app is at', 'labml-mlm sync': 'values sent', 'labml-mlm runs': 'completed',
            'labml-mlm text': 'tokens a word', 'labml-mlm report': 'report.html has', 'labml-mlm sweep': 'loss.valid',
            'labml-mlm export-metrics': 'runs.csv', 'labml-mlm export': 'is written', 'labml-mlm predict': '"label"',
            '--near': 'to be',
            'labml-mlm embed': 'has the features of 3 texts', '--pairs': 'all pairs',
            'labml-mlm score': 'bits per character', '-o page.html': 'shows', 'labml-mlm inspect': 'could be',
            'labml-mlm probe': '95% interval',
            '--candidates': 'per token', '--joint': 'and lives in', '[MASK] [MASK] today': '␣',
            'labml-mlm info': 'to resume', 'labml-mlm train': 'The run is in',
            'labml-mlm fill-mask': 'To be or n', 'labml-mlm samples': 'masked  ', 'labml-mlm plot': 'has the curves of',
            '--pseudo': 'Pseudo-perplexity', 'labml-mlm evaluate': 'unigram', '--resume last epochs': 'epochs: 1 → 12',
            '--resume': 'The run', 'experiments/': 'The run is in', 'my_mlm.py': 'The run is in'}
TRAIN = 'python experiments/char_mlm.py text_path=my_text.txt epochs=1 transformer.n_layers=1'


class Checkout:
    """A copy of what git tracks, with texts that train in a second."""

    def __init__(self, path: Path, environment: dict[str, str]):
        self.path = path
        self.environment = environment

    def fill(self):
        """Copies the files, and adds texts."""
        files = subprocess.run(['git', 'ls-files', '--cached', '--others', '--exclude-standard'], cwd=ROOT, check=True,
                               capture_output=True, text=True).stdout.splitlines()
        for file in files:
            if (ROOT / file).exists():
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, self.path / file)
        text = ('the quick brown fox jumps over the lazy dog\nTo be or not to be\n'
                'Mary loves pizza, strawberries, bananas and carpets, and lives in New York today.\n') * 200
        (self.path / 'my_text.txt').write_text(text)
        (self.path / 'my_mlm.py').write_text(EXTEND)
        with gzip.open(self.path / 'topics.jsonl.gz', 'wt') as f:
            f.writelines(json.dumps({'text': 'the quick brown fox ' * (i % 20 + 1)}) + '\n' for i in range(300))
        (self.path / 'poems').mkdir()
        (self.path / 'poems/one.txt').write_text(text)
        (self.path / '.labml.yaml').write_text('app_url: http://localhost:1/api/v1/default\napp_open_browser: false\n')
        rows = [{'text': f'the {noun} number {i} is {adjective}', 'label': label} for i in range(20)
                for noun in ('fox', 'dog') for label, words in (('good', ('quick', 'brown')), ('bad', ('lazy', 'slow')))
                for adjective in words]
        (self.path / 'reviews.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        (self.path / 'new_reviews.txt').write_text('the fox is quick\nthe dog is lazy\n')
        (self.path / 'names.conll').write_text('the O\nquick B-FOX\nfox I-FOX\n\nthe O\ndog O\n\n' * 40)
        (self.path / 'sentences.txt').write_text('the quick brown fox\nto be or not to be\nthe lazy dog\n')
        (self.path / 'pairs.jsonl').write_text(''.join(json.dumps({
            'sentence_good': f'the {noun} jumps', 'sentence_bad': f'{noun} the jumps', 'UID': 'order'}) + '\n'
            for noun in ('fox', 'dog', 'quick brown fox')))
        # `python` is the one that runs the tests
        (self.path / 'bin').mkdir()
        for name, command in {'python': sys.executable, 'labml-mlm': f'{sys.executable} -m labml_mlm',
                              'torchrun': f'{sys.executable} -m torch.distributed.run',
                              'labml': f'{sys.executable} -m labml.cli'}.items():
            (self.path / 'bin' / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (self.path / 'bin' / name).chmod(0o755)

    def run(self, command: str) -> subprocess.CompletedProcess:
        """A command of the shell in it."""
        environment = {**self.environment, 'HOME': str(self.path),
                       'PATH': f'{self.path / "bin"}:{self.environment["PATH"]}'}
        return subprocess.run(['bash', '-c', command], cwd=self.path, env=environment, capture_output=True, text=True)


@pytest.fixture(scope='session')
def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ('NO_COLOR', 'RUN_UUID')}
    return {**kept, 'OMP_NUM_THREADS': '1'}


@pytest.fixture(scope='session')
def trained_once(tmp_path_factory, environment) -> Checkout:
    """A checkout with a trained run and two published encoders, for commands that use one. Not to be changed."""
    checkout = Checkout(tmp_path_factory.mktemp('trained') / 'checkout', environment)
    checkout.path.mkdir()
    checkout.fill()
    # Encoders to go on with; the last run stays
    for name, more in (('my_subwords', ' tokenizer=bpe vocab_size=300'), ('my_encoder', '')):
        shutil.rmtree(checkout.path / 'logs', ignore_errors=True)
        assert checkout.run(TRAIN + more).returncode == 0
        written = checkout.run(f'labml-mlm export last {name}')
        assert written.returncode == 0, written.stderr
    return checkout


@pytest.fixture
def trained(tmp_path, trained_once, environment) -> Checkout:
    """A copy of that."""
    shutil.copytree(trained_once.path, tmp_path / 'checkout', symlinks=True)
    return Checkout(tmp_path / 'checkout', environment)


@pytest.fixture
def checkout(tmp_path, environment) -> Checkout:
    """A checkout without runs."""
    checkout = Checkout(tmp_path / 'checkout', environment)
    checkout.path.mkdir()
    checkout.fill()
    return checkout


def test_all_commands_are_found():
    assert len(INSTALL) == 3
    assert len(COMMANDS) == 83
    assert {name for name, blocks in BLOCKS.items() if blocks} == {'README.md', 'architecture.md', 'extending.md',
                                                                   'inference.md'}


def test_readme_is_short():
    assert len(README.splitlines()) <= 250


@pytest.mark.end_to_end
@pytest.mark.parametrize('command', [
    pytest.param(command, marks=[pytest.mark.long] if 'benchmarks/' in command or command in LAUNCHED else [])
    for command in COMMANDS if command not in INSTALL + BENCHMARKS_WITH_FILES])
def test_command(command, app, request):
    needs_run = '--resume' in command or 'labml-mlm' in command or 'init_from' in command
    checkout = request.getfixturevalue('trained' if needs_run else 'checkout')
    if ' experiments/' in command and 'text_path' not in command and '--help' not in command and not needs_run:
        # The same on a text that takes seconds
        command += ' text_path=my_text.txt'
    command += ' ' + next((more for part, more in QUICK.items() if part in command), '')
    if '--text' in command:
        # Pseudo-perplexity masks each token of it
        (checkout.path / 'my_text.txt').write_text('to be or not to be, that is the question\n' * 20)
    if 'labml-mlm predict' in command:
        tuned = checkout.run('python experiments/classify.py init_from=my_encoder text_path=reviews.jsonl epochs=1')
        assert tuned.returncode == 0, tuned.stderr
    if 'sync' in command:
        (checkout.path / '.labml.yaml').write_text(f'app_url: {app.app_url}\napp_open_browser: false\n')
    if 'labml-mlm app' in command:
        # Until somebody ends it
        command = f'timeout --signal INT 7 {command}'
    result = checkout.run(command)
    assert result.returncode == (124 if 'timeout' in command else 0), result.stderr
    assert next(text for part, text in EXPECTED.items() if part in command) in result.stdout


@pytest.mark.end_to_end
@pytest.mark.long(minutes=4)
def test_first_command_on_a_fresh_machine(checkout):
    """Installs into a new virtual environment and trains to the end on the text that is available."""
    main, tests, _ = INSTALL
    more = {'.[app]': '.[app,finetune,onnx,parquet,test]', 'python experiments/char_mlm.py': 'python -m pytest'}
    assert tests == functools.reduce(lambda command, pair: command.replace(*pair), more.items(), main)
    result = checkout.run(main)
    assert result.returncode == 0, result.stderr
    accuracy = float(re.search(r'masked accuracy ([\d.]+) after', result.stdout)[1])
    assert accuracy > 0.5


@pytest.mark.end_to_end
def test_refused_override_is_what_readme_shows(checkout):
    shown = re.findall(r'^\$ (.*)\n(`.*)$', README, re.MULTILINE)
    assert len(shown) == 3
    for command, message in shown:
        result = checkout.run(f'{command} text_path=my_text.txt' if 'lr_decay' in command else command)
        assert result.returncode == 2
        assert result.stderr.strip() == message
        assert not (checkout.path / 'logs').exists()


def test_page_of_configs_is_up_to_date():
    code = 'import runpy; print(runpy.run_path("scripts/configs_page.py")["page"](), end="")'
    page = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert page == PAGES['configs.md'], 'run `python scripts/configs_page.py`'


@pytest.mark.end_to_end
def test_use_example(trained):
    assert BLOCKS['inference.md'] == [USE]
    (trained.path / 'use.py').write_text(USE + "\nprint(features.shape, per_token[0].shape)\n")
    result = trained.run('python use.py')
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


def test_parts_of_ones_own_are_those_of_the_tests():
    extensions = (ROOT / 'tests/support/extensions.py').read_text()
    assert len(PARTS) == 2 and all(part in extensions for part in PARTS)


@pytest.mark.end_to_end
@pytest.mark.parametrize('number', range(len(WORKED_EXAMPLES)))
def test_worked_example(number, checkout):
    """A small model in place of the default one."""
    code = WORKED_EXAMPLES[number].replace(
        "'epochs=1']", "'epochs=1', 'd_model=16', 'transformer.n_heads=2', 'transformer.n_layers=1', 'batch_size=16']")
    assert code != WORKED_EXAMPLES[number]
    (checkout.path / 'example.py').write_text(code)
    rows = ', '.join(f"('note {i}: the quick brown fox jumps over the lazy dog')" for i in range(500))
    subprocess.run([sys.executable, '-c', 'import sqlite3, sys; c = sqlite3.connect("notes.sqlite");'
                    'c.executescript(sys.argv[1])', f'CREATE TABLE notes (body); INSERT INTO notes VALUES {rows}'],
                   cwd=checkout.path, check=True)
    result = checkout.run('python example.py')
    assert result.returncode == 0, result.stderr
    assert 'The run is in' in result.stdout
