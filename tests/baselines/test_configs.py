"""Baselines in runs."""
import json
import random

import numpy as np
import pytest
import torch
from support.project import SMALL, values_of
from torch.utils.data import DataLoader

from labml_mlm.baselines.configs import _masked
from labml_mlm.finetuning.classification import ClassificationConfigs
from labml_mlm.items.schema import config_items

GUESSES = 'unigram', 'bigram', 'neighbours'


def generators(conf):
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
            conf.mlm.generator.get_state().tolist(), conf.valid_mlm.generator.get_state().tolist()]


def test_masked_tokens_are_those_of_a_validation_and_generators_stay(build):
    conf = build(baselines=None)
    before = generators(conf)
    found = _masked(conf)
    assert generators(conf) == before
    conf._valid_masking.restart()
    labels = [conf._valid_masking(batch)[1] for batch in conf.valid_loader]
    assert found.tokens.tolist() == [int(label) for part in labels for label in part[part != 0]]
    assert conf.baselines is None and generators(build()) == before


def test_masks_of_a_class_without_a_generator_are_those_of_a_validation(build):
    class Masking:
        def __call__(self, x):
            return x, torch.where(torch.rand(x.shape) < 0.3, x, 0)

    conf = build(valid_mlm=Masking(), baselines=None, valid_batch_size=4)
    conf._start_validation()
    labels = [conf._valid_masking(batch)[1] for batch in conf.valid_loader]
    conf._start_validation()
    first = conf._valid_masking(next(iter(conf.valid_loader)))[1]
    before = torch.get_rng_state()
    found = _masked(conf)
    assert found.tokens.tolist() == [int(label) for part in labels for label in part[part != 0]]
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(first, labels[0])
    # And the next masks are those that would have come
    assert torch.equal(conf._valid_masking(list(conf.valid_loader)[1])[1], labels[1])


@pytest.mark.parametrize('values', [
    {}, {'tokenizer': 'bpe', 'vocab_size': 300}, {'packing': 'documents', 'text_unit': 'paragraph'},
    {'tokenizer': 'wordpiece', 'vocab_size': 60, 'add_special_tokens': True},
    {'tokenizer': 'wordpiece', 'vocab_size': 60, 'sentence_pairs': 'nsp', 'sentence_rule': 'line',
     'text_unit': 'paragraph'},
    {'n_tokens': 200, 'valid_masking_prob': 0.5}])
def test_guesses_with_context_are_better(build, values, tmp_path):
    text = tmp_path / 'b.txt'
    text.write_text('\n\n'.join(f'the quick brown fox {word}\njumps over the lazy dog' for word in 'abcdefg' * 30))
    found = build(**values, text_path=str(text), seq_len=12).baselines
    assert list(found) == [*GUESSES]
    assert found['unigram'].loss > found['bigram'].loss and found['unigram'].loss > found['neighbours'].loss > 0
    assert found['unigram'].accuracy < found['bigram'].accuracy <= found['neighbours'].accuracy <= 1


def test_run_is_the_same_without_baselines(project):
    """To the bit, and nothing of them is left then."""
    for name, arguments in (('with', []), ('chartless', ['is_track_baselines=false']), ('without', ['baselines=none'])):
        assert project.train('epochs=2', *arguments, env={'RUN_UUID': name}).returncode == 0
    folders = {name: project.path / 'logs/test' / name for name in ('with', 'chartless', 'without')}
    values = {name: values_of(folder / 'log.jsonl') for name, folder in folders.items()}
    tracked = {f'baseline.{name}{end}' for name in GUESSES for end in ('', '.accuracy')}
    assert values['with'].keys() - values['without'].keys() == tracked
    assert values['chartless'].keys() == values['without'].keys()
    for name in values['without'].keys() - {'tokens_per_second'}:
        assert values['with'][name] == values['chartless'][name] == values['without'][name], name
    found = json.loads((folders['with'] / 'baselines.json').read_text())
    assert list(found) == [*GUESSES]
    # From the beginning to the end of the chart
    steps = [0, *(step for step, _ in values['with']['loss.valid'])]
    for name, guess in found.items():
        assert values['with'][f'baseline.{name}'] == [(step, guess['loss']) for step in steps]
        assert values['with'][f'baseline.{name}.accuracy'] == [(step, guess['accuracy']) for step in steps]
    assert (folders['chartless'] / 'baselines.json').read_text() == (folders['with'] / 'baselines.json').read_text()
    assert not (folders['without'] / 'baselines.json').exists()
    # Once for all of them, beside the tokens
    assert len(list((project.path / 'data/tokens').glob('*.baselines.json'))) == 1


def test_ranks_have_the_same_baselines_as_a_single_process(project):
    script = project.script.read_text().replace('train(MLMConfigs(), name="test")', '''
conf = MLMConfigs()
train(conf, name="test")
print("found", conf.baselines)''')
    project.script.write_text(script)
    small = [f'text_path={project.text}', 'transformer.n_layers=1', 'd_model=16', 'transformer.n_heads=2', 'epochs=1',
             'batch_size=16', 'seq_len=16']
    outputs = [result.stdout for result in project.ranks(2, *small, env={'RUN_UUID': 'ranks'}).wait()]
    alone = project.run(*small, env={'RUN_UUID': 'alone'})
    found = {line for output in (*outputs, alone.stdout) for line in output.splitlines() if line.startswith('found')}
    assert alone.returncode == 0 and len(found) == 1 and 'neighbours' in found.pop()
    ranks, single = (values_of(project.path / f'logs/test/{name}/log.jsonl') for name in ('ranks', 'alone'))
    assert ranks['baseline.bigram'] == single['baseline.bigram']
    assert ranks['bits_per_char.valid'][0][1] == pytest.approx(single['bits_per_char.valid'][0][1], rel=1e-4)


def test_resumed_run_goes_on_with_the_lines(project):
    assert project.train('epochs=1', env={'RUN_UUID': 'feed'}).returncode == 0
    assert project.run('--resume', 'feed', 'epochs=2').returncode == 0
    values = values_of(project.path / 'logs/test/feed/log.jsonl')
    assert [step for step, _ in values['baseline.unigram']] == [0, *(step for step, _ in values['loss.valid'])]
    assert len({value for _, value in values['baseline.unigram']}) == 1


def test_batches_of_a_loader_of_ones_own_have_no_baselines(build):
    conf = build(train_loader=DataLoader(torch.randint(5, 20, (3, 16, 8)), batch_size=None))
    assert conf.baselines is None and conf._characters is None and conf._guesses == {}


def test_items_of_baselines_that_there_are_not(project):
    result = project.train('baselines=none', 'is_track_baselines=false')
    assert (result.returncode, result.stdout.count('guesses')) == (2, 0)
    assert 'is_track_baselines' in result.stderr
    result = project.train('baselines=bigram')
    assert result.returncode == 2 and '`baselines=bigram`: it must be' in result.stderr


def test_fine_tuning_has_no_such_items():
    assert not {'baselines', 'is_track_baselines'} & config_items(ClassificationConfigs()).keys()


@pytest.mark.parametrize('rate, is_stuck', [(0.1, True), (0.01, False)])
def test_run_with_a_wrong_learning_rate_is_called_stuck(project, rate, is_stuck):
    # Half of the letters follow from the others
    rng = np.random.default_rng(0)
    project.text.write_text(''.join(rng.choice(['ab', 'cd', 'ef', 'gh', 'ij'], 6000)))
    result = project.run(f'text_path={project.text}', *[value for value in SMALL if 'epochs' not in value],
                         f'optimizer.learning_rate={rate}', 'lr_schedule=constant', 'max_steps=600', 'n_prompts=0')
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stdout.splitlines() if 'stuck' in line]
    assert len(said) == is_stuck
    for line in said:
        causes = [line.index(cause) for cause in ('learning rate (0.1 now', 'warm-up (there is none',
                                                  'batch (16 sequences', 'lines that repeat', 'labels at tokens')]
        assert causes == sorted(causes)


def test_padding_token_must_have_no_characters(build):
    conf = build()
    assert conf._characters[conf.padding_token] == 0 and conf._characters.sum() == conf.n_tokens - 5
