from typing import Annotated

from labml.configs import option

from labml_mlm import Item, MLMConfigs
from labml_mlm.items.schema import config_items
from labml_mlm.launch.options import default_tags, given_comment

TEXT = 'the quick brown fox\n' * 200


class Documents:
    def __init__(self, documents):
        self.documents = documents

    def __repr__(self):
        return str(self.documents)


class OwnConfigs(MLMConfigs):
    words: Annotated[list[str], Item('An own item that an option computes')] = 'first'
    helper: Annotated[object, Item('An object of one\'s own')]


@option(OwnConfigs.text, 'own')
def _own():
    return TEXT


@option(OwnConfigs.words, 'first')
def _first(c: OwnConfigs):
    return c.text.split()[:3]


@option(OwnConfigs.words, 'last')
def _last(c: OwnConfigs):
    return c.text.split()[-3:]


def test_text_is_shown_by_its_name_size_and_hash(build):
    conf = build(OwnConfigs, text='own', text_path=[])
    shown = conf._to_json()
    assert shown['text']['value'] == 'own'
    assert shown['text']['computed'] == f'own, 4,000 characters, SHA-256 {conf.corpus.sha256[:12]}…'
    of_file = build()._to_json()
    assert of_file['text']['computed'].startswith('file, 4,400 characters, SHA-256 ')
    assert MLMConfigs()._to_json()['text']['computed'] is None


def test_text_that_was_given_in_python_is_not_shown(build):
    conf = build(text=(TEXT,), text_path=[])
    text = conf._to_json()['text']
    assert text['value'] == 'tuple' and text['computed'].startswith('tuple, 4,000 characters, SHA-256 ')
    assert given_comment(conf, given=['text'], arguments={}) == 'text=tuple'
    assert default_tags(conf) == ['mlm', 'tuple', 'character', 'cpu']


def test_what_nobody_can_set_is_left_out(build):
    shown, items = build()._to_json(), config_items(build())
    # Others may be set by now: with an option that a test has registered
    assert not {'interrupt', 'checkpointer', 'throughput', 'optimizer.parameters', 'auto_text', 'training_loop',
                'state_modules'} & shown.keys()
    assert all(items[name].is_settable for name in shown)
    assert {'epochs', 'seq_len', 'optimizer', 'transformer.n_layers', 'masking', 'tokenizer'} <= shown.keys()


def test_of_what_an_option_computes_the_type_is_shown_or_a_number(build):
    conf = build(OwnConfigs, text='own', text_path=[])
    assert conf.words == ['the', 'quick', 'brown']
    shown = conf._to_json()
    assert (shown['words']['value'], shown['words']['computed']) == ('first', 'list')
    assert (shown['tokenizer']['value'], shown['tokenizer']['computed']) == ('character', 'CharacterTokenizer')
    assert (shown['n_tokens']['value'], shown['n_tokens']['computed']) == ('from_tokenizer', conf.n_tokens)
    assert shown['device']['computed'] == 'cpu'
    assert shown['lr_schedule']['computed'] is None
    # An aggregate has nothing but its name
    of_recipe = build(recipe='char')._to_json()['recipe']
    assert (of_recipe['value'], of_recipe['computed']) == ('char', None)
    assert 'quick' not in str(shown)


def test_objects_that_were_given_are_shown_by_their_type(build):
    conf = build(OwnConfigs, helper=Documents(['the quick brown fox']))
    _ = conf.helper
    helper = conf._to_json()['helper']
    assert (helper['value'], helper['computed'], helper['is_explicitly_specified']) == ('Documents', 'Documents', True)


def test_long_values_are_cut(build):
    shown = build(prompt=['p' * 2000], text_glob='x' * 1000)._to_json()
    assert shown['prompt']['value'] == '1 values'
    assert shown['text_glob']['value'] == 'x' * 500 + '…'


def test_what_was_given_in_python_counts_as_given():
    conf = MLMConfigs()
    conf.seq_len = 8
    shown = conf._to_json()
    assert shown['seq_len']['is_explicitly_specified'] and not shown['batch_size']['is_explicitly_specified']


def test_what_options_set_in_nested_configs_was_not_given(build):
    shown = build()._to_json()
    assert {name for name, config in shown.items() if config['is_explicitly_specified'] and '.' in name} == {
        'transformer.n_layers', 'transformer.n_heads'}
