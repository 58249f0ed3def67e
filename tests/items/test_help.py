"""`--help`: what stands in it, in which order and width."""
import contextlib
import subprocess
import sys
from typing import Annotated

import pytest
from labml.configs import option

from labml_mlm import MLMConfigs, TransformerMLM
from labml_mlm.common.errors import UserError
from labml_mlm.finetuning.classification import ClassificationConfigs
from labml_mlm.finetuning.tagging import TaggingConfigs
from labml_mlm.items.declarations import DeclaredConfigs, Item, at_least
from labml_mlm.items.help import ALL, help_text
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.schema import config_items


class InnerConfigs(DeclaredConfigs):
    width: Annotated[int, Item('Width in features', at_least(1), unit='features')] = 3


class Own(MLMConfigs):
    """Of a user's"""
    inner: Annotated[InnerConfigs, Item('Something of mine')] = 'wide'
    repeats: Annotated[int, Item('Repetitions of the text')] = 2
    model: TransformerMLM
    seq_len = 16


@option(Own.inner, 'wide')
def _wide():
    return InnerConfigs()


@option(Own.model, 'mine')
def _mine():
    raise AssertionError('nothing is computed')


def listed(text):
    return [line.split()[0] for line in text.splitlines() if line.startswith('  ') and line[2] != ' ']


def headings(text):
    return [line[:-1] for line in text.splitlines() if line.endswith(':') and not line.startswith(' ')]


def is_accepted(item):
    """Is there more than one value that can be given on the command line?"""
    accepted = 0
    for candidate in [*item.options, 'none', 'true', 'false', '2', '3', '0.5', '0.25', '0.5,0.5', '0.25,0.5']:
        with contextlib.suppress(UserError):
            parse_overrides(MLMConfigs(), [f'{item.name}={candidate}'])
            accepted += 1
    return accepted > 1


def test_all_items_that_can_be_set_are_listed():
    conf = MLMConfigs()
    text = help_text(conf, ALL)
    names = listed(text)
    assert len(set(names)) == len(names)
    assert set(names) == {name for name, item in config_items(conf).items() if is_accepted(item)}
    for name in ['seq_len', 'masking_prob', 'n_tokens', 'no_mask_tokens', 'prompt', 'text', 'tokenizer',
                 'grad_norm_clip', 'transformer.ffn.d_ff', 'optimizer.optimizer', 'device.use_cuda', 'epochs']:
        assert name in names, name
    assert '  transformer.d_model = d_model\n' in text
    assert 'Sophia' not in text
    text = ' '.join(text.split())
    assert 'Masking rate: fraction of the tokens to predict in training (a number above 0 to 1)' in text
    assert 'mha, relative, sdpa or sdpa_rotary' in text


def test_internal_items_are_nowhere():
    # In a process of its own: other tests register options, and with two an item is for people
    code = 'from labml_mlm import MLMConfigs; from labml_mlm.items.help import *; print(help_text(MLMConfigs(), ALL))'
    text = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout
    names = set(listed(text))
    assert not names & {'mlm', 'valid_mlm', 'trainer', 'model', 'scheduler', 'train_loader', 'corpus',
                        'transformer.generator', 'state_modules', 'loop_count'}
    assert {'optimizer', 'masking'} <= names


def test_a_second_option_makes_an_item_one_for_people():
    assert 'model' in listed(help_text(Own(), ALL))
    assert 'model' not in listed(help_text(MLMConfigs(), ALL))


@pytest.mark.parametrize('class_, groups', [
    (MLMConfigs, ['Text', 'Model', 'Training', 'Masking', 'Tracking']),
    (ClassificationConfigs, ['Text', 'Model', 'Training', 'Tracking']),
    (TaggingConfigs, ['Text', 'Model', 'Training', 'Tracking'])])
def test_what_matters_first_stands_in_groups(class_, groups):
    conf = class_()
    text = help_text(conf)
    assert headings(text) == groups
    names = listed(text)
    assert 15 <= len(names) <= 25
    assert set(names) < set(listed(help_text(conf, ALL)))
    n_more = len(listed(help_text(conf, ALL))) - len(names)
    assert f'{n_more} more items: `--help all`' in text


@pytest.mark.parametrize('class_', [MLMConfigs, ClassificationConfigs, TaggingConfigs])
def test_each_name_of_a_group_is_an_item_of_some_configs(class_):
    known = {name for other in (MLMConfigs, ClassificationConfigs, TaggingConfigs) for name in config_items(other())}
    assert {name for names in class_._help_groups.values() for name in names} <= known


def test_fine_tuning_shows_its_own_items_first():
    names = listed(help_text(ClassificationConfigs()))
    assert {'text_path', 'text_field', 'label_field', 'pooling', 'init_from', 'metric'} <= set(names)
    assert not {'masking_prob', 'text', 'word_separator'} & set(names)
    assert 'word_separator' in listed(help_text(TaggingConfigs()))
    assert 'pooling' not in listed(help_text(TaggingConfigs()))


def test_items_of_the_users_class_are_shown():
    text = help_text(Own())
    assert headings(text)[-1] == 'Of Own'
    assert listed(text)[-2:] == ['inner.width', 'repeats']
    assert '  seq_len = 16\n' in text
    assert '  inner.width = 3\n        Width in features (an integer at least 1, in features)' in text
    assert 'Own' in headings(help_text(Own(), ALL))


def test_one_item_and_all_below_it():
    assert listed(help_text(MLMConfigs(), 'optimizer.betas')) == ['optimizer.betas']
    names = listed(help_text(MLMConfigs(), 'transformer.ffn'))
    assert names[0] == 'transformer.ffn' and 'transformer.ffn.d_ff' in names
    assert all(name.startswith('transformer.ffn') for name in names)
    # By an earlier name
    assert listed(help_text(MLMConfigs(), 'accumulate')) == ['gradient_accumulation_steps']
    assert 'is an object' in help_text(MLMConfigs(), 'state_modules')


@pytest.mark.parametrize('class_, topic, message', [
    (MLMConfigs, 'optimzer', 'there is no such item. Did you mean `optimizer`?'),
    (MLMConfigs, 'lr', 'Did you mean `optimizer.learning_rate`?'), (MLMConfigs, 'zzz', '`zzz`: there is no such item'),
    (ClassificationConfigs, 'masking_prob', 'cannot be set: fine-tuning masks nothing')])
def test_help_on_what_is_no_item(class_, topic, message):
    with pytest.raises(UserError) as e:
        help_text(class_(), topic)
    assert message in str(e.value)


@pytest.mark.parametrize('columns, width', [(40, 40), (80, 80), (100, 100), (130, 100)])
def test_text_is_as_wide_as_the_terminal_and_at_most_100(monkeypatch, columns, width):
    monkeypatch.setenv('COLUMNS', str(columns))
    for topic in ('', ALL):
        lines = [line for line in help_text(MLMConfigs(), topic).splitlines() if 'https://' not in line]
        longest = max(map(len, lines))
        assert width - 12 < longest <= width


def test_help_of_a_script(project):
    out = project.run('--help').stdout
    assert out.splitlines()[0] == 'Set items by name=value: seq_len=64'
    assert 'usage: python train.py [name=value ...]' in out
    assert project.run('-h').stdout == out
    every = project.run('--help', 'all').stdout
    assert every == project.run('--help=all').stdout
    assert set(listed(out)) < set(listed(every))
    for name in ('masking_schedule', 'masking_prob_start', 'seq_len_schedule', 'is_token_budget_constant',
                 'lr_decay_fraction', 'optimizer.muon_momentum'):
        assert name in listed(every), name
    every = ' '.join(every.split())
    for option_ in ('token, word, span', 'constant, linear, cosine', 'wsd', 'inverse_sqrt', 'noam', 'Muon'):
        assert option_ in every
    result = project.run('--help', 'optimizer.learning_rate', 'optimizer=muon')
    assert result.stdout.startswith('  optimizer.learning_rate = 0.01\n')
    result = project.run('--help', 'lr')
    assert (result.returncode, result.stderr.count('\n')) == (2, 1)
    assert 'Did you mean `optimizer.learning_rate`?' in result.stderr
