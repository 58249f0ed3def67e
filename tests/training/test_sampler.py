"""Prompts that are masked and filled in at each validation of a run."""
import json
import os
import signal

import torch
from support.full_disk import on_full_disk
from support.project import SMALL, TRAIN

from labml_mlm.runs.samples_log import SamplesLog


def test_predictions_are_the_most_probable_tokens(build):
    conf = build(prompt=['the quick brown fox', 'lazy'])
    samples = conf.sampler.fill(conf.model, conf.device)
    for prompt, sample, (masked, labels) in zip(['the quick brown fox', 'lazy'], samples, conf.sampler.masked,
                                                strict=True):
        assert ''.join(sample.tokens) == prompt
        assert sample.positions == (labels[:, 0] != 0).nonzero()[:, 0].tolist() != []
        with torch.no_grad():
            logits = conf.model.predict(masked)[:, 0]
            logits[:, :5] = -torch.inf
            best = logits.argmax(dim=-1).tolist()
        assert sample.filled == [conf.tokenizer.tokens[best[position]] for position in sample.positions]
        assert sample.is_right == [prompt[position] == token for position, token in
                                   zip(sample.positions, sample.filled, strict=True)]


def test_what_is_never_masked_is_never_predicted(build, monkeypatch):
    conf = build(prompt=['the quick brown fox'])
    predict = conf.model.predict
    # `[UNK]` and `[MASK]` would be the best by far
    monkeypatch.setattr(conf.model, 'predict', lambda x: predict(x).index_fill(2, torch.tensor([1, 4]), 1e4))
    [sample] = conf.sampler.fill(conf.model, conf.device)
    assert not {'[UNK]', '[MASK]'} & set(sample.filled)


def test_prompt_with_masks_is_masked_there(build):
    conf = build(prompt=['the qu[MASK]ck [mask]rown', 'fox'])
    (masked, labels), (_, of_second) = conf.sampler.masked
    assert ''.join(conf.tokenizer.tokens[i] for i in masked[:, 0]) == 'the qu[MASK]ck [MASK]rown'
    assert labels[:, 0].nonzero()[:, 0].tolist() == [6, 10]
    assert of_second.any()
    first, second = conf.sampler.fill(conf.model, conf.device)
    assert first.positions == [6, 10] and first.is_right == [None, None]
    assert ''.join(first.tokens) == 'the qu[MASK]ck [MASK]rown'
    assert None not in second.is_right


def test_run_saves_the_samples_that_it_prints(project):
    result = project.train('epochs=3', 'prompt=the quick,lazy dog', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    saved = SamplesLog(project.path / 'logs/test/feed/samples.jsonl').read()
    assert [validation.step for validation in saved] == sorted({validation.step for validation in saved})
    assert len(saved) == 3
    printed = [line.removeprefix('filled  ') for line in result.stdout.splitlines() if line.startswith('filled  ')]
    filled = []
    for validation in saved:
        for sample in validation.samples:
            tokens = list(sample.tokens)
            for position, token in zip(sample.positions, sample.filled, strict=True):
                tokens[position] = token
            filled.append(''.join(tokens).replace('\n', '↵'))
    assert filled == printed
    # The same prompts with the same masks each time
    assert len({str([(sample.tokens, sample.positions) for sample in validation.samples]) for validation in saved}) == 1


def test_resumed_run_repeats_no_samples(project):
    pid = project.fork(f'text_path={project.text}', *SMALL, 'epochs=100000', 'checkpoint_interval=10',
                       env={'RUN_UUID': 'feed'})
    log = SamplesLog(project.path / 'logs/test/feed/samples.jsonl')
    project.until(lambda: len(log.read()) > 3)
    os.kill(pid, signal.SIGKILL)
    project.wait()
    before = log.read()
    n_epochs = len(before) + 2
    result = project.run('--resume', 'feed', f'epochs={n_epochs}')
    assert result.returncode == 0, result.stderr
    after = log.read()
    assert len(after) == n_epochs
    assert [validation.step for validation in after] == sorted({validation.step for validation in after})
    assert after[:len(before) - 1] == before[:-1]


def test_failure_to_save_samples_does_not_end_the_run(project):
    project.script.write_text(on_full_disk('samples.jsonl') + TRAIN)
    result = project.train('epochs=1', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    assert 'Cannot save the samples' in result.stdout
    assert 'filled  ' in result.stdout


def test_failure_to_truncate_samples_does_not_end_the_run(project):
    assert project.train('epochs=1', env={'RUN_UUID': 'feed'}).returncode == 0
    # One that came after the last checkpoint
    samples = project.path / 'logs/test/feed/samples.jsonl'
    last = json.loads(samples.read_text().splitlines()[-1])
    samples.write_text(samples.read_text() + json.dumps(last | {'step': last['step'] + 1}) + '\n')
    project.script.write_text(on_full_disk('samples.jsonl') + TRAIN)
    result = project.run('--resume', 'feed', 'epochs=2')
    assert result.returncode == 0, result.stderr
    assert 'Cannot truncate the samples' in result.stdout
