"""`benchmarks/expected.py`: which runs make a curve, and what `labml-mlm info` says of others beside it."""
import importlib
import json

import pytest
from support import runs
from support.curves import log_course, snapshot_of
from support.project import ROOT, outcome

from labml_mlm.common.errors import UserError
from labml_mlm.run_commands import expected_curve as expected_curves
from labml_mlm.run_commands.expected_curve import read_curve
from labml_mlm.runs.run import Run

# A fixture
make = runs.make
PROGRESS = {'epoch': 4, 'left_out': 0., 'steps': 400, 'tokens': 4000}


@pytest.fixture
def expected(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'benchmarks')
    return importlib.import_module('expected')


@pytest.fixture
def finished(make):
    """Makes a finished run of a recipe with a seed."""
    def finished(seed, snapshot=None, *, accuracy=0.3, status='completed', progress=PROGRESS, **options):
        run = make(f'run{seed}', statuses=[status], snapshot=snapshot or snapshot_of(seed=seed))
        run.checkpoints.write(4000, tensors={}, metadata={'progress': progress})
        log_course(run, {2000: (accuracy, 3.), 4000: (2 * accuracy, 2. + seed / 10)}, seconds=seed, **options)
        return run
    return finished


def test_bands_and_medians(expected, finished):
    curve = expected.curve_of([finished(3, accuracy=0.1), finished(1, accuracy=0.2), finished(2, accuracy=0.45)],
                              hardware='2 cores')
    assert (curve.seeds, curve.length, curve.hardware) == ([1, 2, 3], (4, 400, 4000), '2 cores')
    assert curve.conditions.text['name'] == 'plays.txt' and curve.versions == {'torch': '2.13.0', 'threads': 2}
    first, last = curve.points
    assert (first.tokens, first.seconds, first.accuracy) == (2000, pytest.approx(4), pytest.approx((0.1, 0.25, 0.45)))
    assert (last.seconds, last.loss) == (pytest.approx(8), pytest.approx((2.1, 2.2, 2.3)))


def test_a_run_that_ended_within_an_epoch(expected, finished):
    progress = PROGRESS | {'left_out': 0.75}
    curve = expected.curve_of([finished(seed, snapshot_of(seed=seed, max_steps=400), progress=progress)
                               for seed in (1, 2, 3)], hardware='', text='Plays')
    assert curve.length == (3.25, 400, 4000) and curve.conditions.text['name'] == 'Plays'


@pytest.mark.parametrize('change, message', [
    ({'given': {'seq_len': 64, 'd_model': 5}}, r'their seeds: seq_len \(32 and 64\), d_model \(128 and 5\)'),
    ({'recipe': 'subword'}, r'their seeds: recipe \(char and subword\)'),
    ({'given': {'epochs': 8}}, r'their seeds: epochs \(4 and 8\)'),
    ({'given': {'max_steps': 400}}, r'their seeds: epochs \(4 and None\), max_steps \(None and 400\)'),
    ({'text': {'sha256': 'b'}}, r'their seeds: text \(abc and b\)'),
    ({'versions': {'torch': '2.14.0', 'threads': 2}}, r'their seeds: torch \(2\.13\.0 and 2\.14\.0\)'),
    ({'tokenizer': {'kind': 'other'}}, r'their seeds: tokenizer \('),
    ({'parameters': 5}, r'their seeds: parameters \('),
    ({'validations': {1000: (0.1, 3.), 4000: (0.1, 3.)}}, r'seeds: validations after tokens \(\[2000, 4000\] and'),
    ({'seed': 2}, 'each run must have a seed of its own: 1, 2, 2'),
    ({'recipe': None}, 'the run run3 has no recipe of pre-training'),
    ({'objective': 'classification'}, 'the run run3 has no recipe of pre-training'),
    ({'tokenizer': None}, 'the run run3 has a text or a vocabulary that it does not know again'),
    ({'text': {}}, 'the run run3 has a text or a vocabulary that it does not know again'),
    ({'status': 'interrupted'}, 'the run run3 is not complete: interrupted'),
    ({'own_code': ['step']}, r"the run run3 has code of its own, or is of an earlier version: \['step'\]"),
    ({'resumed': [{'tokens': 5}]}, 'the run run3: it was resumed, and its folder does not say'),
    ({'given': {'max_minutes': 2.}}, 'the run run3 does not say how long it is'),
    ({'given': {'init_from': '/data/encoder'}}, 'the run run3 depends on a file of this machine: init_from'),
    ({'given': {'old_path': ['/data/old']}}, 'the run run3 depends on a file of this machine: old_path'),
    ({'damaged': 'no JSON\n'}, 'log.jsonl has 1 damaged lines'),
    ({'validations': {4000: (0.1, 3.)}}, 'the run run3 has 1 validations: a curve needs 2 at least'),
    ({'validations': {2000: (0.1, float('nan')), 4000: (0.1, 3.)}}, 'after 2,000 tokens that are finite'),
])
def test_what_is_refused_is_named(expected, finished, change, message):
    others = [finished(1), finished(2)]
    damaged, status = change.pop('damaged', ''), change.pop('status', 'completed')
    validations = change.pop('validations', None)
    snapshot = snapshot_of(change.pop('recipe', 'char'), seed=change.pop('seed', 3), **change.pop('given', {}))
    run = finished(3, snapshot | change, damaged=damaged, status=status)
    if validations:
        log_course(run, validations)
    with pytest.raises(UserError, match=message):
        expected.curve_of([*others, run], hardware='')


def test_two_seeds_are_no_curve(expected, finished):
    with pytest.raises(UserError, match='a curve needs 3 runs at least, with different seeds: 2 given'):
        expected.curve_of([finished(1), finished(2)], hardware='')


def test_a_run_whose_checkpoint_says_nothing(expected, finished):
    with pytest.raises(UserError, match='the run run3 has no checkpoint that says how far it has come'):
        expected.curve_of([finished(3, progress={}), finished(1), finished(2)], hardware='')


def test_a_curve_of_real_runs_and_a_run_beside_it(expected, project, monkeypatch, capsys):
    items = ['recipe=char', 'd_model=16', 'transformer.n_layers=1', 'transformer.n_heads=2', 'seq_len=16',
             'batch_size=16', 'lr_warmup_steps=2', 'max_steps=12', 'baselines=none', 'n_prompts=0',
             f'text_path={project.text}', 'valid_fraction=0.3']

    def train(uuid, *more):
        result = project.run(*items, *more, env={'RUN_UUID': uuid})
        assert result.returncode == 0, result.stderr

    for seed in (1, 2, 3):
        train(f'feed{seed}', f'seed={seed}', 'inner_iterations=4')
    monkeypatch.chdir(project.path)
    monkeypatch.setattr(expected_curves, 'FOLDER', project.path / 'curves')
    monkeypatch.setattr('sys.argv', ['expected.py', 'test', '--hardware', 'a core', '-o', 'curves/char.json'])
    expected.main()
    assert 'curves/char.json has the curve of recipe=char on text.txt: 4 points of 3 seeds' in capsys.readouterr().out
    curve = read_curve(project.path / 'curves/char.json')
    assert curve.length.steps == 12 and curve.points[-1].tokens == curve.length.tokens
    assert curve.versions['device'] == 'cpu' and curve.conditions.items['transformer.ffn.d_ff'] == 32
    # No path of this machine
    assert str(project.path) not in (project.path / 'curves/char.json').read_text()

    # A run is within the band of itself, whatever its validations are
    train('beef', 'seed=2', 'transformer.ffn.d_ff=32', 'checkpoint_interval=none')
    facts = json.loads(outcome(capsys, 'info', 'beef', '--json')[1])['expected']
    assert facts['reason'] is None and facts['figures']['accuracy.valid']['verdict'] == 'within'
    assert facts['figures']['loss.valid']['step'] == curve.length.tokens
    assert facts['speed']['run'] > 0 and facts['speed']['expected'] > 0
    train('cafe', 'masking_prob=0.2')
    facts = json.loads(outcome(capsys, 'info', 'cafe', '--json')[1])['expected']
    assert facts['figures'] is None and facts['reason'] == 'masking_prob=0.2 in place of 0.15'
    assert Run(project.path / 'logs/test/cafe').status == 'completed'
