"""Recipes: values that go together."""
import runpy

import pytest
from labml.configs import aggregate, option
from support.project import ROOT, SMALL_VALUES

from labml_mlm import ClassificationConfigs, MLMConfigs, TaggingConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.configs.snapshot import restored_values, take_snapshot
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.recipes import CLASSES, RECIPES
from labml_mlm.items.schema import config_items


def defaults(conf, **chosen):
    """The defaults of items, as `--help` shows them."""
    return {name: item.default for name, item in config_items(conf, chosen=chosen).items()}


def of_recipe(recipe):
    """A class as in `experiments/`."""
    return type('Configs', (MLMConfigs,), {'recipe': recipe, '__annotations__': {}})


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('how', ['class', 'object', 'override'])
def test_recipe_sets_its_values_however_it_is_chosen(recipe, how):
    conf = of_recipe(recipe)() if how == 'class' else MLMConfigs()
    if how == 'object':
        conf.recipe = recipe
    elif how == 'override':
        conf._set_values({'recipe': recipe})
    found = defaults(conf)
    assert {name: found[name] for name in RECIPES[recipe]} == RECIPES[recipe]
    plain = {name: getattr(conf, name) for name, value in RECIPES[recipe].items() if isinstance(value, int)}
    assert plain == {name: RECIPES[recipe][name] for name in plain}


def test_items_of_a_recipe_to_be_chosen():
    assert defaults(MLMConfigs())['optimizer'] == 'mlm'
    found = defaults(MLMConfigs(), recipe='char')
    assert found['optimizer'] == 'muon' and found['optimizer.learning_rate'] != \
        defaults(MLMConfigs())['optimizer.learning_rate']


def test_a_value_that_is_given_wins_over_the_recipe():
    class Above(MLMConfigs):
        recipe = 'subword'
        seq_len: int = 64

    class Below(Above):
        batch_size: int = 3

    conf = Below()
    conf.epochs = 7
    conf._set_values({'valid_batch_size': 5})
    values = conf.seq_len, conf.batch_size, conf.epochs, conf.valid_batch_size, conf.inner_iterations
    assert values == (64, 3, 7, 5, 4)
    found = defaults(conf)
    assert [found[name] for name in ('seq_len', 'batch_size', 'epochs', 'inner_iterations')] == [64, 3, 7, 4]


def test_recipe_of_a_command_line_replaces_that_of_a_class():
    conf = of_recipe('char')()
    conf._set_values(parse_overrides(conf, ['recipe=subword']))
    assert conf.batch_size == 32 and defaults(conf)['optimizer'] == 'mlm'
    conf = of_recipe('char')()
    conf._set_values(parse_overrides(conf, ['recipe=none']))
    assert defaults(conf)['optimizer'] == 'mlm'


@pytest.mark.parametrize(('class_', 'argument', 'message'), [
    (MLMConfigs, 'recipe=classify', 'it is for ClassificationConfigs, and this is MLMConfigs. `labml-mlm train FILE '
                                    'recipe=classify` takes it'),
    (MLMConfigs, 'recipe=subwords', 'it must be one of char, char_labml_nn_size, '
                                    'domain, subword, none. Did you mean `subword`?'),
    (ClassificationConfigs, 'recipe=char', 'it is for MLMConfigs, and this is ClassificationConfigs'),
    (TaggingConfigs, 'recipe=classify', 'it is for ClassificationConfigs, and this is TaggingConfigs'),
    (TaggingConfigs, 'recipe=tagg', 'it must be one of tag. Did you mean `tag`?'),
])
def test_recipe_of_another_class_or_of_none_is_refused(class_, argument, message):
    with pytest.raises(UserError) as e:
        parse_overrides(class_(), [argument])
    assert message in str(e.value)


@pytest.mark.parametrize(('recipe', 'message'), [
    ('subwords', '`recipe=subwords`: it must be one of char, char_labml_nn_size, '
                 'domain, subword, none. Did you mean `subword`?'),
    ('tag', '`recipe=tag` is not possible: it is for TaggingConfigs'),
])
def test_wrong_recipe_in_a_class_is_refused(build, recipe, message):
    for class_, values in ((of_recipe(recipe), {}), (MLMConfigs, {'recipe': recipe})):
        with pytest.raises(UserError) as e:
            build(class_, **values)
        assert message in str(e.value)


def test_domain_needs_something_to_go_on_from(build):
    with pytest.raises(UserError, match='recipe=domain needs something to go on from: init_from=FOLDER'):
        build(recipe='domain')


def test_recipe_of_ones_own(build):
    class Configs(MLMConfigs):
        recipe = 'mine'

    aggregate(Configs.recipe, 'mine', (Configs.n_prompts, 1), (Configs.lr_schedule, 'constant'))
    conf = build(Configs)
    assert conf.n_prompts == 1 and conf.lr_schedule(5) == 1
    assert parse_overrides(Configs(), ['recipe=mine']) == {'recipe': 'mine'}


@pytest.mark.parametrize('name', [name for name in CLASSES if name != 'char_labml_nn_size'])
def test_experiments_only_choose_a_recipe(name, monkeypatch):
    """Their classes have a recipe and nothing else."""
    script = {'classify': 'classify', 'tag': 'tag'}.get(name, f'{name}_mlm')
    found = runpy.run_path(str(ROOT / f'experiments/{script}.py'))
    if CLASSES[name] == 'MLMConfigs':
        class_ = found['Configs']
        assert [item for item in vars(class_) if not item.startswith('_')] == ['recipe']
        assert class_().recipe == name
    else:
        assert found[CLASSES[name]]().recipe == name


def in_effect(conf, snapshot):
    """The values of a recipe's items after restoring a snapshot."""
    conf._set_values(restored_values(conf, snapshot))
    found = defaults(conf)
    return {name: conf._Configs__values_override.get(name, found[name]) for name in RECIPES['char']}


@pytest.mark.parametrize('before', [MLMConfigs, of_recipe('char')], ids=['plain', 'char'])
@pytest.mark.parametrize('after', [MLMConfigs, of_recipe('char')], ids=['plain', 'char'])
@pytest.mark.parametrize('is_old', [True, False])
def test_a_run_is_restored_whatever_the_recipe_of_the_class_is(build, before, after, is_old):
    conf = build(before)
    snapshot = take_snapshot(conf, experiment='test')
    values = {name: defaults(conf)[name] for name in RECIPES['char']}
    if is_old:
        del snapshot['defaults']['recipe']
    assert in_effect(after(), snapshot) == values


def test_a_run_keeps_its_values_if_a_recipe_changes(build):
    conf = build(recipe='char', lr_warmup_steps=7)
    snapshot = take_snapshot(conf, experiment='test')
    snapshot['defaults']['masking_schedule'] = 'cosine'
    assert in_effect(MLMConfigs(), snapshot) == {**RECIPES['char'], 'masking_schedule': 'cosine', 'lr_warmup_steps': 7}


def test_a_run_of_an_earlier_char_has_six_layers(build):
    """The recipe had other values once; a run keeps those that it had."""
    snapshot = take_snapshot(build(recipe='char_labml_nn_size'), experiment='test')
    snapshot['given']['recipe'] = 'char'
    del snapshot['given']['transformer.n_layers']
    conf = MLMConfigs()
    conf._set_values(restored_values(conf, snapshot))
    assert conf.transformer.n_layers == 6 and conf.epochs == 4
    conf = MLMConfigs()
    conf._set_values({'recipe': 'char'})
    assert conf.transformer.n_layers == 3 and conf.epochs == 8


def test_items_of_a_recipe_do_not_count_as_given():
    """With `max_steps`, `epochs` counts only if it was given."""
    conf = MLMConfigs()
    conf._set_values({'recipe': 'subword', 'max_steps': 5, **SMALL_VALUES})
    assert conf._run_length == {'epochs': None, 'max_steps': 5}


def test_an_option_of_the_users_stays_beside_a_recipe(build):
    class Configs(MLMConfigs):
        recipe = 'char'
        lr_schedule = 'mine'

    @option(Configs.lr_schedule, 'mine')
    def mine():
        return lambda step: 0.5

    assert build(Configs).lr_schedule(1) == 0.5
