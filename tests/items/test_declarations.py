import abc
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from labml.configs import BaseConfigs, option
from labml.internal.configs.config_item import ConfigItem
from labml_nn.optimizers.configs import OptimizerConfigs
from labml_nn.transformers import MultiHeadAttention, TransformerConfigs

from labml_mlm import MLMConfigs, MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.configs.training import TrainingConfigs
from labml_mlm.items.declarations import (
    ABOVE_ZERO,
    FRACTION,
    DeclaredConfigs,
    Item,
    Range,
    at_least,
    declared,
)
from labml_mlm.items.help import help_text, is_for_people
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.schema import config_items, given_values

# Earlier names of items, their present names, and a value of each
ALIASES = [
    ('valid_share', 'valid_fraction', '0.25', 0.25),
    ('accumulate', 'gradient_accumulation_steps', '4', 4),
    ('lr_min_share', 'min_lr_ratio', '0.1', 0.1),
    ('lr_decay_share', 'lr_decay_fraction', '0.5', 0.5),
    ('is_tokens_constant', 'is_token_budget_constant', 'no', False),
    ('train_ends', 'train_document_ends', 'of_tokens', 'of_tokens'),
    ('valid_ends', 'valid_document_ends', 'of_tokens', 'of_tokens'),
    ('saver', 'checkpointer', 'run_folder', 'run_folder'),
]
# Those whose value is a number
NUMBERS = [(alias, name, value) for alias, name, _, value in ALIASES if not isinstance(value, str)]
# What `checkpointer` and `train_document_ends` are set to
CUSTOM = object()


class InnerConfigs(DeclaredConfigs):
    width: Annotated[int, Item('Width', at_least(1), aliases=('size',))] = 3


class OuterConfigs(DeclaredConfigs):
    rate: Annotated[float, Item('Rate', FRACTION, unit='hertz', aliases=('speed',), may_change=True)] = 0.5
    inner: Annotated[InnerConfigs, Item('Nested')] = 'inner'


@option(OuterConfigs.inner, 'inner')
def _inner():
    return InnerConfigs()


@pytest.mark.parametrize('range_, text, inside, outside', [
    (FRACTION, 'from 0 to 1', [0, 0.5, 1], [-0.1, 1.1]),
    (ABOVE_ZERO, 'above 0', [1e-9, 1e9], [0, -1]),
    (at_least(2), 'at least 2', [2, 3], [1]),
    (Range(0, 1, is_open=True), 'above 0 to 1', [0.1, 1], [0, 1.1]),
    (Range(0, 2 ** 32 - 1), 'from 0 to 4294967295', [0, 2 ** 32 - 1], [2 ** 32]),
])
def test_range_contains_its_numbers_and_describes_itself(range_, text, inside, outside):
    assert str(range_) == text
    assert all(number in range_ for number in inside)
    assert not any(number in range_ for number in outside)
    assert float('nan') not in range_


def test_labml_gets_plain_types():
    conf = MLMConfigs()
    assert conf._get_type('masking_prob') is float
    assert conf._get_type('checkpoint_interval') == int | None
    assert conf._get_type('optimizer') is torch.optim.Optimizer


class Reannotated(OuterConfigs):
    rate: float = 0.25


class Assigned(OuterConfigs):
    rate = 0.25


class AssignedTwice(Reannotated):
    rate = 0.125


@pytest.mark.parametrize('class_, default', [(Reannotated, 0.25), (Assigned, 0.25), (AssignedTwice, 0.125)])
def test_subclass_with_another_default_keeps_the_declaration(class_, default):
    item = config_items(class_())['rate']
    assert item.default == class_().rate == default
    assert item.declaration == declared(OuterConfigs, 'rate')
    assert item.declaration == Item('Rate', FRACTION, unit='hertz', aliases=('speed',), may_change=True)
    with pytest.raises(UserError, match='it must be from 0 to 1'):
        parse_overrides(class_(), ['rate=2'])
    assert OuterConfigs().rate == 0.5


def test_subclass_of_mlm_configs_keeps_help_and_range():
    class Longer(MLMConfigs):
        seq_len: int = 64
        masking_prob = 0.4

    items, base = config_items(Longer()), config_items(MLMConfigs())
    assert (items['seq_len'].default, items['masking_prob'].default) == (64, 0.4)
    for name in ('seq_len', 'masking_prob'):
        assert items[name].declaration == base[name].declaration
        assert items[name].declaration.help
    for override, message in (('seq_len=0', 'at least 1'), ('masking_prob=2', 'above 0 to 1'),
                              ('masking_prob=0', 'above 0 to 1'), ('valid_masking_prob=0', 'above 0 to 1')):
        with pytest.raises(UserError, match=message):
            parse_overrides(Longer(), [override])


def test_item_of_a_subclass_overrides_only_what_it_gives():
    class NewHelp(OuterConfigs):
        rate: Annotated[float, Item('Other help')]

    class NewRange(NewHelp):
        rate: Annotated[float, Item(range=Range(0, 10))] = 2.

    class Refused(NewRange):
        rate: Annotated[float, Item(refused='it is fixed')]

    base = declared(OuterConfigs, 'rate')
    kept = {'unit': 'hertz', 'aliases': ('speed',), 'may_change': True}
    assert declared(NewHelp, 'rate') == Item('Other help', FRACTION, **kept)
    assert declared(NewRange, 'rate') == Item('Other help', Range(0, 10), **kept)
    assert declared(Refused, 'rate') == Item('Other help', Range(0, 10), refused='it is fixed', **kept)
    assert declared(OuterConfigs, 'rate') == base
    assert (NewHelp().rate, NewRange().rate) == (0.5, 2.)
    assert parse_overrides(NewRange(), ['rate=5']) == {'rate': 5.}
    with pytest.raises(UserError, match='`rate` cannot be set: it is fixed'):
        parse_overrides(Refused(), ['rate=5'])


def test_undeclared_items_have_an_empty_declaration():
    class Undeclared(OuterConfigs):
        extra: int = 3

    assert declared(Undeclared, 'extra') == declared(Undeclared, 'no_such_item') == Item()
    assert parse_overrides(Undeclared(), ['extra=-5']) == {'extra': -5}


def test_all_aliases_of_mlm_configs_are_tested():
    items = config_items(MLMConfigs())
    aliases = {(alias, name) for name, item in items.items() for alias in item.declaration.aliases}
    assert aliases == {(alias, name) for alias, name, *_ in ALIASES}
    assert not {alias for alias, _ in aliases} & set(items)


@pytest.mark.parametrize('alias, name, text, value', ALIASES)
def test_alias_as_an_override(alias, name, text, value):
    assert parse_overrides(MLMConfigs(), [f'{alias}={text}']) == {name: value}
    # The last one wins, under either name
    assert parse_overrides(MLMConfigs(), [f'{alias}={text}', f'{name}={text}']) == {name: value}


def test_alias_as_an_override_is_checked_like_its_item():
    assert parse_overrides(MLMConfigs(), ['accumulate=2', 'gradient_accumulation_steps=3', 'accumulate=4']) == \
        {'gradient_accumulation_steps': 4}
    with pytest.raises(UserError, match='`gradient_accumulation_steps=0`: it must be at least 1'):
        parse_overrides(MLMConfigs(), ['accumulate=0'])
    with pytest.raises(UserError, match='`valid_fraction=x`: it must be a number'):
        parse_overrides(MLMConfigs(), ['valid_share=x'])


@pytest.mark.parametrize('alias, name, value', NUMBERS)
def test_alias_as_an_annotated_class_attribute(alias, name, value):
    class_ = type('Custom', (MLMConfigs,), {'__annotations__': {alias: type(value)}, alias: value,
                                            '__module__': __name__})
    check_default(class_, alias, name, value)


@pytest.mark.parametrize('alias, name, value', NUMBERS)
def test_alias_as_an_unannotated_class_attribute(alias, name, value):
    class_ = type('Custom', (MLMConfigs,), {alias: value, '__module__': __name__})
    check_default(class_, alias, name, value)
    check_default(type('Derived', (class_,), {'__module__': __name__}), alias, name, value)


def check_default(class_, alias, name, value):
    """The default is set under the present name, with the declaration of the item, and in this class only."""
    conf = class_()
    assert getattr(conf, name) == getattr(conf, alias) == value
    items, base = config_items(conf), config_items(MLMConfigs())
    assert items[name].default == value != base[name].default
    assert items[name].declaration == base[name].declaration
    assert items[name].type == base[name].type
    assert items.keys() == base.keys()
    assert getattr(MLMConfigs(), name) == base[name].default


def test_alias_in_a_class_statement():
    class Custom(MLMConfigs):
        accumulate: int = 4
        valid_share = 0.25

    class Derived(Custom):
        gradient_accumulation_steps = 8

    assert (Custom().gradient_accumulation_steps, Custom().valid_fraction) == (4, 0.25)
    assert (Derived().accumulate, Derived().valid_share) == (8, 0.25)


@pytest.mark.parametrize('alias, name, value', NUMBERS)
def test_alias_as_an_attribute(alias, name, value):
    conf = MLMConfigs()
    assert getattr(conf, alias) == getattr(conf, name) == config_items(conf)[name].default
    conf = MLMConfigs()
    setattr(conf, alias, value)
    assert getattr(conf, name) == getattr(conf, alias) == value
    # As with the present name
    with pytest.raises(ValueError, match='after it was accessed'):
        setattr(conf, alias, value)


def test_alias_of_an_object():
    conf = MLMConfigs()
    conf.saver = conf.train_ends = CUSTOM
    assert conf.checkpointer is conf.saver is conf.train_document_ends is conf.train_ends is CUSTOM


@pytest.mark.parametrize('alias, name, value', NUMBERS)
def test_alias_in_set_values(alias, name, value):
    conf = MLMConfigs()
    conf._set_values({alias: value})
    assert given_values(conf) == {name: value}
    assert getattr(conf, name) == value


def test_alias_of_an_option(monkeypatch):
    for name in ('checkpointer', 'train_document_ends'):
        calculators = getattr(MLMConfigs, name).configs_class._calculators
        monkeypatch.setitem(calculators, name, list(calculators[name]))

    @option(MLMConfigs.saver, 'custom')
    def _saver():
        return CUSTOM

    @option(MLMConfigs.train_ends, 'custom')
    def _train_ends():
        return CUSTOM

    for names in (('saver', 'train_ends'), ('checkpointer', 'train_document_ends')):
        conf = MLMConfigs()
        conf._set_values(parse_overrides(conf, [f'{name}=custom' for name in names]))
        assert conf.checkpointer is conf.train_document_ends is CUSTOM
    assert config_items(MLMConfigs())['checkpointer'].options == ('run_folder', 'custom')


def test_alias_of_an_option_of_a_subclass():
    class Custom(MLMConfigs):
        saver: Any = 'custom'

    @option(Custom.saver, 'custom')
    def _saver(c: Custom):
        return CUSTOM

    assert (Custom.saver.key, Custom.saver.configs_class) == ('checkpointer', Custom)
    assert (MLMConfigs.saver.key, MLMConfigs.saver.configs_class) == ('checkpointer', TrainingConfigs)
    assert Custom().checkpointer is CUSTOM
    assert config_items(MLMConfigs())['checkpointer'].options == ('run_folder',)


def test_aliases_in_nested_configs():
    conf = OuterConfigs()
    assert parse_overrides(conf, ['inner.size=4', 'speed=1']) == {'inner.width': 4, 'rate': 1.}
    conf._set_values({'inner.size': 5})
    assert conf.inner.width == conf.inner.size == 5


def test_help_shows_present_names_only():
    text, items = help_text(MLMConfigs(), 'all'), config_items(MLMConfigs())
    listed = {line.split()[0] for line in text.splitlines() if line.startswith('  ') and line[2] != ' '}
    for alias, name, *_ in ALIASES:
        assert (name in listed) == is_for_people(items[name])
        assert alias not in listed and f' {alias} ' not in text
    assert 'speed' not in help_text(OuterConfigs()) and 'size' not in help_text(OuterConfigs())


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match='no_such_item'):
        _ = MLMConfigs.no_such_item
    with pytest.raises(AttributeError, match='no_such_item'):
        _ = MLMConfigs().no_such_item
    with pytest.raises(UserError, match='no_such_item'):
        MLMConfigs()._set_values({'no_such_item': 1})


def test_items_of_base_classes_are_not_changed():
    class Base(BaseConfigs):
        size: int = 1
        other: int

    class Derived(DeclaredConfigs, Base):
        size: Annotated[int, Item('Size')] = 2
        other: Annotated[float, Item('Other')] = 3.

    before = {name: dict(vars(item)) for name, item in vars(Base).items() if isinstance(item, ConfigItem)}
    assert before.keys() == {'size', 'other'}
    assert (Derived().size, Derived().other) == (2, 3.)
    assert {name: dict(vars(item)) for name, item in vars(Base).items() if isinstance(item, ConfigItem)} == before
    assert Base().size == 1


def test_defaults_of_labml_nn_are_not_changed(build):
    class Longer(MLMConfigs):
        seq_len: int = 99

    assert Longer().seq_len == 99
    build()
    assert MLMConfigs().seq_len == 32
    transformer, optimizer = TransformerConfigs(), OptimizerConfigs()
    assert (transformer.dropout, transformer.ffn.d_model) == (0.1, 512)
    assert type(transformer.encoder_attn) is MultiHeadAttention
    optimizer.parameters = list(transformer.encoder_attn.parameters())
    assert type(optimizer.optimizer) is torch.optim.SGD
    assert optimizer.learning_rate == 0.01
    assert isinstance(TransformerConfigs().ffn.activation, torch.nn.ReLU)


def test_declaration_by_an_earlier_name():
    class Configs(MLMConfigs):
        accumulate: Annotated[int, Item('Own help')] = 2

    declaration = declared(Configs, 'gradient_accumulation_steps')
    assert (declaration.help, declaration.range) == ('Own help', at_least(1))
    assert Configs().gradient_accumulation_steps == 2


class Mixin(BaseConfigs):
    """Configs with an item by its earlier name."""
    accumulate: int = 4


class Abstract(abc.ABC):  # noqa: B024  labml's configs cannot have methods of other classes
    """A class with a metaclass."""


def test_class_can_have_other_base_classes():
    class Before(Mixin, MLMConfigs):
        pass

    class Checked(MLMConfigs, Abstract):
        pass

    for class_ in (Before, Checked):
        assert config_items(class_()).keys() == config_items(MLMConfigs()).keys()
    conf = Before()
    assert conf.gradient_accumulation_steps == conf.accumulate == 4
    assert config_items(Before())['gradient_accumulation_steps'].default == 4
    assert MLMConfigs().gradient_accumulation_steps == 1


class TransformerOnly(BaseConfigs):
    """Plain configs, with ours as an item without a value."""
    transformer: MLMTransformerConfigs


def test_labml_builds_our_configs_from_an_annotation():
    conf = TransformerOnly()
    with pytest.warns(FutureWarning, match='from_type'):  # from labml, about its own function
        assert isinstance(conf.transformer, MLMTransformerConfigs)
    assert parse_overrides(conf, ['transformer.n_layers=2']) == {'transformer.n_layers': 2}


class PlainOptimizer(MLMConfigs):
    """With labml_nn's own configs of the optimizer."""


@option(PlainOptimizer.optimizer, 'plain')
def _plain_optimizer(c: PlainOptimizer) -> OptimizerConfigs:
    optimizer = OptimizerConfigs()
    optimizer.parameters = c.model.parameters()
    return optimizer


def test_items_of_labml_nn_keep_our_declarations():
    conf = PlainOptimizer()
    conf._set_values({'optimizer': 'plain'})
    items, ours = config_items(conf), config_items(MLMConfigs())
    assert items['optimizer.learning_rate'].declaration == ours['optimizer.learning_rate'].declaration
    assert items['optimizer.learning_rate'].declaration.may_change


class OptionalItems(DeclaredConfigs):
    """A declaration within a union."""
    rate: Annotated[float, Item('Rate', FRACTION)] | None = None
    size: int | None = None


def test_declaration_within_a_union():
    item = config_items(OptionalItems())['rate']
    assert (item.type, item.declaration) == (float | None, Item('Rate', FRACTION))
    assert parse_overrides(OptionalItems(), ['rate=0.5', 'size=none']) == {'rate': 0.5, 'size': None}
    with pytest.raises(UserError, match='from 0 to 1'):
        parse_overrides(OptionalItems(), ['rate=2'])


@pytest.mark.parametrize('value, expected', [(np.float64(0.3), 0.3), (np.int64(16), 16), (np.bool_(True), True)])
def test_a_numpy_number_is_one_of_python(value, expected):
    """A snapshot of the configs holds it, so that a resumed run has it."""
    conf = MLMConfigs()
    conf._set_values({'masking_prob': value})
    assert type(given_values(conf)['masking_prob']) is type(expected)
    conf.seq_len = value
    assert conf.seq_len == expected and type(conf.seq_len) is type(expected)


def test_a_numpy_array_is_a_tensor(text_path):
    conf = MLMConfigs()
    conf._set_values({'text_path': text_path, 'valid_tokens': np.arange(5, 20, dtype=np.uint16)})
    conf.train_tokens = np.arange(5, 25)
    assert conf.valid_tokens.tolist() == list(range(5, 20)) and conf.train_tokens.tolist() == list(range(5, 25))
