"""DDP and FSDP take the steps of a single process."""
import json
import subprocess

import pytest

from labml_mlm.runs.checkpoint_folder import CheckpointFolder

ACCUMULATE = 'gradient_accumulation_steps=2'


def long(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.long)


@pytest.mark.parametrize('ways, options', [
    ([(1, [ACCUMULATE]), (2, []), (2, ['parallel=fsdp', ACCUMULATE])], []),
    long([(2, []), (2, ['parallel=fsdp'])], ['optimizer=muon', 'masking_schedule=linear', 'masking=span']),
    long([(2, []), (2, ['parallel=fsdp', ACCUMULATE])], ['freeze=layers:1', 'lr_layer_decay=0.5']),
    long([(2, []), (2, ['parallel=fsdp'])], ['old_path=text.txt', 'replay_path=text.txt', 'lr_schedule=wsd']),
    long([(2, [ACCUMULATE]), (4, ['parallel=fsdp'])],
         ['packing=documents', 'text_unit=paragraph', 'seq_len_schedule=8:0.5,16', 'masking=word']),
    long([(4, [])], ['optimizer.optimizer=Adam', 'transformer.encoder_attn=mha',
                     'seq_len_schedule=4:0.5,16', 'is_token_budget_constant=false', 'grad_norm_clip=none']),
])
def test_losses_do_not_depend_on_the_number_of_ranks(project, runs, trained, ways, options):
    is_in_paragraphs = 'text_unit=paragraph' in options
    if is_in_paragraphs:
        project.text.write_text(''.join(('the quick brown fox jumps over the lazy dog ' * 3)[:1 + i * 7 % 90] + '\n\n'
                                        for i in range(200)))

    def train(n, *arguments):
        if not is_in_paragraphs:
            return trained(n, *options, *arguments).metrics
        name = f'{n}{"".join(arguments)}'.replace('=', '')
        return runs.single(name, *options) if n == 1 else runs.ranks(n, name, *options, *arguments)

    single = train(1)
    for n, arguments in ways:
        runs.assert_same(single, train(n, *arguments))


@pytest.mark.parametrize('parallel', ['ddp', long('fsdp')])
def test_ranks_have_the_pairs_of_a_single_process(project, runs, parallel):
    words = ['the', 'quick', 'brown', 'fox', 'jumps', 'over', 'some', 'lazy', 'dogs', 'and', 'sleeps']
    project.text.write_text(''.join(f'{" ".join(words[i % 7:][:4]).capitalize()} {words[i * i % 11]}. '
                                    + '\n\n' * (i % 9 == 8) for i in range(1500)))
    options = ['text_unit=paragraph', 'sentence_pairs=nsp', 'seq_len=64', ACCUMULATE, 'batch_size=4']
    single, two = runs.single('one', *options), runs.ranks(2, 'two', *options, f'parallel={parallel}')
    assert {'loss.pairs.train', 'loss.total.train', 'accuracy.pairs.valid'} <= set(single)
    runs.assert_same(single, two)


@pytest.mark.parametrize('parallel', ['ddp', long('fsdp')])
def test_bf16_on_two_ranks(runs, trained, parallel):
    fp32 = trained(1, ACCUMULATE).metrics
    single = runs.single('single', ACCUMULATE, 'precision=bf16')
    two = runs.ranks(2, 'two', ACCUMULATE, 'precision=bf16', f'parallel={parallel}')
    # In the first step all products are equal and only sums differ; later ones have weights that are rounded
    [first, first_fp32, first_two] = (metrics['loss.train'][0][1] for metrics in (single, fp32, two))
    assert abs(first_two - first) <= 2e-6 < abs(first_two - first_fp32)
    runs.assert_same(single, two, tolerance=1e-2)


LOADERS = '''
import torch
from torch.utils.data import DataLoader
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    is_padded: bool = True

    def padded(self, part, **how):
        windows = self.packing(part)
        columns = [windows.batch(torch.tensor([i]).numpy())[:, 0] for i in range(len(windows))]
        # The last column is all padding
        columns[-1] = torch.zeros_like(columns[-1])
        return DataLoader(columns, collate_fn=lambda columns: torch.stack(columns, 1), **how)


conf = Configs()
conf.set_default(Configs.train_loader, func=lambda: conf.padded('train', batch_size=7, shuffle=True))
conf.set_default(Configs.valid_loader, func=lambda: conf.padded('valid', batch_size=5))
train(conf, name='test')
'''


def test_custom_loaders_on_three_ranks(project, runs):
    """They give each rank the whole batch."""
    project.script.write_text(LOADERS)
    runs.assert_same(runs.single('single'), runs.ranks(3, 'three', 'batch_size=9'))


@pytest.mark.long
def test_checkpoint_of_two_ranks_resumes_on_any_number(project, runs):
    options = ['optimizer=muon', 'epochs=2']
    whole = runs.ranks(2, 'whole', *options)
    for name, parallel in (('ddp', 'ddp'), ('fsdp', 'fsdp')):
        # Up to the first of two validations
        runs.ranks(2, name, *options, f'parallel={parallel}', 'inner_iterations=1', 'epochs=1')
    folder = project.path / 'logs/test/whole'
    first = min(int(path.name) for path in (folder / 'checkpoints').iterdir())
    for n, arguments in ((1, []), (2, []), (4, []), (2, ['parallel=fsdp'])):
        copy = project.path / f'logs/test/copy{n}{len(arguments)}'
        subprocess.run(['cp', '-r', folder, copy], check=True)
        arguments = ['--resume', str(copy / f'checkpoints/{first}'), *arguments]
        if n == 1:
            assert project.run(*arguments).returncode == 0
        else:
            runs.succeed(project.ranks(n, *arguments))
        resumed = runs.metrics(copy.name)
        for name in whole:
            differences = [abs(a - b) for (_, a), (_, b) in zip(whole[name], resumed[name], strict=True)]
            # Bit for bit with the same ranks
            assert max(differences) <= (0 if copy.name == 'copy20' else 2e-6), name
        assert resumed['loss.train'][-1][0] > first

    # Checkpoints of DDP and FSDP have the same format
    last = [CheckpointFolder(project.path / f'logs/test/{name}/checkpoints').last()[0] for name in ('ddp', 'fsdp')]
    for part in ('model', 'optimizer'):
        ddp, fsdp = (found.load_tensors(part) for found in last)
        assert {name: (t.shape, t.dtype) for name, t in ddp.items()} == {
            name: (t.shape, t.dtype) for name, t in fsdp.items()}
        assert max((ddp[name].float() - fsdp[name].float()).abs().max() for name in ddp) < 1e-4


CUSTOM = '''
from labml.configs import option
from labml_mlm import MLM, MLMConfigs, train


class WithoutColumns(MLM):
    def __call__(self, x):
        return super().__call__(x)


class CONFIGS(MLMConfigs):
    folder: str


@option(CONFIGS.mlm, 'own')
def own_mlm(c: CONFIGS):
    return WithoutColumns(padding_token=0, mask_token=4, no_mask_tokens=[], n_tokens=c.n_tokens)


@option(CONFIGS.model, 'own')
def own_model(c: CONFIGS):
    return c.transformer.transformer_mlm.to(c.device)


@option(CONFIGS.text, 'own')
def own_text(c: CONFIGS):
    return open(c.folder + '/text.txt').read()
'''


def test_custom_parts_that_do_not_support_ranks_are_refused(project, runs):
    without_columns, not_parallel, no_value = runs.refused(
        2, ['mlm=own'], ['model=own', 'parallel=fsdp'], ['text_path=', 'text=own'], script=CUSTOM)
    assert '`mlm` is called with `(x, columns)`' in without_columns and 'this one takes `x` alone' in without_columns
    assert 'parallel=fsdp: a `model` of your own' in not_parallel
    # Not labml's message for an item without a value
    assert no_value == '`folder` has no value: give folder=VALUE'
    # In a single process they work
    project.script.write_text(CUSTOM + "\n\ntrain(CONFIGS(), name='test')\n")
    runs.single('single', 'mlm=own', 'model=own')


@pytest.mark.long
def test_compiled_ddp_has_the_losses_of_a_single_process(runs, trained):
    main, other = runs.start(2, 'two', 'compile=true').wait(300)
    assert (main.returncode, main.stderr) == (0, '')
    assert (other.returncode, other.stdout, other.stderr) == (0, '', '')
    runs.assert_same(trained(1).metrics, runs.metrics('two'))


# Each rank has a clock of its own
CLOCKS = '''
import itertools
import os
from labml_mlm import MLMConfigs, train
from labml_mlm.budget import speed

calls = itertools.count()
speed._now = lambda device: next(calls) * 0.01 * (1 + int(os.environ['RANK']))
speed._MOST_CALLS = 1
train(MLMConfigs(), name='test')
'''


@pytest.mark.parametrize('parallel', ['ddp', long('fsdp')])
def test_minutes_are_as_many_steps_at_all_ranks(project, runs, parallel):
    """By the clock of the main rank, and they are the steps of a run that was given their number."""
    options = [f'parallel={parallel}', 'transformer.dropout=0.1']
    runs.arguments.remove('epochs=1')
    project.script.write_text(CLOCKS)
    measured = runs.ranks(2, 'measured', *options, 'max_minutes=0.011')
    fitted = json.loads((project.path / 'logs/test/measured/configs.json').read_text())['fitted']
    assert fitted['max_minutes'] == 0.011 and fitted['max_steps'] == len(measured['lr'])
    runs.assert_same(measured, runs.ranks(2, 'counted', *options, f'max_steps={fitted["max_steps"]}'), tolerance=0)
