"""Pseudo-log-likelihood of texts, from Python and by `labml-mlm score`."""
import gzip
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from support import published
from support.exports import CUSTOM, FAMILIES, NO_PYTHON
from support.minicons import minicons_scores

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.evaluation import score as scoring
from labml_mlm.evaluation.evaluate import AllWindows, evaluate
from labml_mlm.evaluation.score import score_texts
from labml_mlm.export.folder import export_folder

FIXTURE = json.loads((Path(__file__).parent.parent / 'fixtures/minicons.json').read_text())
METRICS = {'original': False, 'within_word_l2r': True}
TEXTS = ['the quick fox', 'over', 'the dog, over the brown fox', 'the fox jumps over the lazy']


@torch.no_grad()
def one_by_one(trained, ids, *, later=lambda ids, position: []):
    """The slow twin: a pass for each token of a window, alone."""
    total = 0.
    for position in trained.configs._is_maskable[ids].nonzero()[:, 0].tolist():
        masked = ids.clone()
        masked[[position, *later(ids, position)]] = trained.configs.mask_token
        total += trained.model.predict(masked[:, None])[position, 0].log_softmax(-1)[ids[position]].item()
    return total


def later_of_word(trained):
    def later(ids, position):
        starts = trained.tokenizer.words.starts(ids)
        following = range(position + 1, len(ids))
        return [*following][:next((i for i in range(len(following)) if starts[following[i]]), None)]
    return later


@pytest.mark.parametrize('name', [*FAMILIES, *CUSTOM])
def test_sums_are_those_of_one_pass_a_mask(models, name):
    trained = models[name]
    found = list(score_texts(trained, TEXTS))
    assert [scored.text for scored in found] == TEXTS
    for scored in found:
        assert scored.pll == pytest.approx(one_by_one(trained, trained.ids(scored.text)), abs=1e-4)
        assert scored.n_windows == 1


@pytest.mark.parametrize('name', ['bert', 'esm'])
def test_later_tokens_of_a_word_are_masked_too(models, tmp_path, name):
    trained = models['esm'] if name == 'esm' else labml_mlm.load(published.save(tmp_path / name))
    text = 'the owners jumped over cafe'
    [within], [alone] = score_texts(trained, [text], within_word=True), score_texts(trained, [text])
    assert within.pll == pytest.approx(one_by_one(trained, trained.ids(text), later=later_of_word(trained)), abs=1e-4)
    assert abs(within.pll - alone.pll) > 0.005


def test_batches_have_a_bound_and_change_nothing(models, monkeypatch):
    trained = models['bert']
    expected, sizes = [scored.pll for scored in score_texts(trained, TEXTS)], []
    encode = trained.model.encode

    def measured(x, *context):
        sizes.append(x.numel())
        return encode(x, *context)
    monkeypatch.setattr(scoring, '_BATCH_TOKENS', 40)
    # One row of logits at a time
    monkeypatch.setattr(scoring, '_LOGITS', 1)
    monkeypatch.setattr(trained.model, 'encode', measured)
    assert [scored.pll for scored in score_texts(trained, TEXTS, at_once=3)] == pytest.approx(expected, abs=1e-4)
    assert max(sizes) <= 40


def test_texts_are_read_as_a_stream(models):
    read = []

    def texts():
        for i in range(100):
            read.append(i)
            yield TEXTS[i % 4]
    scores = score_texts(models['bert'], texts(), at_once=5)
    next(scores)
    assert len(read) == 5


def test_counts_and_figures(fill_mask):
    [scored] = score_texts(fill_mask.pretrained, ['the  fox\tover'.replace('\t', ' ')])
    assert (scored.n_tokens, scored.n_words, scored.n_characters, scored.n_windows) == (13, 3, 13, 1)
    assert scored.nats_per_token == -scored.pll / 13
    assert scored.nats_per_word == -scored.pll / 3
    assert scored.bits_per_character == pytest.approx(-scored.pll / 13 / math.log(2))
    [empty] = score_texts(fill_mask.pretrained, [''])
    assert empty[1:] == (0., 0, 0, 0, 0)
    assert empty.nats_per_token is empty.nats_per_word is empty.bits_per_character is None


def test_long_texts_are_cut_into_the_windows_of_evaluate(fill_mask):
    trained = fill_mask.pretrained
    text = 'the quick brown fox jumps over the lazy dog'
    [scored] = score_texts(trained, [text])
    assert scored.n_windows == 3
    batches = list(AllWindows(torch.from_numpy(trained.tokenizer.encode(text)), seq_len=16, batch_size=2))
    assert evaluate(trained, batches, is_pseudo=True).pseudo_perplexity == \
        pytest.approx(math.exp(scored.nats_per_token), rel=1e-6)
    [whole] = score_texts(trained, [text], window=64)
    assert whole.n_windows == 1
    assert whole.pll == pytest.approx(one_by_one(trained, trained.ids(text)), abs=1e-4)


def test_windows_that_the_model_does_not_take_are_refused(models):
    with pytest.raises(UserError, match=r'window=100000: it must be at least 1 and at most \d+'):
        score_texts(models['bert'], TEXTS, window=100_000)
    with pytest.raises(UserError, match='leaves no room for text'):
        score_texts(models['bert'], TEXTS, window=2)


def test_model_without_a_head_is_refused(tmp_path):
    trained = labml_mlm.load(published.save(tmp_path / 'encoder', has_head=False))
    with pytest.raises(UserError, match='no head'):
        score_texts(trained, [])


def test_error_comes_after_the_texts_before_it(fill_mask):
    scores = score_texts(fill_mask.pretrained, ['the', 'fox', 'über', 'dog'])
    assert [next(scores).text, next(scores).text] == ['the', 'fox']
    with pytest.raises(UserError, match="does not know 'ü'"):
        next(scores)


@pytest.mark.parametrize('metric', METRICS)
def test_sums_are_those_that_minicons_gave(tmp_path, metric):
    """Recorded with minicons 0.3.39, transformers 5.24 and torch 2.13."""
    trained = labml_mlm.load(published.save(tmp_path / 'tiny'))
    found = [scored.pll for scored in score_texts(trained, FIXTURE['texts'], within_word=METRICS[metric])]
    assert found == pytest.approx(FIXTURE[metric], abs=1e-4)


@pytest.mark.usefixtures('needs_minicons')
def test_sums_are_those_of_minicons(tmp_path, models):
    folders = {published.save(tmp_path / 'tiny'): labml_mlm.load(tmp_path / 'tiny')}
    for name in 'bert', 'roberta', 'modernbert':
        export_folder(models[name], tmp_path / name, python=NO_PYTHON)
        folders[tmp_path / name] = models[name]
    texts = {folder: FIXTURE['texts'] if folder.name == 'tiny' else TEXTS for folder in folders}
    said = minicons_scores(texts)
    for folder, trained in folders.items():
        for metric, expected in said[str(folder)].items():
            found = [scored.pll for scored in score_texts(trained, texts[folder], within_word=METRICS[metric])]
            assert found == pytest.approx(expected, abs=1e-4), (folder.name, metric)


def test_command_prints_a_line_a_text_and_the_corpus(command, trained, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    (trained.path / 'lines.txt').write_bytes(b'\xef\xbb\xbfthe quick brown fox jumps over the lazy dog\r\n\r\nthe fox')
    code, out, err = command('score', 'feed', 'lines.txt')
    assert code == 0, err
    assert err.startswith('Using ')
    lines = out.splitlines()
    assert lines[0].split() == ['line', 'PLL', 'tokens', 'nats/token', 'bits/char', 'text']
    assert lines[1].split()[0] == '1' and lines[1].endswith('the quick brown fox jumps ove…')
    assert lines[2].split()[0] == '3' and lines[2].endswith('the fox')
    assert '2 texts, 50 tokens, 11 words, 50 characters' in lines
    assert '1 empty line is left out' in lines and '1 with more tokens than a window is cut' in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize('columns', [40, 80, 130])
def test_tables_fit_the_terminal(command, monkeypatch, columns):
    monkeypatch.setenv('COLUMNS', str(columns))
    for arguments in ('score', 'feed', '-'), ('inspect', 'feed'):
        code, out, err = command(*arguments, lines='the quick brown fox jumps over the lazy dog\n' * 2)
        assert code == 0, err
        assert max(map(len, out.splitlines())) <= columns + (arguments[0] == 'score') * 18


def test_command_prints_json(command, fill_mask, trained):
    (trained.path / 'a.jsonl').write_text('{"said": "the fox"}\n\n{"said": ""}\n{"said": "over the dog"}\n')
    code, out, err = command('score', 'feed', 'a.jsonl', '--field', 'said', '--json', '--within-word')
    assert code == 0, err
    *texts, corpus = map(json.loads, out.splitlines())
    expected = list(score_texts(fill_mask.pretrained, ['the fox', 'over the dog'], within_word=True))
    assert [(text['line'], text['text']) for text in texts] == [(1, 'the fox'), (4, 'over the dog')]
    assert [text['pll'] for text in texts] == pytest.approx([scored.pll for scored in expected], abs=1e-4)
    assert corpus['corpus']['empty'] == 1
    nats = -sum(scored.pll for scored in expected) / 19
    assert corpus['corpus']['nats_per_token']['value'] == pytest.approx(nats, rel=1e-5)
    assert corpus['corpus']['bits_per_character']['value'] == pytest.approx(nats / math.log(2), rel=1e-5)


@pytest.mark.parametrize(('arguments', 'lines', 'message'), [
    (['-'], 'the\n\nfox ü\n', "standard input, line 3: the model does not know 'ü'"),
    (['-', '--field', 'text'], '{"text": "the"}\n\n{"txt": 1}\n', 'standard input, line 3 has no field `text` '
                                                                  "(--field): its fields are 'txt'"),
    (['-', '--field', 'text'], 'the\n', 'standard input, line 1 is not JSON'),
    (['-', '--field', 'text'], '{"text": "the"}\n{"text": "ü"}\n',
     "standard input, line 2: the model does not know 'ü'"),
    (['-'], 'the\nf\0x\n', 'standard input, line 2 is not text: it contains NUL characters'),
    (['none.txt'], '', 'cannot read none.txt: No such file'),
    (['none.txt', '--field', 'text'], '', '--field text is for files that end in .json, .jsonl, .csv'),
    (['-'], '\n\n', 'standard input has no text'), ([], '', 'give a FILE'),
    (['-', '--pairs', '-'], '', 'not both'), (['--pairs', '-', '--field', 'x'], '', '--field is for texts'),
    (['--pairs', '-'], '{"sentence_good": "the"}', 'standard input, line 1: the field `sentence_bad` has no '
                                                            'text'),
    (['--pairs', '-'], '{"sentence_good": "a", "sentence_bad": "b"}\n\n{"sentence_good": "a", "sentence_bad": "ü"}',
     "standard input, line 3: the model does not know 'ü'"),
    (['--pairs', '-'], '[1]', 'standard input, line 1 is a JSON list'), (['--pairs', '-'], '', 'has no pairs'),
    (['-', '--window', '0'], '', 'it must be an integer, at least 1')])
def test_command_refuses_what_cannot_be_scored(command, arguments, lines, message):
    code, _, err = command('score', 'feed', *arguments, lines=lines)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_texts_before_an_error_are_scored(command):
    code, out, err = command('score', 'feed', '-', '--json', lines='the\n\nfox\n\0\n')
    assert code == 2 and [json.loads(line)['line'] for line in out.splitlines()] == [1, 3]
    assert 'standard input, line 4 is not text' in err


@pytest.mark.parametrize('name, content', [
    ('a.txt', 'fox\n\nover'), ('a.jsonl', '{"text": "fox"}\n\n{"text": "over"}'),
    ('a.csv', 'text,id\n"fox",1\n"over",2\n'), ('a.fa', '>1\nfox\n>2\nover\n'),
    ('-', 'fox\nover')])
def test_score_reads_what_embed_reads(command, trained, name, content):
    (trained.path / name).write_text(content)
    lines = content if name == '-' else None
    embedded, scored = (command(verb, 'feed', name, *arguments, lines=lines)[1].splitlines()
                        for verb, arguments in (('embed', ['--zeros-for-empty']), ('score', ['--json'])))
    embedded = [(row['line'], row['text']) for row in map(json.loads, embedded) if row['text']]
    assert [text for _, text in embedded] == ['fox', 'over']
    assert [(row['line'], row['text']) for row in map(json.loads, scored[:-1])] == embedded


def test_command_reads_compressed_files(command, trained):
    (trained.path / 'a.txt.gz').write_bytes(gzip.compress(b'the fox\n'))
    (trained.path / 'a.txt').write_bytes(b'the fox\n')
    assert command('score', 'feed', 'a.txt.gz')[1] == command('score', 'feed', 'a.txt')[1] != ''


def test_exported_run_has_the_scores_of_the_run(exports, tmp_path):
    run = labml_mlm.load(shutil.copytree(exports.path / 'logs/test/beef', tmp_path / 'logs/test/beef'))
    export_folder(run, tmp_path / 'folder', python=NO_PYTHON)
    again = labml_mlm.load(tmp_path / 'folder')
    assert [scored.pll for scored in score_texts(again, TEXTS)] == \
        pytest.approx([scored.pll for scored in score_texts(run, TEXTS)], abs=1e-4)
