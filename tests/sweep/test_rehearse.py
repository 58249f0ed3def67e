"""What would be trained, by the checks of training itself."""
import json

import pytest
from support.project import assert_clean_failure

ASK = '''
import json
import sys

from labml_mlm.common.exit import exit_on_error
from labml_mlm.sweep.rehearse import find_combinations

asked = {'files': [], 'overrides': [], 'script': None, 'seeds': None, 'n_random': None, 'random_seed': 0}
with exit_on_error(is_user_code=False):
    print(json.dumps(find_combinations(**asked | json.loads(sys.argv[1]))))
'''
SMALL = ['transformer.n_layers=1', 'd_model=16', 'transformer.n_heads=2', 'seq_len=16', 'text_path=text.txt']
OWN = '''
from typing import Annotated

from labml_mlm import Item, MLMConfigs, train


class Configs(MLMConfigs):
    seed = 7
    size: Annotated[int, Item('A size')] = 3

    def _read(self):
        return self.size


train(Configs(), name="own"{0})
open("trained", "w")
'''


@pytest.fixture
def ask(project):
    project.script = project.path / 'ask.py'
    project.script.write_text(ASK)

    def ask(*overrides, **more):
        return project.run(json.dumps({'overrides': [*SMALL, *overrides], **more}))

    ask.project = project
    return ask


def found(result, *names):
    """The values of some items in the combinations."""
    assert result.returncode == 0, result.stderr
    return [tuple(one[name] for name in names) for one in json.loads(result.stdout.splitlines()[-1])]


def test_numbers_names_and_recipes_are_split_but_tuples_and_schedules_are_not(ask):
    result = ask('recipe=char,none', 'optimizer.learning_rate=1e-3,3e-3', 'optimizer.betas=0.9,0.98',
                 'optimizer.betas=0.9,0.999', 'seq_len_schedule=8:0.5,16')
    names = 'recipe', 'optimizer.learning_rate', 'optimizer.betas', 'seq_len_schedule'
    assert found(result, *names) == [(recipe, rate, betas, '8:0.5,16') for recipe in ('char', 'none')
                                     for rate in ('1e-3', '3e-3') for betas in ('0.9,0.98', '0.9,0.999')]
    # And nothing is left
    assert not ask.project.runs


def test_seeds_begin_with_that_of_the_item(ask):
    assert found(ask('seq_len=8', 'seq_len=12', seeds=2), 'seq_len', 'seed') == [
        ('16', '1'), ('16', '2'), ('8', '1'), ('8', '2'), ('12', '1'), ('12', '2')]


def test_earlier_names_mean_the_present_ones(ask):
    [combination] = json.loads(ask('saver=run_folder').stdout.splitlines()[-1])
    assert 'checkpointer' in combination and 'saver' not in combination


def test_a_script_is_asked_up_to_its_training(ask):
    (ask.project.path / 'own.py').write_text(OWN.format(''))
    assert found(ask('size=1,2', script='own.py', seeds=1), 'size', 'seed') == [('1', '7'), ('2', '7')]
    assert not (ask.project.path / 'trained').exists() and not ask.project.runs


@pytest.mark.parametrize(('arguments', 'more', 'message'), [
    (['optimizer.learnin_rate=1e-3,1e-2'], {}, 'Did you mean `optimizer.learning_rate`?'),
    (['optimizer.learning_rate=1e-3,high'], {}, '`optimizer.learning_rate=high`: it must be a number'),
    (['transformer.n_heads=4,3'], {}, 'd_model=16 is not divisible by n_heads=3 (with transformer.n_heads=3)'),
    (['lr_decay_fraction=0.2', 'lr_schedule=wsd,constant'], {}, '`lr_decay_fraction` is given, but nothing reads it'),
    (['recipe=char,chr'], {}, '`recipe=chr`: it must be one of char'),
    (['seed=1,2'], {'seeds': 2}, 'give either --seeds or seed=, not both'),
    (['epochs=1,2'], {'n_random': 3}, '--random 3: there are only 2 combinations'),
    (['seq_len_schedule=8,12,16'], {}, 'for several values, give it several times'),
    ([], {'files': ['missing.txt']}, 'there is no file or folder missing.txt'),
])
def test_what_cannot_be_trained_is_refused(ask, arguments, more, message):
    assert_clean_failure(ask(*arguments, **more), 2, message)


@pytest.mark.parametrize(('script', 'code', 'message'), [
    ('print("hello")', 2, 'own.py trains nothing: it does not call `train`'),
    (OWN.format(', arguments=[]'), 2, 'the script gives `train` arguments of its own'),
])
def test_scripts_that_are_of_no_use(ask, script, code, message):
    (ask.project.path / 'own.py').write_text(script)
    assert_clean_failure(ask('epochs=1,2', script='own.py'), code, message)


def test_an_error_in_a_script_is_shown_as_it_is(ask):
    (ask.project.path / 'own.py').write_text('1 / 0')
    result = ask(script='own.py')
    assert result.returncode == 1 and 'ZeroDivisionError' in result.stderr and 'own.py' in result.stderr
