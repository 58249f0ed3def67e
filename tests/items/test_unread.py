import contextlib
import io
from typing import Annotated

import pytest
from labml.configs import option
from support.labelled import write_rows
from support.project import SMALL_VALUES, TEXT

from labml_mlm import ClassificationConfigs, Item, MLMConfigs, MLMTransformerConfigs, TaggingConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.data import sources
from labml_mlm.items.schema import config_items
from labml_mlm.items.unread import given_names, read_names, refuse_unread, unread_at_end

# What a run may be given, so that each item belongs to one of them
RUNS = [
    {}, {'tokenizer': 'bpe', 'vocab_size': 300, 'packing': 'documents', 'optimizer': 'muon'},
    {'lr_schedule': 'wsd', 'masking_schedule': 'linear', 'seq_len_schedule': '8:0.5,16', 'transformer.ffn': 'default'},
    {'tokenizer': 'wordpiece', 'vocab_size': 300, 'sentence_pairs': 'sop', 'transformer': 'bert'},
    {'transformer': 'modernbert', 'transformer.n_layers': 2, 'max_steps': 3},
    {'transformer': 'roberta', 'tokenizer': 'grapheme'},
    *({'optimizer.optimizer': name} for name in ('SGD', 'Adam', 'AdaBelief', 'Noam', 'AdamWarmupCosineDecay')),
]


@pytest.fixture
def runs(tmp_path, build, text_path, monkeypatch, labelled_rows):
    """Configs that were built, one by one, of all classes."""
    monkeypatch.setattr(sources, 'cached_tiny_shakespeare', lambda path: TEXT)
    tokenizer = build(**RUNS[1]).tokenizer
    (tmp_path / 'tokenizer.json').write_text(next(iter(tokenizer.files.values())))
    more = [{'text_path': str(tmp_path), 'text_glob': '*.txt'}, {'text_path': '', 'text': 'auto'},
            {'tokenizer_path': str(tmp_path / 'tokenizer.json')}, {'replay_path': text_path},
            {'probe_path': labelled_rows}]

    def built():
        for values in [*RUNS, *more]:
            yield build(**values)
        for class_, rows in ((ClassificationConfigs, labelled_rows), (TaggingConfigs, tagged_rows(tmp_path))):
            for values in ({}, RUNS[1], *({'optimizer.optimizer': name} for name in ('SGD', 'Noam'))):
                yield build(class_, **{name: value for name, value in values.items() if name != 'packing'},
                            text_path=rows)

    return built


@pytest.fixture
def labelled_rows(tmp_path):
    rows = [{'text': f'a {word} fox {i}', 'label': word} for i in range(40) for word in ('quick', 'lazy')]
    return str(write_rows(tmp_path / 'rows.jsonl', rows))


def tagged_rows(tmp_path):
    rows = [{'tokens': ['a', word, f'fox{i}'], 'tags': ['O', word, 'O']} for i in range(40)
            for word in ('quick', 'lazy')]
    return str(write_rows(tmp_path / 'tagged.jsonl', rows))


def test_every_item_is_read_where_it_belongs_and_refused_elsewhere(runs):
    pytest.importorskip('sklearn')
    read, known = set(), set()
    for conf in runs():
        names = {name: item for name, item in config_items(conf).items() if not item.declaration.refused}
        found = read_names(conf)
        for name, item in names.items():
            known.add((name, conf._objective == 'mlm'))
            if name in found:
                read.add((name, conf._objective == 'mlm'))
                refuse_unread(conf, [name])
                continue
            with pytest.raises(UserError, match=f'^`{name}` is given, but nothing reads it: it belongs to ') as e:
                refuse_unread(conf, [name])
            assert item.declaration.belongs_to in str(e.value) and item.declaration.belongs_to
    # Those of optimizers and tokenizers are the same in fine-tuning
    assert {name for name, _ in known} == {name for name, _ in read}


@pytest.mark.parametrize('values', [RUNS[0], RUNS[1], RUNS[2], RUNS[3]])
def test_nothing_is_read_later(build, values, capsys):
    conf = build(**values, epochs=1)
    before = read_names(conf)
    conf.run()
    assert read_names(conf) == before


@pytest.mark.parametrize('values, message', [
    ({'lr_decay_fraction': 0.9}, '`lr_decay_fraction` is given, but nothing reads it: it belongs to lr_schedule=wsd'),
    ({'optimizer': 'muon', 'optimizer.total_steps': 5}, '`optimizer.total_steps` is given, but nothing reads it: it '
     'belongs to optimizer.optimizer=AdamWarmupCosineDecay; the length of a run is max_steps'),
    ({'optimizer': 'muon', 'optimizer.warmup': 5}, 'otherwise it is lr_warmup_steps'),
    ({'optimizer': 'muon', 'optimizer.momentum': 0.1}, 'it belongs to optimizer.optimizer=SGD'),
    ({'text': 'python_topics'}, '`text_path` is given, but nothing reads it: it belongs to text=auto, file and folder'),
    ({'device': 'cpu', 'device.use_cuda': False}, '`device.use_cuda` is given, but nothing reads it: it belongs to '
     'device=available'),
    ({'prompt': ['a fox'], 'n_prompts': 2}, '`n_prompts`'), ({'masking_prob_start': 0.4}, 'masking_schedule=linear'),
    ({'lr_schedule': 'constant', 'min_lr_ratio': 0.1}, '`min_lr_ratio`'),
    ({'optimizer.optimizer': 'Noam', 'lr_schedule': 'wsd'}, '`lr_schedule`'),
    ({'is_token_budget_constant': False}, 'it belongs to a seq_len_schedule'),
])
def test_what_is_given_and_not_read_is_refused(build, values, message):
    conf = build(**values)
    with pytest.raises(UserError) as e:
        refuse_unread(conf, [*SMALL_VALUES, 'text_path', *values])
    assert message in str(e.value)


def test_items_that_set_others_are_read_even_if_they_set_nothing(build):
    conf = build(**{'transformer.ffn.glu_variant': 'none'})
    refuse_unread(conf, ['transformer.ffn.glu_variant'])


def test_values_and_attributes_are_given_also_nested_ones():
    conf = MLMConfigs()
    conf.set_values({'transformer.n_layers': 2, 'optimizer.optimizer': 'Adam'})
    conf.epochs = 2
    with contextlib.redirect_stdout(io.StringIO()):
        conf.transformer.n_heads = 4
    assert given_names(conf) == {'transformer.n_layers', 'transformer.n_heads', 'optimizer.optimizer', 'epochs'}


class Default(MLMConfigs):
    lr_decay_fraction = 0.9
    lr_warmup_steps = 50


def test_what_stands_in_a_class_is_a_default(build):
    assert given_names(Default()) == set()
    conf = build(Default, lr_schedule='constant')
    refuse_unread(conf, ['lr_schedule'])


class LateConfigs(MLMConfigs):
    """Reads in a step what nothing else reads."""
    late: Annotated[int, Item('Read in a step')] = 1
    never: Annotated[int, Item('Read by nothing')] = 1

    def step(self, batch, batch_idx):
        super().step(batch, batch_idx)
        assert self.late + _decay(self) > 0


def _decay(conf):
    return conf.lr_decay_fraction


def test_items_that_only_a_step_reads_are_not_refused(build, capsys):
    conf = build(LateConfigs, late=2, never=2, lr_decay_fraction=0.5, epochs=1)
    given = ['late', 'never', 'lr_decay_fraction', 'epochs']
    refuse_unread(conf, given)
    assert unread_at_end(conf, given) == ['late', 'lr_decay_fraction', 'never']
    with pytest.raises(UserError, match='`masking_prob_start`'):
        refuse_unread(conf, [*given, 'masking_prob_start'])
    conf.run()
    assert unread_at_end(conf, given) == ['never']


def test_items_of_parts_that_nothing_reads_are_refused(text_path):
    class Own(MLMConfigs):
        transformer: MLMTransformerConfigs = 'own'

    @option(Own.transformer, 'own')
    def _own(c):
        return None

    conf = Own()
    conf.set_values({**SMALL_VALUES, 'text_path': text_path, 'optimizer.eps': 1e-6})
    with pytest.raises(UserError, match='`optimizer.eps` is given, but nothing reads it, as nothing reads `optimizer`'):
        refuse_unread(conf, ['optimizer.eps'])
    assert conf.transformer is None
    with pytest.raises(UserError, match='belongs to transformer=mlm and shallow and bert and roberta and modernbert'):
        refuse_unread(conf, ['transformer.n_layers'])
