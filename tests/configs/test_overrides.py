import contextlib

import pytest
from labml.configs import BaseConfigs, option

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.configs.overrides import help_text, parse_overrides
from labml_mlm.configs.schema import config_items


class InnerConfigs(BaseConfigs):
    # Width
    # in features
    width: int = 3


class Configs(BaseConfigs):
    number: int = 3
    share: float = 0.5
    flag: bool = False
    word: str = 'none'
    name: str = ''
    numbers: list[int] = []
    pair: tuple[float, float] = (0.9, 0.98)
    words: list[str] = []
    maybe: float | None = None
    thing: object
    choice: str = 'first'
    inner: InnerConfigs = 'wide'
    plain = 7


@option(Configs.choice, 'first')
def _first():
    return 1


@option(Configs.choice, 'second')
def _second():
    return 2


@option(Configs.inner, 'wide')
def _wide():
    return InnerConfigs()


@pytest.mark.parametrize('argument, value', [
    ('number=12', 12), ('number=-3', -3), ('number=1_000', 1000), ('number=1e3', 1000), ('share=1e-3', 0.001),
    ('share=1', 1.0), ('flag=true', True), ('flag=no', False), ('flag=1', True), ('flag=False', False),
    ('word=none', 'none'), ('name=none', 'none'), ('name=a=b', 'a=b'), ('name=', ''), ('numbers=1,2', [1, 2]),
    ('numbers=[1, 2]', [1, 2]), ('numbers=5', [5]), ('numbers=', []), ('pair=0.5,0.6', (0.5, 0.6)),
    ('words=["a, b", "c"]', ['a, b', 'c']), ('words=To be or', ['To be or']), ('words=a,b', ['a', 'b']),
    ('maybe=none', None), ('maybe=2', 2.0), ('choice=second', 'second'), ('inner.width=4', 4), ('inner=wide', 'wide'),
])
def test_values(argument, value):
    name = argument.partition('=')[0]
    parsed = parse_overrides(Configs(), [argument])[name]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize('argument, message', [
    ('number=x', 'it has to be an integer'), ('number=1.5', 'an integer'), ('number=none', 'an integer'),
    ('number=', 'an integer'), ('share=nan', 'a number'), ('share=inf', 'a number'), ('flag=maybe', 'true or false'),
    ('numbers=1,x', 'a list of integers'), ('pair=1', 'a list of 2 numbers'), ('pair=1,2,3', 'a list of 2 numbers'),
    ('thing=3', 'an object, to be set in Python'), ('choice=secnd', 'one of first, second. Did you mean `second`?'),
    ('choice=3', 'one of first, second'), ('inner=narrow', 'one of wide'), ('numbr=3', 'Did you mean `number`?'),
    ('width=3', 'Did you mean `inner.width`?'), ('inner.widht=3', 'Did you mean `inner.width`?'),
    ('number.x=3', '`number` has no items below it. Did you mean `number`?'), ('number', 'not an override'),
    ('--number=3', 'no such item. Did you mean `number`?'), ('=3', 'not an override'),
])
def test_wrong_values(argument, message):
    with pytest.raises(UserError) as e:
        parse_overrides(Configs(), ['number=4', argument])
    assert message in str(e.value)
    assert argument.partition('=')[0] in str(e.value)


def test_the_last_wins():
    assert parse_overrides(Configs(), ['number=1', 'share=0.1', 'number=2']) == {'number': 2, 'share': 0.1}


def test_comments_and_defaults_are_listed():
    items = config_items(Configs())
    assert items['inner.width'].comment == 'Width in features'
    assert items['inner.width'].default == 3
    assert items['choice'].options == ['first', 'second']
    assert set(items) == {'number', 'share', 'flag', 'word', 'name', 'numbers', 'pair', 'words', 'maybe', 'thing',
                          'choice', 'inner', 'inner.width', 'plain'}


@pytest.mark.parametrize('argument, message', [
    ('n_layers=3', 'Did you mean `transformer.n_layers`?'),
    ('transfomer.n_layers=3', 'Did you mean `transformer.n_layers`?'),
    ('n_layers.x=3', 'Did you mean `transformer.n_layers`?'),
    ('transformer.n_layers.x=3', '`transformer.n_layers` has no items below it'),
    ('seqlen=3', 'Did you mean `seq_len`?'),
    ('seq_len=0', 'it has to be at least 1'),
    ('masking_prob=1.5', 'from 0 to 1'),
    ('optimizer.learning_rate=0', 'above 0'),
    ('grad_norm_clip=-1', 'above 0'),
    ('optimizer.betas=0.9,1', 'from 0 to 0.999999'),
    ('device.cuda_device=-1', 'at least 0'),
    ('transformer.ffn.glu_variant=SwigLU', 'Did you mean `SwiGLU`?'),
    ('transformer.encoder_attn=mh', 'mha, relative, sdpa, sdpa_rotary'),
    ('optimizer.optimizer=Sophia', 'Hessian'),
    ('optimizer=Noam', 'Did you mean `optimizer.optimizer=Noam`?'),
    ('is_save_models=true', 'checkpoints go by `checkpoint_interval`'),
    ('loop_count=3', '`epochs`'),
    ('transformer.decoder_attn=mha', 'no decoder'),
    ('transformer.n_src_vocab=3', 'tokenizer'),
    ('state_modules=3', 'an object'),
    ('state_module=3', 'there is no such item. `--help`'),
    ('loop_cnt=3', 'there is no such item. `--help`'),
    ('validator=_default_validator', 'one of all_windows'),
    ('trainer=_default_trainer', 'it is one of resumable'),
    ('seed=1e30', 'from 0 to 4294967295'),
    ('epochs=1e30', 'from 1 to 1000000000'),
])
def test_mlm_configs_refuse(argument, message):
    with pytest.raises(UserError) as e:
        parse_overrides(MLMConfigs(), [argument])
    assert message in str(e.value)


def test_mlm_configs_accept():
    values = parse_overrides(MLMConfigs(), [
        'seq_len=64', 'transformer.n_layers=4', 'optimizer.optimizer=Noam', 'optimizer.learning_rate=1.0',
        'transformer.ffn.glu_variant=none', 'transformer.ffn.activation=ReLU', 'grad_norm_clip=none', 'n_tokens=99',
        'n_tokens=from_tokenizer', 'prompt=To be'])
    assert values['transformer.ffn.glu_variant'] == 'none'
    assert values['grad_norm_clip'] is None
    assert values['n_tokens'] == 'from_tokenizer'
    assert values['prompt'] == ['To be']


def can_be_given(item):
    """Is there a value that is accepted?"""
    candidates = [*item.options, 'true', '2', '0.5', '0.5,0.5', 'some text']
    for candidate in candidates:
        with contextlib.suppress(UserError):
            parse_overrides(MLMConfigs(), [f'{item.name}={candidate}'])
            return True
    return False


def test_help_lists_every_item_that_can_be_given():
    conf = MLMConfigs()
    text = help_text(conf)
    listed = {line.split()[0] for line in text.splitlines() if line.startswith('  ') and line[2] != ' '}
    # What it lists can be given, and what can be given is listed
    assert listed == {name for name, item in config_items(conf).items() if can_be_given(item)}
    for name in ['seq_len', 'masking_prob', 'n_tokens', 'no_mask_tokens', 'mlm', 'prompt', 'text', 'tokenizer',
                 'grad_norm_clip', 'transformer.ffn.d_ff', 'optimizer.optimizer', 'device.use_cuda', 'epochs']:
        assert name in listed, name
    assert 'Share of the tokens to predict in training (a number from 0 to 1)' in text
    assert 'mha, relative, sdpa or sdpa_rotary' in text
    assert '  transformer.d_model = d_model\n' in text
    assert 'Sophia' not in text


def test_every_own_item_has_a_comment():
    nested = ('device.', 'transformer.', 'optimizer.')
    names = [name for name, item in config_items(MLMConfigs()).items() if item.is_given and not name.startswith(nested)]
    assert {'epochs', 'seq_len', 'masking_prob', 'mlm'} <= set(names)
    assert [name for name in names if not config_items(MLMConfigs())[name].comment] == ['is_track_time']


@pytest.mark.parametrize('name, known, expected', [
    ('seq', ['seq_len'], ' Did you mean `seq_len`?'), ('b.width', ['a.width', 'c'], ' Did you mean `a.width`?'),
    ('zzz', ['seq_len'], ''), ('zzz.q', ['seq_len'], ''), ('x', [], ''),
])
def test_did_you_mean(name, known, expected):
    assert did_you_mean(name, known) == expected


def test_annotations_that_are_strings(tmp_path, monkeypatch):
    (tmp_path / 'own_configs.py').write_text('''
from __future__ import annotations

from typing import TYPE_CHECKING

from labml.configs import option

from labml_mlm import MLMConfigs

if TYPE_CHECKING:
    from somewhere import Thing


class Own(MLMConfigs):
    # How often
    repeats: int = 2
    sizes: list[int] = []
    thing: Thing = 'large'


@option(Own.thing, 'large')
def _large(c: Own) -> Thing:
    return 3
''')
    monkeypatch.syspath_prepend(tmp_path)
    from own_configs import Own
    values = parse_overrides(Own(), ['repeats=3', 'sizes=1,2', 'thing=large', 'seq_len=3'])
    assert values == {'repeats': 3, 'sizes': [1, 2], 'thing': 'large', 'seq_len': 3}
    with pytest.raises(UserError, match='it has to be an integer'):
        parse_overrides(Own(), ['repeats=x'])
    assert config_items(Own())['repeats'].comment == 'How often'
