"""Evaluating a trained model, from Python and by `labml-mlm evaluate`."""
import gzip
import json
import math
import re
import shutil

import pytest
import torch
from support.project import values_of
from torch.nn import functional

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.inference.evaluate import AllWindows, evaluate


def test_validation_set_has_the_figures_of_the_run(command, run):
    code, out, err = command('evaluate', 'feed', '--checkpoint', 'last', '--json')
    assert code == 0, err
    result = json.loads(out)
    values = values_of(run / 'log.jsonl')
    # In another order of summation
    assert result['loss'] == pytest.approx(values['loss.valid'][-1][1], rel=1e-5)
    assert result['accuracy'] == values['accuracy.valid'][-1][1]
    assert result['perplexity'] == pytest.approx(math.exp(result['loss']))
    # Known by heart: far better than letter frequencies
    assert result['loss'] < 0.5 < 2 < result['unigram_loss']


def test_figures_are_means_over_all_masked_tokens(fill_mask):
    trained = fill_mask.pretrained
    tokens = torch.from_numpy(trained.tokenizer.encode('the quick brown fox jumps over the lazy dog\n' * 5))
    batches = list(AllWindows(tokens, seq_len=16, batch_size=3))
    assert [batch.shape for batch in batches] == [(16, 3)] * 4 + [(16, 1), (12, 1)]
    assert torch.cat([batch.T.flatten() for batch in batches]).tolist() == tokens.tolist()
    result = evaluate(trained, batches)
    assert result == evaluate(trained, batches)
    assert result.pseudo_perplexity is None

    trained.configs.valid_mlm.generator.manual_seed(0)
    logits, labels = [], []
    for batch in batches:
        masked, of_batch = trained.configs.valid_mlm(batch)
        with torch.no_grad():
            logits.append(trained.model.predict(masked).flatten(0, 1))
        labels.append(of_batch.flatten())
    logits, labels = torch.cat(logits), torch.cat(labels)
    is_masked = labels != 0
    assert (result.n_tokens, result.n_masked) == (len(tokens), is_masked.sum())
    assert result.loss == pytest.approx(functional.cross_entropy(logits[is_masked], labels[is_masked]).item(), rel=1e-5)
    assert result.accuracy == (logits.argmax(-1) == labels)[is_masked].double().mean().item()
    # The unigram baseline
    frequencies = tokens.bincount().double() / len(tokens)
    p = frequencies[labels[is_masked]]
    assert result.unigram_loss == pytest.approx(-p.log().mean().item())
    assert result.unigram_accuracy == pytest.approx((labels[is_masked] == frequencies.argmax()).float().mean().item())


def test_pseudo_perplexity_masks_each_token_in_turn(fill_mask):
    trained = fill_mask.pretrained
    tokens = torch.from_numpy(trained.tokenizer.encode('the quick brown dog jumps over')).long()
    batches = list(AllWindows(tokens, seq_len=16, batch_size=2))
    total = 0.
    for batch in batches:
        for window in batch.T:
            for position in range(len(window)):
                masked = window.clone()
                masked[position] = 4
                with torch.no_grad():
                    logits = trained.model.predict(masked[:, None])[position, 0]
                total += logits.log_softmax(-1)[window[position]].item()
    assert evaluate(trained, batches, is_pseudo=True).pseudo_perplexity == \
        pytest.approx(math.exp(-total / len(tokens)), rel=1e-4)


def test_padding_is_not_evaluated(fill_mask, monkeypatch):
    trained = fill_mask.pretrained
    ids = torch.from_numpy(trained.tokenizer.encode('the quick')).long()[:, None]
    padded = torch.cat([ids, torch.zeros(7, 1, dtype=torch.long)])
    # Mask all tokens, so that the masks are the same
    monkeypatch.setattr(trained.configs.valid_mlm, 'masking_prob', 1.)
    monkeypatch.setattr(trained.configs.valid_mlm, 'randomize_prob', 0.)
    monkeypatch.setattr(trained.configs.valid_mlm, 'no_change_prob', 0.)
    alone = evaluate(trained, [ids], is_pseudo=True)
    monkeypatch.setattr(trained.configs.batch_reader, 'is_padded', True)
    assert evaluate(trained, [padded], is_pseudo=True) == pytest.approx(alone, rel=1e-4)


def test_perplexity_of_a_diverged_model_is_infinite(run):
    trained = labml_mlm.load(run)
    with torch.no_grad():
        trained.model.generator.projection.weight.mul_(1e6)
    assert evaluate(trained, [torch.randint(5, 20, (16, 4))]).perplexity == math.inf


def test_text_without_maskable_tokens_is_refused(fill_mask):
    with pytest.raises(UserError, match='no token that can be masked'):
        evaluate(fill_mask.pretrained, [torch.ones(4, 2, dtype=torch.long)])


def test_command_prints_figures_and_baseline(command, trained):
    (trained.path / 'other.txt').write_text('the lazy fox, über\n' * 20)
    code, out, err = command('evaluate', 'feed', '--text', 'other.txt', '--text', 'text.txt', '--pseudo')
    assert code == 0, err
    assert err.startswith('Using ')
    lines = out.splitlines()
    assert re.fullmatch(r'9,182 tokens, 1,\d\d\d of them masked; 40 are not in the vocabulary', lines[0])
    assert lines[1].split() == ['loss', 'accuracy', 'perplexity']
    assert lines[2].startswith('model') and lines[3].startswith('unigram')
    assert re.fullmatch(r'Pseudo-perplexity \d+\.\d{3}', lines[4])


def test_command_refuses_a_missing_text(assert_refused):
    assert_refused('evaluate', 'feed', '--text', 'none.txt', message='none.txt cannot be read: No such file')


def test_command_caches_tokens_in_the_project_of_the_run(command, trained, run, data_path, monkeypatch, tmp_path):
    """Whatever the current folder, and the project that labml is in."""
    shutil.rmtree(trained.path / 'data/tokens')
    monkeypatch.chdir(tmp_path)
    code, out, _ = command('evaluate', str(run))
    assert code == 0 and 'unigram' in out and 'Using' not in out
    assert list((trained.path / 'data/tokens').glob('*.tokens'))
    assert not list(data_path.iterdir())


def test_command_reads_compressed_texts_and_json_lines(command, trained, tmp_path):
    text = trained.text.read_bytes()
    (tmp_path / 'a.txt').write_bytes(text)
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress(text))
    (tmp_path / 'a.jsonl').write_text(json.dumps({'text': text.decode()}))
    results = [command('evaluate', 'feed', '--text', str(tmp_path / name))[1]
               for name in ('a.txt', 'a.txt.gz', 'a.jsonl')]
    assert 'unigram' in results[0] and len(set(results)) == 1


def test_command_refuses_a_changed_validation_text(assert_refused, trained):
    text = trained.text.read_text()
    trained.text.write_text(text.replace('lazy', 'laxy'))
    try:
        assert_refused('evaluate', 'feed', message='this is not the text of the run')
    finally:
        trained.text.write_text(text)
