"""Texts, tokenizers and packing, in configs and in runs."""
import json

import numpy as np
import pytest
import torch
from support.project import assert_clean_failure, values_of

import labml_mlm
from labml_mlm import FillMask, MLMConfigs
from labml_mlm.__main__ import main
from labml_mlm.common.errors import UserError
from labml_mlm.data.packing import PackedDocuments
from labml_mlm.evaluation.evaluate import evaluate
from labml_mlm.tokenization.subword import SubwordTokenizer

WORDS = ['the', 'quick', 'brown', 'fox', 'jumps', 'over', 'the', 'lazy', 'dog']


@pytest.fixture
def folder(tmp_path):
    """Documents of some words each; the longer ones have several windows."""
    path = tmp_path / 'texts'
    path.mkdir()
    for i in range(60):
        (path / f'{i}.txt').write_text(' '.join(WORDS[(i * j) % 9] for j in range(1, 5 + i)) + '\n')
    return path


@pytest.mark.parametrize('kind, size', [('bpe', 300), ('wordpiece', 60), ('basic_english', 30), ('character', None),
                                        ('grapheme', 40), ('unigram', 330), ('pattern', 60)])
def test_runs_with_every_tokenizer(project, folder, kind, size):
    arguments = [f'tokenizer={kind}', f'text_path={folder}', 'transformer.n_layers=1', 'd_model=32',
                 'transformer.n_heads=2', 'epochs=2', 'batch_size=4', 'seq_len=16']
    arguments += ['token_pattern=code'] * (kind == 'pattern') + [f'vocab_size={size}'] * (kind != 'character')
    result = project.run(*arguments)
    assert result.returncode == 0, result.stderr
    [run] = project.runs
    # Its file is in the run and in each checkpoint
    trained = labml_mlm.load(run)
    if kind != 'character':
        for path in (run, *run.glob('checkpoints/*')):
            assert SubwordTokenizer.from_json((path / 'tokenizer.json').read_text()).to_dict() == \
                trained.tokenizer.to_dict()
        assert trained.tokenizer.n_tokens <= size
    assert FillMask(trained)('the [MASK] brown').filled.startswith('the')
    # The loaded model has the validation loss of the run
    loss = values_of(run / 'log.jsonl')['loss.valid'][-1][1]
    assert evaluate(trained, trained.validation_batches()).loss == pytest.approx(loss, rel=1e-5)
    # A second run reads tokenizer and tokens from the disk
    again = project.run(*arguments)
    assert again.returncode == 0 and 'Using the tokens in' in again.stdout, again.stderr


def test_resume_uses_the_tokenizer_of_the_run(project, folder, tmp_path):
    """Though the file of the tokenizer and the token cache are gone."""
    path = tmp_path / 'tokenizer.json'
    assert project.train('tokenizer=bpe', 'vocab_size=280').returncode == 0
    path.write_text((project.runs[0] / 'tokenizer.json').read_text())
    result = project.train('tokenizer=file', f'tokenizer_path={path.name}', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    path.unlink()
    for cached in project.path.glob('data/tokens/*'):
        cached.unlink()
    result = project.run('--resume', 'feed', 'epochs=2')
    assert result.returncode == 0, result.stderr
    assert 'tokenizer' not in result.stderr
    snapshot = json.loads((project.path / 'logs/test/feed/configs.json').read_text())
    assert snapshot['given']['tokenizer_path'] == str(path)


def word_pieces(folder):
    """A folder with a vocabulary alone, as the first BERTs have it. Returns its number of tokens."""
    folder.mkdir()
    pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz']
    pieces += ['the', 'fox', *(f'##{letter}' for letter in pieces[5:])]
    (folder / 'vocab.txt').write_text('\n'.join(pieces) + '\n')
    return len(pieces)


def test_a_folder_with_a_tokenizer(build, tmp_path):
    """With a `tokenizer.json`, or with the files of older releases."""
    n_tokens = word_pieces(tmp_path / 'old')
    old = build(tokenizer='file', tokenizer_path=str(tmp_path / 'old')).tokenizer
    assert old.n_tokens == n_tokens
    assert [old.tokens[i] for i in old.encode('the foxy')] == [' the', ' fox', 'y']
    (tmp_path / 'new').mkdir()
    (tmp_path / 'new/tokenizer.json').write_text(old.files['tokenizer.json'])
    new = build(tokenizer='file', tokenizer_path=str(tmp_path / 'new')).tokenizer
    assert new.to_dict() == old.to_dict()
    of_file = build(tokenizer='file', tokenizer_path=str(tmp_path / 'new/tokenizer.json')).tokenizer
    assert of_file.to_dict() == new.to_dict()
    with pytest.raises(UserError, match='old/vocab.txt is a part of a tokenizer: give the folder that it is in'):
        build(tokenizer='file', tokenizer_path=str(tmp_path / 'old/vocab.txt'))


def test_a_run_with_the_tokenizer_of_a_folder(project):
    n_tokens = word_pieces(project.path / 'old')
    result = project.train('tokenizer=file', 'tokenizer_path=old', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    trained = labml_mlm.load(project.path / 'logs/test/feed')
    assert trained.tokenizer.n_tokens == trained.configs.n_tokens == n_tokens
    (project.path / 'old/vocab.txt').unlink()
    assert project.run('--resume', 'feed', 'epochs=2').returncode == 0


@pytest.mark.parametrize('arguments, message', [
    (['tokenizer=file'], 'tokenizer=file needs a tokenizer.json, or a folder with a tokenizer: tokenizer_path=PATH'),
    (['tokenizer=file', 'tokenizer_path=none.json'], 'tokenizer_path=none.json: there is no such file or folder'),
    (['tokenizer=file', 'tokenizer_path=text.txt'], 'text.txt is not a tokenizer.json: '),
    (['tokenizer=file', 'tokenizer_path=bert-base-uncased'],
     'tokenizer_path=bert-base-uncased: there is no such file or folder. If it is the name of a model at Hugging Face, '
     'download it first, with `hf download bert-base-uncased --local-dir bert-base-uncased`, and give '
     'tokenizer_path=bert-base-uncased'),
    (['tokenizer=file', 'tokenizer_path=https://huggingface.co/a/tokenizer.json'],
     'https://huggingface.co/a/tokenizer.json is an address, and must be a path: download it first'),
    (['tokenizer=file', 'tokenizer_path=.'], 'tokenizer_path=.: the folder has no tokenizer: neither tokenizer.json, '),
    (['text_path=https://example.org/a.txt'],
     'https://example.org/a.txt is an address, and must be a path: download it first'),
    (['text_path=s3://bucket/texts', 'text=folder'], 's3://bucket/texts is an address'),
    (['valid_path=https://example.org/a.txt'], 'https://example.org/a.txt is an address'),
    (['tokenizer=bpe', 'vocab_size=100'], 'vocab_size=100: byte-level BPE has 256 tokens for single bytes'),
    (['tokenizer=bep'], 'Did you mean `bpe`?'),
    (['packing=document'], 'Did you mean `documents`?'),
    (['valid_path=none.txt'], 'none.txt cannot be read: No such file or directory'),
])
def test_invalid_arguments_are_refused(project, arguments, message):
    result = project.train(*arguments)
    assert_clean_failure(result, 2, message)
    assert not (project.path / 'logs').exists()


def test_separate_validation_text(project, folder):
    (project.path / 'valid').mkdir()
    for i in range(3):
        (project.path / f'valid/{i}.md').write_text('over the quick dog 5\n' * 5)
    result = project.train('valid_path=valid', env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    trained = labml_mlm.load(project.path / 'logs/test/feed')
    conf, unk = trained.configs, trained.tokenizer.special.unk
    shown = [trained.tokenizer.decode(tokens.tolist()) for tokens in (conf.train_tokens, conf.valid_tokens)]
    # All of the text is for training, and characters that it lacks are unknown
    assert shown == [project.text.read_text(), ('over the quick dog [UNK]\n' * 5 + '[SEP]') * 3]
    assert unk in conf.valid_tokens
    # A resumed run must have the same validation text
    (project.path / 'valid/0.md').write_text('another')
    result = project.run('--resume', 'feed', 'epochs=2')
    assert_clean_failure(result, 2, 'the validation text is not that of the run')


def test_documents_are_separated_or_packed(build, folder):
    stream = build(text_path=str(folder), batch_size=4)
    sep = stream.tokenizer.special.sep
    assert (stream.train_tokens == sep).sum() == len(stream.train_document_ends)
    assert stream.tokenizer.decode(stream.train_tokens[:stream.train_document_ends[0]].tolist()).endswith('\n[SEP]')
    assert next(iter(stream.train_loader)).shape == (16, 4)
    packed = build(text_path=str(folder), batch_size=4, packing='documents')
    assert torch.equal(packed.train_tokens, stream.train_tokens)
    for loader in (packed.train_loader, packed.valid_loader):
        for batch in loader:
            x, padding_mask, document_ids = batch[:3]
            # A separator is the last token of its document
            ends = (x == sep)[:-1]
            assert (document_ids[:-1][ends] != document_ids[1:][ends]).all()
            assert torch.equal(padding_mask, x == packed.padding_token)


def test_efficiency_of_packed_documents_is_tracked(project, folder):
    result = project.run(f'text_path={folder}', 'packing=documents', 'transformer.n_layers=1', 'd_model=16',
                         'transformer.n_heads=2', 'batch_size=4', 'seq_len=24', 'epochs=2', 'checkpoint_interval=7')
    assert result.returncode == 0, result.stderr
    [run] = project.runs
    values = values_of(run / 'log.jsonl')
    efficiency = [value for _, value in values['efficiency.train']]
    assert all(0 < value <= 1 for value in efficiency)
    trained = labml_mlm.load(run)
    # The global step counts tokens without padding
    conf = trained.configs
    assert values['loss.train'][-1][0] == 2 * len(conf.train_tokens)
    windows = PackedDocuments(conf.train_tokens, conf.train_document_ends, seq_len=24, padding_token=0)
    assert np.mean(efficiency) == pytest.approx(len(conf.train_tokens) / (len(windows) * 24), abs=0.02)
    of_run = values['loss.valid'][-1][1]
    result = evaluate(trained, trained.validation_batches(), is_pseudo=True)
    assert result.loss == pytest.approx(of_run, rel=1e-5)
    assert result.n_tokens == len(conf.valid_tokens) and result.pseudo_perplexity > 1


def test_packed_documents_have_the_losses_of_separate_ones(build, folder):
    conf = build(text_path=str(folder), batch_size=4, packing='documents', seq_len=24)
    batch = next(iter(conf.train_loader))
    masked, labels = conf.mlm(batch.tokens)
    packed = conf.model(masked, labels, padding_mask=batch.padding_mask, document_ids=batch.document_ids)
    loss_sum = n_masked = 0
    for column in range(4):
        for number in range(1, int(batch.document_ids[:, column].max()) + 1):
            is_of_document = batch.document_ids[:, column] == number
            output = conf.model(masked[is_of_document, column][:, None], labels[is_of_document, column][:, None])
            loss_sum, n_masked = loss_sum + output.loss_sum, n_masked + output.n_masked
    assert packed.n_masked == n_masked
    torch.testing.assert_close(packed.loss_sum, loss_sum, rtol=1e-5, atol=1e-4)


def test_tokens_under_the_padding_mask_of_a_custom_loader_change_nothing(build, tracked):
    """A loader may give `(tokens, padding_mask)`."""
    conf = build()
    tokens = torch.randint(5, conf.n_tokens, (16, 8))
    padding_mask = torch.zeros_like(tokens, dtype=torch.bool)
    padding_mask[10:, ::2] = True
    losses = []
    for content in (conf.padding_token, 7):
        with conf.mode.update(is_train=False):
            conf.valid_metrics.on_epoch_start()
            conf.valid_mlm.generator.manual_seed(0)
            conf.step((tokens.masked_fill(padding_mask, content), padding_mask), None)
            losses.append(conf.valid_metrics._outputs[0].loss.item())
    assert losses[0] == losses[1]
    with conf.mode.update(is_train=True):
        conf.step((tokens.masked_fill(padding_mask, conf.padding_token), padding_mask), None)
    assert tracked['efficiency.'] == [(~padding_mask).sum().item() / tokens.numel()]


def test_validation_text_shorter_than_a_window_is_one_window(build):
    conf = build(text=('abc abd ' * 40, 'short'), seq_len=64, batch_size=2)
    [batch] = conf.valid_loader
    assert batch.shape == (min(64, len(conf.valid_tokens)), 1)


def test_custom_tokens_are_packed_by_their_document_ends():
    conf = MLMConfigs()
    conf._set_values({'train_tokens': torch.arange(5, 400), 'valid_tokens': torch.arange(5, 100), 'n_tokens': 400,
                      'train_document_ends': torch.tensor([100, 395]), 'packing': 'documents', 'batch_size': 2,
                      'padding_token': 0})
    assert len(conf.train_loader.windows) == 13


def test_evaluate_reads_a_text_as_the_run_does(project, tmp_path, monkeypatch, capsys):
    """With its field of JSON lines and its packing, of a file and of a folder."""
    path = tmp_path / 'texts'
    path.mkdir()
    texts = (' '.join(WORDS[i % 4:i % 4 + i % 5 + 1]) for i in range(99))
    (path / 'some.jsonl').write_text('\n'.join(json.dumps({'body': text}) for text in texts))
    result = project.train(f'text_path={path}', 'text_field=body', 'packing=documents', 'tokenizer=bpe',
                           'vocab_size=270', 'batch_size=4', f'valid_path={path}')
    assert result.returncode == 0, result.stderr
    assert '99 documents to train on (' in result.stdout
    monkeypatch.chdir(project.path)
    main(['evaluate', 'last', '--json'])
    of_run = json.loads(capsys.readouterr().out)
    for name in (path, path / 'some.jsonl'):
        main(['evaluate', 'last', '--text', str(name), '--json'])
        assert json.loads(capsys.readouterr().out) == of_run


def test_validation_text_without_maskable_tokens_is_refused(project, tmp_path):
    (tmp_path / 'other.txt').write_text('eee')
    result = project.train('valid_path=other.txt', 'no_mask_tokens=[5, 6, 7, 8, 9, 10, 11, 12]')
    assert_clean_failure(result, 2, 'the validation text has no token that can be masked')


def test_text_that_is_mostly_unknown_is_refused(project, tmp_path):
    (tmp_path / 'other.txt').write_text('ÄÖÜ' * 100)
    result = project.train('valid_path=other.txt')
    assert_clean_failure(result, 2, '100% of the text is [UNK] to this tokenizer, such as Ä, Ö, Ü. tokenizer=bpe')
    (tmp_path / 'dna.txt').write_text('ACGTTGCATCAGTT' * 1000)
    for kind, message in [('wordpiece', 'WordPiece knows no word of more than 100 characters, and there is no other'),
                          ('basic_english', 'the text has 1 distinct tokens')]:
        assert_clean_failure(project.train(f'tokenizer={kind}', 'text_path=dna.txt'), 2, message)
    # Nothing is left behind of those that were refused
    assert len([*project.path.glob('data/tokens/*.tokens')]) == 1
    assert not [*project.path.glob('data/tokens/.*.new')]


@pytest.mark.parametrize('given, message', [
    (['tokenizer=unigram', 'token_pattern=code'], 'token_pattern=code is for tokenizer=pattern, bpe or wordpiece, '
                                                  'and this is unigram'),
    (['token_pattern=code'], 'token_pattern=code is for tokenizer=pattern, bpe or wordpiece, and this is character'),
    (['tokenizer=wordpiece', 'max_token_length=5'], 'max_token_length=5 is for tokenizer=bpe or unigram, and this is '
                                                    'wordpiece'),
    (['tokenizer=pattern'], 'tokenizer=pattern needs a token_pattern: a regular expression, or smiles, code or kmer:K'),
    (['tokenizer=pattern', 'token_pattern=('], 'token_pattern=(: it must be smiles, code, kmer:K with a number K')])
def test_items_that_a_tokenizer_does_not_read_are_refused(project, given, message):
    assert_clean_failure(project.train(*given), 2, message)


def test_a_pattern_in_a_class_is_refused_where_nothing_reads_it():
    class Configs(MLMConfigs):
        token_pattern: str = 'code'
    with pytest.raises(UserError, match='token_pattern=code is for tokenizer=pattern, bpe or wordpiece, and this is '
                                        'character'):
        _ = Configs().tokenizer
    # A length that a class sets is a default
    class WithLength(MLMConfigs):
        max_token_length: int = 8
        text = 'to be or not to be'
    assert WithLength().tokenizer.kind == 'character'
