"""The block that says what was built, and the lines at the end of a run."""
import os
import re
from types import SimpleNamespace

import pytest
import torch
from support.labelled import write_texts
from support.project import SMALL
from support.terminal import RunOnTerminal

from labml_mlm.launch import about

NAMES = ['run', 'text', 'tokenizer', 'guesses', 'model', 'device', 'training']
OWN_TEXT = '''
from labml.configs import option
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    text = 'mine'


@option(Configs.text, 'mine')
def mine():
    return 'nobody may read this sentence\\n' * 300


train(Configs(), name='test')
'''


def block_of(lines):
    """Its rows, by name; values that are wrapped are joined."""
    first = next(i for i, line in enumerate(lines) if line.startswith('run '))
    rows, name, width = {}, '', len('tokenizer') + 2
    for line in lines[first:]:
        if not re.match(r'[a-z]+ +\S| {11}\S', line) or len(line) <= width or line[width - 1] != ' ':
            break
        name = line[:width].strip() or name
        rows[name] = f'{rows.get(name, "")} {line[width:]}'.strip()
    return rows


def test_block_in_a_pipe(project):
    result = project.train('n_prompts=0', env={'RUN_UUID': 'feed'})
    rows = block_of(result.stdout.splitlines())
    assert list(rows) == NAMES
    guesses = rows.pop('guesses')
    number = r'\d\.\d{4}'
    assert re.fullmatch(rf'unigram {number} \({number}\), .*: loss and accuracy without a model', guesses)
    assert rows == {
        'run': 'feed, of test',
        'text': 'text.txt, 8,800 characters (by text_path); 7,920 tokens to train on, 880 for validation',
        'tokenizer': 'character, 33 tokens', 'model': '3,345 parameters, 1 layer, d_model 16',
        'device': 'cpu, 1 thread, float32, not compiled',
        'training': '1 epoch, 31 steps, 16 × 16 tokens each, 7,920 in all'}
    assert "Next: labml-mlm fill-mask last 'TEXT WITH [MASK]'" in result.stdout


@pytest.mark.parametrize('n_steps, n_windows', [(3, 48), (31, 495), (34, 495 + 48)])
def test_windows_of_a_part_of_an_epoch(project, n_steps, n_windows):
    small = [item for item in SMALL if not item.startswith('epochs=')]
    result = project.run(f'text_path={project.text}', *small, f'max_steps={n_steps}', 'n_prompts=0')
    assert block_of(result.stdout.splitlines())['training'].endswith(f' {n_windows * 16:,} in all')
    assert f' after {n_windows * 16:,} tokens in ' in result.stdout


def test_the_next_command_masks_no_more_than_the_prompt_does(project):
    lines = project.train('prompt=the qui[MASK]k brown').stdout.splitlines()
    assert "Next: labml-mlm fill-mask last 'the qui[MASK]k brown'" in lines


@pytest.mark.parametrize('columns', [40, 80, 130])
def test_block_on_a_terminal(project, columns):
    # COLUMNS is that of another terminal
    run = RunOnTerminal(project, 'n_prompts=1', columns=columns, RUN_UUID='feed', COLUMNS='200')
    run.terminal.until('epoch 1/1')
    wrapped = run.terminal.screen.wrapped[:]
    lines = run.lines()
    # What comes before is a message or two of a sentence each
    assert not [line for line in wrapped if re.match('|'.join(f'{name} +' for name in NAMES), line)]
    rows = block_of(lines)
    assert list(rows) == NAMES and rows['text'].startswith('text.txt, 8,800 characters (by text_path); 7,920 tokens')
    assert not any('Prepare' in line or 'git' in line or 'clean' in line for line in lines)


def test_labml_s_lines_return(project):
    verbose = project.train('verbose=true', env={'RUN_UUID': 'feed'}).stdout.splitlines()
    assert any(re.fullmatch(r'Prepare model\.\.\.\[DONE\]\t[\d.,]+ms', line) for line in verbose)
    assert 'test: feed' in verbose and any(line.startswith('Not a valid git repository: ') for line in verbose)
    assert list(block_of(verbose)) == NAMES


def test_resumed_run(project, stop):
    stop()
    lines = project.run('--resume', 'last').stdout.splitlines()
    rows = block_of(lines)
    assert re.fullmatch(r'from step [1-9]\d* of 124, [\d,]+ tokens, after 0:\d\d of training', rows['resumed'])
    assert re.fullmatch(r'0:\d\d left, if it is as fast as so far', rows['time'])
    assert rows['text'].startswith('text.txt, 8,800 characters;')


def test_own_text_is_named_and_not_shown(project):
    project.script.write_text(OWN_TEXT)
    result = project.run(*SMALL, 'n_prompts=0')
    assert block_of(result.stdout.splitlines())['text'].startswith('text=mine, 9,000 characters;')
    assert 'Trained on text=mine, 9,000 characters' in result.stdout and 'nobody' not in result.stdout


def test_fine_tuning(project):
    project.script.write_text('from labml_mlm import ClassificationConfigs, train\n\n'
                              'train(ClassificationConfigs(), name="test")\n')
    rows = write_texts(project.path / 'rows.jsonl', 50)
    result = project.run(f'text_path={rows}', *SMALL[:3], 'seq_len=32', 'max_steps=3', 'batch_size=8')
    assert result.returncode == 0, result.stderr
    found = block_of(result.stdout.splitlines())
    assert list(found) == [name for name in NAMES if name != 'guesses']
    assert re.fullmatch(r'rows\.jsonl, [\d,]+ characters \(by text_path\)', found['text'])
    assert found['training'].endswith('3 steps, 8 texts each')
    assert 'Next: labml-mlm predict last FILE' in result.stdout


def test_main_rank_alone_prints_it(project):
    results = project.ranks(2, f'text_path={project.text}', *SMALL, 'n_prompts=0').wait()
    assert [result.returncode for result in results] == [0, 0], results
    assert block_of(results[0].stdout.splitlines())['device'].split(', ')[2] == '2 ranks'
    assert results[1].stdout == ''


@pytest.mark.parametrize('load, n_threads, is_warned', [(9., 2, True), (9., 1, False), (0.5, 2, False)])
def test_load_above_the_cores(monkeypatch, capsys, load, n_threads, is_warned):
    monkeypatch.setattr(os, 'getloadavg', lambda: (load, 1., 1.))
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1})
    monkeypatch.setattr(torch, 'get_num_threads', lambda: n_threads)
    about._warn_of_load(SimpleNamespace(device=torch.device('cpu')))
    assert ('OMP_NUM_THREADS=1' in capsys.readouterr().out) == is_warned
