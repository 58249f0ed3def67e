from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from labml.configs import option

from labml_mlm import ClassificationConfigs, Item, MLMConfigs, MLMTransformerConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.items.python_values import check_python_values, checked_values

NEW = 'An item of your own with this name needs an annotation'


def subclass(**attributes):
    """A class of a user's, in whose body these attributes stand."""
    return type('Configs', (MLMConfigs,), {'__annotations__': {}, '__module__': __name__, **attributes})


@pytest.mark.parametrize('name, value, message', [
    ('optimizer', 'adam', '`optimizer` has nested items. Did you mean `optimizer.optimizer=Adam`? In Python: '
                          "`conf.set_values({'optimizer.optimizer': 'Adam'})`"),
    ('n_layers', 2, "Did you mean `transformer.n_layers`? In Python: `conf.set_values({'transformer.n_layers': 2})`. "
                    + NEW),
    ('n_layer', 2, 'Did you mean `transformer.n_layers`?'), ('learning_rate', 1e-3, '`optimizer.learning_rate`'),
    ('lr', 1e-3, f"Did you mean `optimizer.learning_rate`? In Python: `conf.set_values({{'optimizer.learning_rate': "
                 f'0.001}})`. {NEW}'), ('n_embd', 64, f'Did you mean `d_model`? {NEW}'),
    ('bacth_size', 3, f'there is no such item. Did you mean `batch_size`? {NEW}'),
    ('transformer', {'n_layers': 2}, '`transformer` has nested items. In Python: '
                                     "`conf.set_values({'transformer.n_layers': 2})`"),
    ('transformer', 'brt', 'it must be one of mlm, shallow, bert, roberta, modernbert, or an object'),
    ('optimizer', 3, 'one of mlm, muon'),
    ('seq_len', -3, 'it must be at least 1'), ('masking_prob', 2, 'above 0 to 1'), ('accumulate', 0, 'at least 1'),
    ('d_model', 'two', 'it must be an integer'), ('d_model', True, 'an integer'), ('d_model', None, 'an integer'),
    ('grad_norm_clip', 'none', 'a number, or None'), ('prompt', 'The fox', 'it must be a list of strings'),
    ('compile', 2, 'true or false, or one of auto'), ('n_tokens', 'x', 'an integer, or one of from_tokenizer'),
    ('tokenizer', 'bpee', 'Did you mean `bpe`?'), ('text', 'python_topic', 'Did you mean `python_topics`?'),
    ('model', 3, 'one of transformer_mlm, or an object'), ('validator', 'x', 'one of all_windows'),
    ('loop_count', 3, 'it cannot be set: training goes by `epochs`'), ('text_path', 3, 'it must be a list of strings'),
])
def test_what_stands_in_a_class_is_checked(name, value, message):
    class_ = subclass(**{name: value})
    with pytest.raises(UserError) as e:
        check_python_values(class_())
    assert message in str(e.value) and ' in the class Configs: ' in str(e.value)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name, value', [
    ('seq_len', 64), ('masking_prob', 1), ('grad_norm_clip', None), ('prompt', ['The fox']), ('compile', False),
    ('n_tokens', 9), ('n_tokens', 'from_tokenizer'), ('text', 'to be or not to be'), ('text', ['to be', 'or not']),
    ('text_path', Path('a.txt')), ('masking', None), ('valid_mlm', None), ('optimizer', 'muon'), ('state_modules', []),
    ('device', torch.device('cpu')), ('precision', torch.bfloat16), ('colors', ['red']), ('helper', max),
    ('checkpoint_interval', None), ('valid_share', 0.2),
])
def test_what_is_right_in_a_class_is_accepted(name, value):
    check_python_values(subclass(**{name: value})())


class OwnConfigs(MLMConfigs):
    n_layers: Annotated[int, Item('Of my own model')] = 2
    width: int = None
    tokenizer: Any = 'mine'

    def helper(self):
        """A method."""


@option(OwnConfigs.tokenizer, 'mine')
def _mine(c: OwnConfigs):
    return None


def test_annotated_items_methods_and_options_of_ones_own_are_accepted():
    check_python_values(OwnConfigs())
    conf = OwnConfigs()
    conf.set_values({'n_layers': 3, 'tokenizer': 'mine'})
    check_python_values(conf)


@pytest.mark.parametrize('name, value, message', [
    ('d_model', 'two', 'an integer'), ('seq_len', -3, 'at least 1'), ('optimizer', 'adam', 'optimizer.optimizer=Adam'),
    ('transformer', {'n_layers': 2}, 'has nested items. In Python'), ('optimizer.optimizer', 'adam', 'mean `Adam`'),
    ('transformer.n_layrs', 2, 'Did you mean `transformer.n_layers`?'), ('transformer.n_layers', 0, 'at least 1'),
    ('optimizer.betas', (1, 2), 'from 0 to 0.999999'), ('optimizer.optimizer', 'Sophia', 'Hessian'),
    ('transformer.n_src_vocab', 3, 'it follows from the tokenizer'), ('seq_len.x', 3, 'there is no such item'),
])
def test_values_and_attributes_are_checked(name, value, message):
    conf = MLMConfigs()
    conf.set_values({name: value})
    with pytest.raises(UserError) as e:
        check_python_values(conf)
    assert message in str(e.value) and f'`{name} = ' in str(e.value)
    if '.' not in name:
        conf = MLMConfigs()
        setattr(conf, name, value)
        with pytest.raises(UserError) as e:
            check_python_values(conf)
        assert message in str(e.value)


def test_unknown_names_are_refused_at_once():
    with pytest.raises(UserError, match='no such item. Did you mean `transformer.n_layers`'):
        MLMConfigs().set_values({'n_layers': 2})
    with pytest.raises(UserError, match='no such item. Did you mean `seq_len`'):
        MLMConfigs().seqlen = 2


class Small(MLMTransformerConfigs):
    n_layers = 0


class NestedConfigs(MLMConfigs):
    transformer: MLMTransformerConfigs = 'small'


@option(NestedConfigs.transformer, 'small')
def _small(c: NestedConfigs) -> Small:
    return Small()


def test_classes_of_nested_configs_are_checked():
    with pytest.raises(UserError, match=r'`transformer.n_layers = 0` in the class Small: it must be at least 1'):
        check_python_values(NestedConfigs())


@pytest.mark.parametrize('class_', [MLMConfigs, ClassificationConfigs])
def test_nested_items_are_set_in_python(class_):
    conf = class_()
    conf.set_values({'d_model': 16, 'transformer.n_layers': 3, 'transformer.ffn.d_ff': 24})
    check_python_values(conf)
    assert (conf.transformer.n_layers, conf.transformer.ffn.d_ff) == (3, 24)


@pytest.mark.parametrize('value', [True, False])
def test_a_numpy_boolean_is_one_of_python(value):
    conf = MLMConfigs()
    found = checked_values(conf, {'verbose': np.bool_(value)})
    assert found == {'verbose': value} and type(found['verbose']) is bool
    with pytest.raises(UserError, match='seq_len'):
        checked_values(conf, {'seq_len': np.bool_(value)})
