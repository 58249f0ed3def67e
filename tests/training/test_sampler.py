"""Prompts filled in: at each validation of a run, in its folder, and by `labml-mlm samples`."""
import functools
import json
import os
import signal

import pytest
import torch
from support.project import SMALL, outcome

from labml_mlm.runs.samples_log import Sample, SamplesLog, ValidationSamples


def validation(step, filled='ab', loss=1.5):
    return ValidationSamples(step, loss, 0.5, [Sample(['a', 'b', 'ก', '\n'], [1, 3], list(filled), [False, True])])


@pytest.fixture
def file(tmp_path):
    return SamplesLog(tmp_path / 'samples.jsonl')


@pytest.fixture
def command(project, monkeypatch, capsys):
    """`labml-mlm` in the project: exit code, output and errors."""
    monkeypatch.chdir(project.path)
    return functools.partial(outcome, capsys)


def test_what_is_added_is_read(file):
    assert file.read() == []
    validations = [validation(10), validation(20, loss=None)]
    for one in validations:
        file.add(one)
    assert file.read() == validations


def test_a_step_is_there_once(file):
    for step in (10, 20, 30):
        file.add(validation(step))
    file.add(validation(20, 'xy'))
    assert file.read() == [validation(10), validation(20, 'xy')]


@pytest.mark.parametrize('step, kept', [(5, []), (10, [10]), (29, [10, 20]), (30, [10, 20, 30]), (99, [10, 20, 30])])
def test_cut(file, step, kept):
    for at in (10, 20, 30):
        file.add(validation(at))
    os.utime(file.path, (1, 1))
    file.cut(step)
    assert [one.step for one in file.read()] == kept
    # What has nothing to lose is not written
    assert (file.path.stat().st_mtime == 1) == (len(kept) == 3)


def test_damaged_lines_are_left_out(file):
    file.add(validation(10))
    with open(file.path, 'a') as f:
        f.write('{"step": 20}\nnot JSON\n[]\n{"step": 30, "loss')
    assert file.read() == [validation(10)]
    file.add(validation(40))
    assert [one.step for one in file.read()] == [10, 40]


def test_half_a_character_is_kept(file):
    """A byte-level vocabulary has tokens that are no text by themselves."""
    file.add(ValidationSamples(1, None, None, [Sample(['\udcc3'], [0], ['é'], [False])]))
    assert file.read()[0].samples[0].filled == ['é']


def test_the_most_probable_token_of_each_place(build):
    conf = build(prompt=['the quick brown fox', 'lazy'])
    samples = conf.sampler.fill(conf.model, conf.device)
    for prompt, sample, (masked, labels) in zip(['the quick brown fox', 'lazy'], samples, conf.sampler.masked,
                                                strict=True):
        assert ''.join(sample.tokens) == prompt
        assert sample.positions == (labels[:, 0] != 0).nonzero()[:, 0].tolist() != []
        with torch.no_grad():
            best = conf.model.predict(masked)[:, 0].argmax(dim=-1).tolist()
        assert sample.filled == [conf.tokenizer.tokens[best[place]] for place in sample.positions]
        assert sample.is_right == [prompt[place] == token for place, token in
                                   zip(sample.positions, sample.filled, strict=True)]


def test_a_run_keeps_what_it_prints(project, command):
    result = project.train('epochs=3', 'prompt=the quick,lazy dog', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    kept = SamplesLog(project.path / 'logs/test/feed/samples.jsonl').read()
    assert [one.step for one in kept] == sorted({one.step for one in kept})
    assert len(kept) == 3
    printed = [line.removeprefix('filled  ') for line in result.stdout.splitlines() if line.startswith('filled  ')]
    filled = []
    for one in kept:
        for sample in one.samples:
            tokens = list(sample.tokens)
            for place, token in zip(sample.positions, sample.filled, strict=True):
                tokens[place] = token
            filled.append(''.join(tokens).replace('\n', '↵'))
    assert filled == printed
    # The same prompts with the same masks each time
    assert len({str([(sample.tokens, sample.positions) for sample in one.samples]) for one in kept}) == 1

    code, out, err = command('samples', 'feed')
    assert (code, err) == (0, '')
    first, second = out.split('\n\n')
    lines = first.splitlines()
    assert lines[0].split() == ['step', 'loss.valid', 'right', 'masked', *lines[0].split()[4:]]
    assert [line.split()[0] for line in lines[1:4]] == [f'{one.step:,}' for one in kept]
    assert [line.split()[1] for line in lines[1:4]] == [f'{one.loss:.4f}' for one in kept]
    assert lines[4].split() == ['text', 'the', 'quick']
    assert second.splitlines()[4].split() == ['text', 'lazy', 'dog']
    # One below the other
    assert len({line.rstrip().find(word) for line, word in zip(lines, ['masked', *3 * ['filled'], 'text'],
                                                               strict=True)}) == 1

    code, out, err = command('samples', 'feed', '--json')
    assert [found['step'] for found in json.loads(out)] == [one.step for one in kept]
    assert json.loads(out)[0]['samples'][0]['tokens'] == list('the quick')


def test_a_run_that_goes_on_repeats_none(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=100000', 'checkpoint_interval=10',
                       env={'RUN_UUID': 'feed'})
    file = SamplesLog(project.path / 'logs/test/feed/samples.jsonl')
    project.until(lambda: len(file.read()) > 3)
    os.kill(pid, signal.SIGKILL)
    project.wait()
    before = file.read()
    n_epochs = len(before) + 2
    result = project.run('--resume', 'feed', f'epochs={n_epochs}')
    assert result.returncode == 0, result.stderr
    kept = file.read()
    assert len(kept) == n_epochs
    assert [one.step for one in kept] == sorted({one.step for one in kept})
    assert kept[:len(before) - 1] == before[:-1]


def test_samples_of_before_another_prompt(project, command):
    assert project.train('epochs=1', 'prompt=the quick', env={'RUN_UUID': 'feed'}).returncode == 0
    result = project.run('--resume', 'feed', 'epochs=2', 'prompt=lazy dog')
    assert result.returncode == 0, result.stderr
    _, out, _ = command('samples', 'feed')
    first, second = out.split('\n\n')
    assert 'the quick' in first and 'lazy dog' in second
    assert len(first.splitlines()) == len(second.splitlines()) == 3


def test_samples_that_cannot_be_kept_end_no_run(project):
    """A folder stands in the way, whoever runs this."""
    (project.path / 'logs/test/feed/samples.jsonl').mkdir(parents=True)
    result = project.train('epochs=1', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    assert 'Cannot keep the samples' in result.stdout
    assert 'filled  ' in result.stdout


def test_samples_that_cannot_be_taken_back_end_no_run(project):
    assert project.train('epochs=1', env={'RUN_UUID': 'feed'}).returncode == 0
    samples = project.path / 'logs/test/feed/samples.jsonl'
    samples.unlink()
    samples.mkdir()
    result = project.run('--resume', 'feed', 'epochs=2')
    assert result.returncode == 0, result.stderr
    assert 'Cannot take back the samples' in result.stdout


def test_what_a_kill_has_left_is_removed(file):
    file.add(validation(10))
    left = file.path.with_name('.samples.jsonl.4711')
    left.write_text('{')
    file.cut(10)
    assert not left.exists() and len(file.read()) == 1


def test_a_loss_that_is_none(file):
    file.add(validation(10, loss=float('nan')))
    assert 'NaN' not in file.path.read_text()
    assert file.read() == [validation(10, loss=None)]


def test_samples_of_a_run_without_any(project, command):
    assert project.train('n_prompts=0', env={'RUN_UUID': 'feed'}).returncode == 0
    code, out, err = command('samples', 'feed')
    assert (code, out) == (2, '')
    assert 'the run feed has no samples' in err
    assert command('samples', 'feed', '--json')[:2] == (0, '[]\n')
    code, _, err = command('samples', 'fead')
    assert code == 2 and 'Did you mean feed?' in err


def test_no_half_file_is_left(file, monkeypatch):
    file.add(validation(10))
    monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError):
        file.add(validation(20))
    monkeypatch.undo()
    assert [one.step for one in file.read()] == [10]
    assert os.listdir(file.path.parent) == ['samples.jsonl']
