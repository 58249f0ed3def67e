"""The length of resumed runs, from the command line."""
import json

import pytest
from support.project import SMALL, assert_clean_failure, values_of

from labml_mlm.budget.resumed import fitted_steps, new_budget
from labml_mlm.common.errors import UserError

SIZES = [argument for argument in SMALL if argument != 'epochs=1']
# Every run has this speed
SPEED = '''
from labml_mlm.budget import configs
from labml_mlm.budget.speed import Speed


def measure(c):
    print('MEASURING', flush=True)
    return Speed(0.01, 0.098, epoch_length=len(c.train_loader))


configs.measure = measure
'''


@pytest.fixture
def start(project):
    """Trains the run `feed`."""
    project.script.write_text(SPEED + project.script.read_text())

    def start(*arguments, **env):
        return project.run(f'text_path={project.text}', *SIZES, 'n_prompts=0', 'lr_warmup_steps=3', *arguments,
                           env={'RUN_UUID': 'feed', **env})
    return start


def test_minutes_are_measured_once(project, start):
    result = start('max_minutes=0.01', 'checkpoint_interval=20', 'keep_checkpoints=9')
    assert result.returncode == 0, result.stderr
    # 0.6 s: 50 steps, and one validation of each epoch of 31
    assert 'max_minutes=0.01: 10 ms a step and 98 ms a validation, so 40 steps' in result.stdout
    folder = project.path / 'logs/test/feed'
    assert json.loads((folder / 'configs.json').read_text())['fitted'] == {'max_minutes': 0.01, 'max_steps': 40}
    whole = values_of(folder / 'log.jsonl')
    assert len(whole['lr']) == 40
    # From a checkpoint before its end it comes to the same
    at = min(folder.glob('checkpoints/[0-9]*'), key=lambda path: int(path.name.split('-')[0]))
    result = project.run('--resume', str(at))
    assert result.returncode == 0 and 'MEASURING' not in result.stdout, result.stderr
    again = values_of(folder / 'log.jsonl')
    assert {name: again[name] for name in ('lr', 'loss.train', 'loss.valid')} == \
        {name: whole[name] for name in ('lr', 'loss.train', 'loss.valid')}
    result = project.run('--resume', 'feed')
    assert 'has completed all of its minutes (0.01): give max_minutes=0.02 to train longer' in result.stdout
    # Twice the minutes are twice the steps
    result = project.run('--resume', 'feed', 'max_minutes=0.02')
    assert result.returncode == 0 and 'MEASURING' not in result.stdout, result.stderr
    assert 'max_minutes: 0.01 → 0.02 (the learning rate decays to the new end)' in result.stdout
    assert len(values_of(folder / 'log.jsonl')['lr']) == 80


def test_another_budget_replaces_that_of_the_run(project, start):
    assert start('max_tokens=5000').returncode == 0
    lr = values_of(project.path / 'logs/test/feed/log.jsonl')['lr']
    assert len(lr) == 20
    result = project.run('--resume', 'feed')
    assert 'has completed all of its tokens (5,000): give max_tokens=10000 to train longer' in result.stdout
    result = project.run('--resume', 'feed', 'max_steps=30')
    assert result.returncode == 0 and 'max_tokens=5000 no longer counts' in result.stdout, result.stderr
    assert len(values_of(project.path / 'logs/test/feed/log.jsonl')['lr']) == 30
    result = project.run('--resume', 'feed')
    assert 'has completed all of its steps (30): give max_steps=60 to train longer' in result.stdout
    assert_clean_failure(project.run('--resume', 'feed', 'max_minutes=3'), 2,
                         'max_minutes=3: the speed of this run was not measured when it began')
    assert_clean_failure(project.run('--resume', 'feed', 'max_steps=50', 'epochs=3'), 2,
                         'epochs=3 and max_steps=50: only one')


def test_two_budgets_are_refused_in_one_line(project, start):
    assert_clean_failure(start('epochs=2', 'max_steps=5'), 2, 'epochs=2 and max_steps=5: only one of epochs, max_steps')
    assert not project.runs


def test_runs_with_both_from_earlier_versions_resume(project, start):
    assert start('epochs=0.5').returncode == 0
    path = project.path / 'logs/test/feed/configs.json'
    snapshot = json.loads(path.read_text())
    snapshot['given'] |= {'epochs': 2, 'max_steps': 70}
    del snapshot['fitted']
    path.write_text(json.dumps(snapshot))
    result = project.run('--resume', 'feed')
    assert result.returncode == 0, result.stderr
    # Half an epoch, 16 steps, and what is left of two, which is less than 70
    assert len(values_of(project.path / 'logs/test/feed/log.jsonl')['lr']) == 16 + 16 + 31


def test_a_warm_up_longer_than_the_run_is_said(start):
    result = start('max_steps=5', 'lr_warmup_steps=5')
    assert 'lr_warmup_steps=5 is not less than the 5 steps of the run: the learning rate only rises' in result.stdout


def test_budgets_by_name():
    values = {'epochs': 4, 'max_steps': 9, 'seed': 1}
    # Defaults that have changed since are no budget
    assert new_budget(values, {'max_steps': 9}, {}) == [] and values == {'max_steps': 9, 'seed': 1}
    with pytest.raises(UserError, match='max_steps=3 and max_tokens=2: only one'):
        new_budget({}, {}, {'max_steps': 3, 'max_tokens': 2})
    values = {'max_steps': 9}
    assert new_budget(values, {'max_steps': 9}, {'epochs': 3}) == ['max_steps=9'] and not values
    assert new_budget(values := {'epochs': 4, 'max_steps': 9}, dict(values), {}) == [] and len(values) == 2


def test_fitted_steps_of_a_resumed_run():
    minutes, tokens = {'max_minutes': 2., 'max_steps': 300}, {'max_tokens': 9, 'max_steps': 3}
    assert fitted_steps(None, {}) is None
    assert fitted_steps(minutes, {'batch_size': 3}) == minutes
    assert fitted_steps(minutes, {'max_minutes': 3.}) == {'max_minutes': 3., 'max_steps': 450}
    assert fitted_steps(minutes, {'epochs': 3}) is None
    assert fitted_steps(tokens, {'seed': 3}) == tokens
    assert fitted_steps(tokens, {'batch_size': 3}) is None is fitted_steps(tokens, {'max_tokens': 90})
    with pytest.raises(UserError, match='give max_steps'):
        fitted_steps(tokens, {'max_minutes': 3.})
