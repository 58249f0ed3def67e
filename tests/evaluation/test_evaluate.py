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
from labml_mlm.evaluation.evaluate import AllWindows, evaluate


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
    assert result['neighbours_loss'] < result['bigram_loss'] < result['unigram_loss']
    # The same as beside the training
    baselines = json.loads((run / 'baselines.json').read_text())
    for name, guess in baselines.items():
        assert values[f'baseline.{name}'][-1][1] == guess['loss'] == result[f'{name}_loss']
        assert values[f'baseline.{name}.accuracy'][0] == (0, guess['accuracy'])
        assert guess['accuracy'] == result[f'{name}_accuracy']
    # A token is a character
    assert result['bits_per_character'] == pytest.approx(result['loss'] / math.log(2))
    assert values['bits_per_char.valid'][-1][1] == pytest.approx(result['bits_per_character'], rel=1e-5)


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
    unigram = result.baselines['unigram']
    assert result.is_of_this_text and unigram.loss == pytest.approx(-p.log().mean().item())
    assert unigram.accuracy == pytest.approx((labels[is_masked] == frequencies.argmax()).float().mean().item())


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
    assert alone.pairs_loss is alone.pairs_accuracy is None
    monkeypatch.setattr(trained.configs.batch_reader, 'is_padded', True)
    padded = evaluate(trained, [padded], is_pseudo=True)
    without_pairs = {name: value for name, value in alone.as_dict().items() if value is not None}
    assert {name: padded.as_dict()[name] for name in without_pairs} == pytest.approx(without_pairs, rel=1e-4)


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
    assert [line.split()[0] for line in lines[2:6]] == ['model', 'unigram', 'bigram', 'neighbours']
    assert re.fullmatch(r'Bits per character \d+\.\d{4}', lines[6])
    assert re.fullmatch(r'Pseudo-perplexity \d+\.\d{3}', lines[7]) and len(lines) == 8


def test_command_says_which_frequencies_it_has_where_the_text_of_the_run_is_gone(command, trained):
    (trained.path / 'other.txt').write_text('the lazy fox\n' * 20)
    before = json.loads(command('evaluate', 'feed', '--text', 'other.txt', '--json')[1])
    moved = trained.text.rename(trained.path / 'moved.txt')
    try:
        code, out, err = command('evaluate', 'feed', '--text', 'other.txt')
        after = json.loads(command('evaluate', 'feed', '--text', 'other.txt', '--json')[1])
    finally:
        moved.rename(trained.text)
    assert code == 0, err
    assert 'bigram' not in out
    assert out.splitlines()[-1].startswith('The unigram has the frequencies of this text itself, as those of the '
                                           'training text are not known: ')
    assert str(trained.text) in out
    assert (before['is_of_this_text'], after['is_of_this_text']) == (False, True)
    # No frequencies are better for a text than its own
    assert after['unigram_loss'] < before['unigram_loss'] and after['loss'] == before['loss']


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


def test_command_reads_tables(command, assert_refused, tmp_path):
    table, lines = tmp_path / 'a.csv', tmp_path / 'b.jsonl'
    rows = [f'the lazy fox jumps, {i % 3} times' for i in range(40)]
    table.write_text('id,body\n' + ''.join(f'{i},"{row}"\n' for i, row in enumerate(rows)) + '40,\n')
    lines.write_text(''.join(json.dumps({'body': row}) + '\n' for row in rows))
    (tmp_path / 'c.fa').write_text(''.join(f'>{i}\n{row}\n' for i, row in enumerate(rows)))
    code, out, err = command('evaluate', 'feed', '--text', str(table), '--field', 'body', '--json')
    assert code == 0 and 'Note: 1 row without text is left out\n' in err
    assert command('evaluate', 'feed', '--text', str(lines), '--field', 'body', '--json')[1] == out
    # White space goes
    assert json.loads(command('evaluate', 'feed', '--text', str(tmp_path / 'c.fa'), '--json')[1])['n_tokens'] == \
        sum(len(row.replace(' ', '')) + 1 for row in rows)
    assert_refused('evaluate', 'feed', '--text', str(table), message="has no field `text` (--field): its fields are "
                                                                     "'id', 'body'.")
    assert_refused('evaluate', 'feed', '--text', str(tmp_path / 'c.fa'), '--field', 'body',
                   message='--field body is for JSON lines, tables and Parquet, and --text has none')
    assert_refused('evaluate', 'feed', '--field', 'body', message='--field body is for --text FILE')


def test_command_refuses_a_changed_validation_text(assert_refused, trained):
    text = trained.text.read_text()
    trained.text.write_text(text.replace('lazy', 'laxy'))
    try:
        assert_refused('evaluate', 'feed', message='this is not the text of the run')
    finally:
        trained.text.write_text(text)
