from typing import Annotated

import pytest
from labml.configs import BaseConfigs, option

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.items.declarations import DeclaredConfigs, Item, at_least
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.schema import config_items


class InnerConfigs(DeclaredConfigs):
    width: Annotated[int, Item('Width in features', at_least(1), unit='features')] = 3


class Configs(BaseConfigs):
    number: int = 3
    rate: float = 0.5
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
    ('number=12', 12), ('number=-3', -3), ('number=1_000', 1000), ('number=1e3', 1000), ('rate=1e-3', 0.001),
    ('rate=1', 1.0), ('flag=true', True), ('flag=no', False), ('flag=1', True), ('flag=False', False),
    ('word=none', 'none'), ('name=none', 'none'), ('name=a=b', 'a=b'), ('name=', ''), ('numbers=1,2', [1, 2]),
    ('numbers=[1, 2]', [1, 2]), ('numbers=5', [5]), ('numbers=', []), ('pair=0.5,0.6', (0.5, 0.6)),
    ('words=["a, b", "c"]', ['a, b', 'c']), ('words=To be or', ['To be or']), ('words=a,b', ['a', 'b']),
    ('maybe=none', None), ('maybe=2', 2.0), ('choice=second', 'second'), ('inner.width=4', 4), ('inner=wide', 'wide'),
])
def test_values_are_parsed_as_the_type_of_their_item(argument, value):
    name = argument.partition('=')[0]
    parsed = parse_overrides(Configs(), [argument])[name]
    assert parsed == value
    assert type(parsed) is type(value)


class WithTexts(DeclaredConfigs):
    texts: Annotated[list[str], Item('Texts')] = []


@pytest.mark.parametrize('text, texts', [
    ('[a,b]', ['a', 'b']), ('(a, b)', ['a', 'b']), ('a [MASK]', ['a [MASK]']), ('[MASK] a,b', ['[MASK] a', 'b']),
    ('[MASK] a [MASK]', ['[MASK] a [MASK]']), ('f(x),(y)', ['f(x)', '(y)']), ('[[MASK] a,b]', ['[MASK] a', 'b'])])
def test_brackets_that_are_not_around_a_list_are_parts_of_its_texts(text, texts):
    assert parse_overrides(WithTexts(), [f'texts={text}']) == {'texts': texts}


class WithPaths(DeclaredConfigs):
    paths: Annotated[list[str], Item('Paths', is_path=True)] = []


@pytest.mark.parametrize('text, paths', [
    ('a.txt', ['a.txt']), ('a.txt,b.txt', ['a.txt', 'b.txt']), ('', []), ('["a,b.txt", "c"]', ['a,b.txt', 'c']),
    # These exist
    ('c,d.txt', ['c,d.txt']), ('~/c,d.txt', ['~/c,d.txt']), ('(e).txt', ['(e).txt']), ('[f]', ['[f]']), ('7', ['7']),
])
def test_a_path_with_a_comma_in_its_name_is_one_path_if_it_exists(tmp_path, monkeypatch, text, paths):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('c,d.txt', '(e).txt', '[f]', '7'):
        (tmp_path / name).touch()
    assert parse_overrides(WithPaths(), [f'paths={text}']) == {'paths': paths}


@pytest.mark.parametrize('argument, message', [
    ('number=x', 'it must be an integer'), ('number=1.5', 'an integer'), ('number=none', 'an integer'),
    ('number=', 'an integer'), ('rate=nan', 'a number'), ('rate=inf', 'a number'), ('flag=maybe', 'true or false'),
    ('numbers=1,x', 'a comma-separated list of integers'), ('pair=1', 'a comma-separated list of 2 numbers'),
    ('pair=1,2,3', 'a comma-separated list of 2 numbers'), ('thing=3', 'an object, to be set in Python'),
    ('choice=secnd', 'one of first, second. Did you mean `second`?'), ('choice=3', 'one of first, second'),
    ('inner=narrow', 'one of wide'), ('inner.width=0', 'at least 1'), ('numbr=3', 'Did you mean `number`?'),
    ('width=3', 'Did you mean `inner.width`?'), ('inner.widht=3', 'Did you mean `inner.width`?'),
    ('number.x=3', '`number` has no nested items. Did you mean `number`?'), ('=3', 'not an override'),
    ('nothing', 'not an override'), ('choice=SECOND', 'Did you mean `second`?'), ('inner=7', 'one of wide'),
])
def test_invalid_overrides_are_refused(argument, message):
    with pytest.raises(UserError) as e:
        parse_overrides(Configs(), ['number=4', argument])
    assert message in str(e.value)
    assert argument.partition('=')[0] in str(e.value)


@pytest.mark.parametrize('arguments, written', [
    (['--number', '2'], 'number=2'), (['--number=2'], 'number=2'), (['-number', '2'], 'number=2'),
    (['number', '2'], 'number=2'), (['number', '=', '2'], 'number=2'), (['number', '=2'], 'number=2'),
    (['number=', '2'], 'number=2'), (['number', '-3'], 'number=-3'), (['--number', '-.5'], 'number=-.5'),
    (['--number'], 'number=VALUE'), (['number', '='], 'number=VALUE'), (['--flag'], 'flag=true'),
    (['flag'], 'flag=true'), (['--flag', '--number'], 'flag=true'), (['--flag', 'rate=1'], 'flag=true'),
    (['--flag', 'no'], 'flag=no'),
    (['--words', 'To be'], "words='To be'"), (['--inner.width', '4'], 'inner.width=4'), (['--inner-width', '4'], None),
    (['--maybe', '2'], 'maybe=2'), (['--Number', '2'], 'number=2'), (['name', '=', 'number'], 'name=number'),
])
def test_other_spellings_are_refused_with_the_right_one(arguments, written):
    with pytest.raises(UserError) as e:
        parse_overrides(Configs(), ['rate=0.5', *arguments])
    if written is None:
        assert 'neither an override nor an option. Did you mean `inner.width`?' in str(e.value)
        return
    assert str(e.value).endswith(f': write `{written}`')
    # Which is accepted
    if 'VALUE' not in written and written != 'number=-.5':
        assert len(parse_overrides(Configs(), [written.replace("'", '')])) == 1


@pytest.mark.parametrize('arguments, message', [
    (['--lr', '3e-4'], '`--lr 3e-4`: write `optimizer.learning_rate=3e-4`'),
    (['--per-device-train-batch-size=8'], 'write `batch_size=8`. It is the batch of a step: of all devices'),
    # Not the steps between two validations
    (['--eval_steps', '500'], '`--eval_steps 500`: write `inner_iterations=VALUE`. It is the number of validations'),
    (['--fp16'], '`--fp16`: write `precision=bf16`. There is no fp16'),
    (['--no_cuda'], 'write `device=cpu`'), (['--resume-from-checkpoint', 'last'], 'write `--resume last`'),
    (['accumulate', '3'], 'write `gradient_accumulation_steps=3`'), (['help'], '`help`: write `--help`'),
    (['--hlep'], '`--hlep` is neither an override nor an option. Did you mean `--help`?'),
    (['--epoch', '2'], '`--epoch` is neither an override nor an option. Did you mean `epochs`?'),
    (['--'], '`--` is neither an override nor an option'), (['='], '`=` is not an override'),
    (['= 2'], '`= 2` is not an override'),
])
def test_other_spellings_of_other_names(arguments, message):
    with pytest.raises(UserError) as e:
        parse_overrides(MLMConfigs(), arguments)
    assert message in str(e.value)


def test_an_empty_value_may_be_the_last_or_before_another_override():
    assert parse_overrides(Configs(), ['name=', 'number=2']) == {'name': '', 'number': 2}
    assert parse_overrides(Configs(), ['number=2', 'name=']) == {'name': '', 'number': 2}


def test_last_override_of_a_name_wins():
    assert parse_overrides(Configs(), ['number=1', 'rate=0.1', 'number=2']) == {'number': 2, 'rate': 0.1}


def test_items_have_declarations_defaults_and_options():
    items = config_items(Configs())
    assert items['inner.width'].declaration == Item('Width in features', at_least(1), unit='features')
    assert items['inner.width'].default == 3
    assert items['choice'].options == ('first', 'second')
    assert set(items) == {'number', 'rate', 'flag', 'word', 'name', 'numbers', 'pair', 'words', 'maybe', 'thing',
                          'choice', 'inner', 'inner.width', 'plain'}


@pytest.mark.parametrize('argument, message', [
    ('n_layers=3', 'Did you mean `transformer.n_layers`?'),
    ('transfomer.n_layers=3', 'Did you mean `transformer.n_layers`?'),
    ('n_layers.x=3', 'Did you mean `transformer.n_layers`?'),
    ('transformer.n_layers.x=3', '`transformer.n_layers` has no nested items'),
    ('seqlen=3', 'Did you mean `seq_len`?'),
    ('seq_len=0', 'it must be at least 1'),
    ('masking_prob=1.5', 'above 0 to 1'),
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
    ('state_module=3', 'there is no such item. `--help all`'),
    ('loop_cnt=3', 'there is no such item. `--help all`'),
    ('validator=_default_validator', 'one of all_windows'),
    ('trainer=_default_trainer', 'it must be one of resumable'),
    ('baselines=of_txt', 'it must be one of of_text, none. Did you mean `of_text`?'),
    ('seed=1e30', 'from 0 to 4294967295'),
    ('epochs=1e30', 'above 0 to 1000000000'), ('epochs=0', 'above 0'), ('max_minutes=0', 'above 0'),
    ('max_tokens=0.5', 'an integer'), ('epochs=half', 'must be a number'),
    ('max_step=5', 'Did you mean `max_steps`?'), ('maxsteps=5', 'Did you mean `max_steps`?'),
    ('max_minute=5', 'Did you mean `max_minutes`?'), ('maxtokens=5', 'Did you mean `max_tokens`?'),
])
def test_invalid_overrides_of_mlm_configs_are_refused(argument, message):
    with pytest.raises(UserError) as e:
        parse_overrides(MLMConfigs(), [argument])
    assert message in str(e.value)


def test_overrides_of_mlm_configs():
    values = parse_overrides(MLMConfigs(), [
        'seq_len=64', 'transformer.n_layers=4', 'optimizer.optimizer=Noam', 'optimizer.learning_rate=1.0',
        'transformer.ffn.glu_variant=none', 'transformer.ffn.activation=ReLU', 'grad_norm_clip=none', 'n_tokens=99',
        'n_tokens=from_tokenizer', 'prompt=To be'])
    assert values['transformer.ffn.glu_variant'] == 'none'
    assert values['grad_norm_clip'] is None
    assert values['n_tokens'] == 'from_tokenizer'
    assert values['prompt'] == ['To be']


def test_every_settable_item_has_a_help_text():
    items = {name: item for name, item in config_items(MLMConfigs()).items() if item.is_settable}
    assert {'epochs', 'seq_len', 'masking_prob', 'mlm', 'is_track_time', 'device.use_cuda', 'transformer.n_layers',
            'transformer.ffn.d_ff', 'optimizer.learning_rate'} <= set(items)
    assert [name for name, item in items.items() if not item.declaration.help] == []
    for name, item in items.items():
        # One line of text
        assert item.declaration.help == ' '.join(item.declaration.help.split()), name


def test_every_other_item_has_a_help_text_or_the_reason_why_it_cannot_be_set():
    items = {name: item.declaration for name, item in config_items(MLMConfigs()).items() if not item.is_settable}
    # `mode` is labml_helpers'
    assert [name for name, item in items.items() if not item.help and not item.refused] == ['mode']


@pytest.mark.parametrize('name, known, expected', [
    ('seq', ['seq_len'], ' Did you mean `seq_len`?'), ('b.width', ['a.width', 'c'], ' Did you mean `a.width`?'),
    ('zzz', ['seq_len'], ''), ('zzz.q', ['seq_len'], ''), ('x', [], ''),
    ('Seq-Len', ['seq_len', 'seqs'], ' Did you mean `seq_len`?'), ('BPE', ['bpe'], ' Did you mean `bpe`?'),
    ('maxSteps', ['a.max_steps', 'steps'], ' Did you mean `a.max_steps`?'),
])
def test_nearest_name_is_suggested(name, known, expected):
    assert did_you_mean(name, known) == expected


def test_annotations_that_are_strings(tmp_path, monkeypatch):
    (tmp_path / 'configs_with_strings.py').write_text('''
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from labml.configs import option

from labml_mlm import Item, MLMConfigs
from labml_mlm.items.declarations import at_least

if TYPE_CHECKING:
    from somewhere import Thing


class Custom(MLMConfigs):
    repeats: Annotated[int, Item('Repetitions of the text', at_least(1), aliases=('times',))] = 2
    sizes: list[int] = []
    thing: Thing = 'large'
    seq_len: int = 16
    accumulate: int = 4


@option(Custom.thing, 'large')
def _large(c: Custom) -> Thing:
    return 3
''')
    monkeypatch.syspath_prepend(tmp_path)
    from configs_with_strings import Custom
    values = parse_overrides(Custom(), ['repeats=3', 'sizes=1,2', 'thing=large', 'seq_len=3'])
    assert values == {'repeats': 3, 'sizes': [1, 2], 'thing': 'large', 'seq_len': 3}
    assert parse_overrides(Custom(), ['times=4']) == {'repeats': 4}
    for override, message in (('repeats=x', 'it must be an integer'), ('repeats=0', 'at least 1'),
                              ('seq_len=0', 'at least 1'), ('accumulate=x', 'it must be an integer')):
        with pytest.raises(UserError, match=message):
            parse_overrides(Custom(), [override])
    items = config_items(Custom())
    assert items['repeats'].declaration == Item('Repetitions of the text', at_least(1), aliases=('times',))
    assert items['seq_len'].declaration == config_items(MLMConfigs())['seq_len'].declaration
    assert (items['seq_len'].default, items['gradient_accumulation_steps'].default) == (16, 4)
    conf = Custom()
    assert (conf.times, conf.gradient_accumulation_steps, conf.thing) == (2, 4, 3)


def test_an_annotation_that_cannot_be_evaluated_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / 'unevaluable.py').write_text("""
from __future__ import annotations
from typing import TYPE_CHECKING
from labml_mlm import MLMConfigs
if TYPE_CHECKING:
    from somewhere import Width
class Configs(MLMConfigs):
    width: Width = 3
    height: int = 3
""")
    monkeypatch.syspath_prepend(tmp_path)
    from unevaluable import Configs
    assert parse_overrides(Configs(), ['height=4']) == {'height': 4}
    with pytest.raises(UserError, match='`width` cannot be set on the command line: its annotation `Width` cannot be '
                                        'evaluated, as not all of its names are imported at the top of its module'):
        parse_overrides(Configs(), ['width=4'])
