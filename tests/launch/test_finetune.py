"""Fine-tuning from the command line."""
import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.labelled import animal, several, share, texts, write_rows, write_tagged, write_texts
from support.project import SMALL, assert_clean_failure, values_of
from support.published import save

from labml_mlm import MLMConfigs, load
from labml_mlm.common.errors import UserError
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

SCRIPT = 'from labml_mlm import {0}, train\n\ntrain({0}(), name="test")\n'
SIZES = ['transformer.n_layers=1', 'd_model=16', 'transformer.n_heads=2', 'seq_len=64']
# 9 steps in an epoch, the last one of a single row
ROWS = 74
STEPS = ['batch_size=8', 'valid_batch_size=3']
# What a run begins with is what it ends with
STILL = ['optimizer.learning_rate=1e-30', 'optimizer.weight_decay=0', 'max_steps=1']


class FineTuning:
    """Runs of fine-tuning in a project."""

    def __init__(self, project):
        self.project = project
        self.path = project.path
        self.rows = write_texts(self.path / 'rows.jsonl', ROWS + 7)
        self.use('ClassificationConfigs')

    def use(self, configs):
        self.project.script.write_text(SCRIPT.format(configs))

    def run(self, name, *arguments, path=None):
        """Trains a run to its end. Returns how it ended."""
        given = [f'text_path={path or self.rows}', *STEPS, 'seq_len=64', *arguments]
        if not any(argument.startswith(('init_from=', 'd_model=')) for argument in arguments):
            given = [*SIZES, *given]
        result = self.project.run(*given, env={'RUN_UUID': name})
        assert (result.returncode, result.stderr) == (0, ''), result.stderr
        return result

    def pre_train(self, name, *arguments):
        """Pre-trains a run on the same words."""
        self.use('MLMConfigs')
        (self.path / 'texts.txt').write_text('\n'.join(text + '\n' * (i % 5 == 0) for i, text in enumerate(texts(300))))
        result = self.project.run('text_path=texts.txt', *SMALL, 'n_prompts=0', *arguments, env={'RUN_UUID': name})
        assert result.returncode == 0, result.stderr
        self.use('ClassificationConfigs')
        return result

    def folder(self, name):
        return self.path / f'logs/test/{name}'

    def metrics(self, name):
        """Those of a run, without its speed."""
        values = values_of(self.folder(name) / 'log.jsonl')
        del values['tokens_per_second']
        return values

    def weights(self, name):
        """Those of the last checkpoint."""
        return CheckpointFolder(self.folder(name) / 'checkpoints').last()[0].load_tensors('model')

    def computed(self, name):
        snapshot = json.loads((self.folder(name) / 'configs.json').read_text())
        return {**snapshot['given'], **snapshot['computed']}


@pytest.fixture
def tuning(project):
    return FineTuning(project)


@pytest.mark.parametrize('configs, write, tracked', [
    ('ClassificationConfigs', lambda path: write_texts(path / 'a.jsonl', 80, animal),
     ['accuracy.train', 'accuracy.valid', 'f1_macro.valid', 'matthews.valid']),
    ('ClassificationConfigs', lambda path: write_texts(path / 'a.jsonl', 80, several),
     ['accuracy.train', 'accuracy.valid', 'f1_macro.valid', 'f1_micro.valid']),
    ('ClassificationConfigs', lambda path: write_texts(path / 'a.jsonl', 80, share),
     ['pearson.valid', 'rmse.valid', 'spearman.valid']),
    ('TaggingConfigs', lambda path: write_tagged(path / 'a.conll', 80),
     ['accuracy.train', 'accuracy.valid', 'entity_f1.valid', 'f1_macro.valid'])])
def test_run_with_defaults_has_all_metrics(tuning, configs, write, tracked):
    tuning.use(configs)
    result = tuning.project.run(f'text_path={write(tuning.path)}', *SIZES, env={'RUN_UUID': 'feed'})
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    metrics = tuning.metrics('feed')
    assert sorted(metrics) == sorted(['loss.train', 'loss.valid', 'lr', *tracked])
    # 72 rows are 3 batches of 32: 20 epochs
    assert len(metrics['loss.train']) == 60 and len(metrics['loss.valid']) == 20
    assert '72 texts to train on, 8 for validation; ' in result.stdout
    assert 'Validation loss' in result.stdout.splitlines()[-5]
    valid = CheckpointFolder(tuning.folder('feed') / 'checkpoints').best().valid
    assert {name.removesuffix('.valid') for name in tracked if name.endswith('valid')} <= set(valid)


def test_task_that_is_found_is_said_once(tuning):
    out = tuning.run('feed', 'epochs=1').stdout
    assert out.count('task=classification: labels are names\n') == 1
    assert "labels: 'fox', 'none'\n" in out


def test_what_is_left_out_is_said(tuning):
    rows = [{'text': text, 'label': animal(text)} for text in [*texts(80), '', ' ', '\t']]
    valid = [{'text': text, 'label': animal(text)} for text in [*texts(85)[78:], 'a fox that nobody knows ' * 4, ' ']]
    out = tuning.run('feed', 'epochs=1', 'seq_len=40', f'valid_path={write_rows(tuning.path / "v.jsonl", valid)}',
                     path=write_rows(tuning.path / 'a.jsonl', rows)).stdout
    n_cut = sum(len(text) > 40 for text in texts(80))
    assert 'text_path: 3 rows without text are left out\n' in out
    assert f'text_path: {n_cut} of 80 texts are longer than 40 tokens, and are cut at their end\n' in out
    assert 'valid_path: 1 rows without text are left out\n' in out
    assert 'of 8 texts are longer than 40 tokens' in out
    assert '2 of the texts of valid_path are in text_path, too\n' in out


def test_killed_run_resumes_with_the_same_metrics(tuning):
    options = ['epochs=30', 'checkpoint_interval=5', 'inner_iterations=2', 'transformer.dropout=0.1']
    tuning.run('whole', *options)
    folder = tuning.folder('feed')
    for _ in range(3):
        pid = tuning.project.fork(f'text_path={tuning.rows}', *STEPS, *SIZES, *options, env={'RUN_UUID': 'feed'})
        tuning.project.until(lambda: list(folder.glob('checkpoints/[0-9]*')))
        os.kill(pid, signal.SIGKILL)
        if tuning.project.wait().returncode:
            break
        # On a busy machine it may come too late
        shutil.rmtree(folder)
    progress = CheckpointFolder(folder / 'checkpoints').last()[0].metadata['progress']
    assert progress['steps'] < 30 * 10
    result = tuning.project.run('--resume', 'feed')
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert tuning.metrics('feed') == tuning.metrics('whole')


def test_run_resumes_within_an_epoch(tuning):
    """From a checkpoint that is no end of one."""
    tuning.run('whole', 'epochs=3', 'checkpoint_interval=4', 'keep_checkpoints=99')
    folder = CheckpointFolder(tuning.folder('whole') / 'checkpoints')
    # Epochs end at 9, 18 and 27. On a slow disk a checkpoint is left out, never the first
    inside = [path for path in folder.steps().values()
              if json.loads((path / 'checkpoint.json').read_text())['progress']['steps'] % 9][-1]
    whole = tuning.metrics('whole')
    result = tuning.project.run('--resume', str(inside))
    assert result.returncode == 0, result.stderr
    assert tuning.metrics('whole') == whole


@pytest.mark.parametrize('is_from_a_run', [False, True])
def test_run_whose_rows_have_changed_is_not_resumed(tuning, is_from_a_run):
    init_from = []
    if is_from_a_run:
        tuning.pre_train('first')
        init_from = ['init_from=first']
    valid = write_texts(tuning.path / 'valid.jsonl', 9)
    tuning.run('split', 'epochs=1', *init_from)
    tuning.run('beside', 'epochs=1', f'valid_path={valid}', *init_from)
    for path, name in ((tuning.rows, 'split'), (valid, 'beside')):
        before = path.read_text()
        rows = [json.loads(line) for line in before.splitlines()]
        # Labels alone, and all other rows are the same
        rows[3]['label'] = {'fox': 'none', 'none': 'fox'}[rows[3]['label']]
        write_rows(path, rows)
        result = tuning.project.run('--resume', name, 'epochs=2')
        assert (result.returncode, result.stderr.count('\n')) == (2, 1), result.stderr
        assert 'not the text of the run' in result.stderr or 'validation text is not that of the run' in result.stderr
        path.write_text(before)
    # Nor does it need what it went on from
    shutil.rmtree(tuning.folder('first'), ignore_errors=True)
    result = tuning.project.run('--resume', 'split', 'epochs=2')
    assert result.returncode == 0, result.stderr


def test_patience_ends_the_run_and_the_resumed_one(tuning):
    still = ['optimizer.learning_rate=1e-30', 'patience=2']
    out = tuning.run('feed', 'epochs=20', *still).stdout
    assert 'No better for 2 validations: patience=2' in out
    assert len(tuning.metrics('feed')['loss.valid']) == 3
    result = tuning.project.run('--resume', 'feed')
    assert result.returncode == 0 and len(tuning.metrics('feed')['loss.valid']) == 3
    # A run that was stopped goes on counting
    tuning.run('next', 'epochs=2', 'lr_schedule=constant', *still)
    result = tuning.project.run('--resume', 'next', 'epochs=20')
    assert 'No better for 2 validations: patience=2' in result.stdout, result.stderr
    assert len(tuning.metrics('next')['loss.valid']) == 3


@pytest.mark.parametrize('tokenizer', ['character', 'bpe'])
def test_encoder_of_a_run_is_taken_over_with_its_tokenizer(tuning, tokenizer):
    tuning.pre_train('first', f'tokenizer={tokenizer}', *['vocab_size=300'] * (tokenizer == 'bpe'))
    out = tuning.run('feed', 'init_from=first', *STILL).stdout
    assert 'Going on from ' in out and 'no head' not in out and 'Its head' not in out and 'Not used' not in out
    first, began = load('first', folder=tuning.path), tuning.weights('feed')
    encoder = {name: weight for name, weight in first.model.state_dict().items() if not name.startswith('generator.')}
    assert len(encoder) > 10 and {name for name in began if not name.startswith('generator.')} == set(encoder)
    for name, weight in encoder.items():
        torch.testing.assert_close(began[name], weight, rtol=0, atol=1e-6)
    assert load('feed', folder=tuning.path).tokenizer.to_dict() == first.tokenizer.to_dict()
    assert max(rate for _, rate in tuning.metrics('feed')['lr']) == 1e-30
    tuning.run('other', 'init_from=first', 'max_steps=20')
    assert max(rate for _, rate in tuning.metrics('other')['lr']) == pytest.approx(3e-4)


def test_published_encoder_is_taken_over_with_its_pooler(tuning):
    folder = save(tuning.path / 'tiny', has_pooler=True)
    out = tuning.run('feed', 'init_from=tiny', 'pooling=cls', 'seq_len=32', *STILL).stdout
    assert 'Going on from tiny, bert\n' in out and 'Not used' not in out
    theirs, began = load_file(folder / 'model.safetensors'), tuning.weights('feed')
    for ours, name in (('generator.pooler.weight', 'bert.pooler.dense.weight'),
                       ('src_embed.tokens.weight', 'bert.embeddings.word_embeddings.weight')):
        torch.testing.assert_close(began[ours], theirs[name], rtol=0, atol=1e-6)
    assert tuning.computed('feed')['add_special_tokens'] is True
    tuning.run('mean', 'init_from=tiny', 'max_steps=20', 'seq_len=by_model')
    assert tuning.computed('mean')['seq_len'] == 32
    assert max(rate for _, rate in tuning.metrics('mean')['lr']) == pytest.approx(3e-4)
    assert not any('pooler' in name for name in tuning.weights('mean'))


def test_pooler_of_pairs_is_taken_over(tuning):
    """Whatever the transformer."""
    tuning.pre_train('first', 'sentence_pairs=nsp', 'sentence_rule=line', 'text_unit=paragraph', 'seq_len=32')
    trained = load('first', folder=tuning.path).model
    out = tuning.run('feed', 'init_from=first', 'pooling=cls', *STILL).stdout
    assert 'Not used' not in out
    torch.testing.assert_close(tuning.weights('feed')['generator.pooler.weight'], trained.pooler.weight, rtol=0,
                               atol=1e-6)
    out = tuning.run('mean', 'init_from=first', *STILL).stdout
    assert 'Not used' not in out and not any('pooler' in name for name in tuning.weights('mean'))


def test_head_of_a_published_classifier_is_not_used_and_that_is_said(tuning):
    folder = save(tuning.path / 'tiny')
    weights = load_file(folder / 'model.safetensors')
    weights = {name: weight for name, weight in weights.items() if not name.startswith('cls.')}
    weights |= {'classifier.weight': torch.ones(2, 16), 'classifier.bias': torch.ones(2)}
    save_file(weights, folder / 'model.safetensors')
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({
        **config, 'architectures': ['BertForSequenceClassification'], 'id2label': {'0': 'fox', '1': 'none'}}))
    out = tuning.run('feed', 'init_from=tiny', 'seq_len=32', *STILL).stdout
    assert out.count('Not used: classifier.bias, classifier.weight\n') == 1
    assert not tuning.weights('feed')['generator.output.weight'].eq(1).any()


def test_fine_tuned_run_is_gone_on_with(tuning):
    tuning.run('first', 'epochs=2', 'optimizer.learning_rate=0.01')
    out = tuning.run('same', 'init_from=first', *STILL).stdout
    assert "Its head, for 'fox', 'none', is trained further\n" in out
    best = CheckpointFolder(tuning.folder('first') / 'checkpoints').best()
    began = tuning.weights('same')
    for name, weight in best.load_tensors('model').items():
        torch.testing.assert_close(began[name], weight, rtol=0, atol=1e-6)
    assert tuning.metrics('same')['accuracy.valid'][-1][1] == best.valid['accuracy']

    other = write_texts(tuning.path / 'other.jsonl', 60, several)
    out = tuning.run('other', 'init_from=first', *STILL, path=other).stdout
    assert "Its head is for 'fox', 'none': a new one is trained\n" in out
    assert tuning.weights('other')['generator.output.weight'].shape == (3, 16)
    torch.testing.assert_close(tuning.weights('other')['src_embed.weight'], began['src_embed.weight'])
    tuning.use('TaggingConfigs')
    out = tuning.run('tags', 'init_from=first', *STILL, path=write_tagged(tuning.path / 'a.conll', 60)).stdout
    assert "Its head is for 'fox', 'none': a new one is trained\n" in out


def test_head_on_a_pooler_is_gone_on_with(tuning):
    save(tuning.path / 'tiny', has_pooler=True, has_next_sentence=True)
    tuning.run('first', 'init_from=tiny', 'pooling=cls', 'seq_len=32', 'epochs=1', 'optimizer.learning_rate=0.01')
    trained = tuning.weights('first')
    out = tuning.run('same', 'init_from=first', 'pooling=cls', 'seq_len=32', *STILL).stdout
    assert "Its head, for 'fox', 'none', is trained further\n" in out
    other = write_texts(tuning.path / 'other.jsonl', 60, share)
    tuning.run('other', 'init_from=first', 'pooling=cls', 'seq_len=32', *STILL, path=other)
    # The pooler without the labels
    for name in ('same', 'other'):
        torch.testing.assert_close(tuning.weights(name)['generator.pooler.weight'], trained['generator.pooler.weight'],
                                   rtol=0, atol=1e-6)
    out = tuning.run('mean', 'init_from=first', 'seq_len=32', *STILL).stdout
    assert 'Its head is for another pooling: a new one is trained\n' in out
    tuning.run('again', 'init_from=mean', 'pooling=cls', 'seq_len=32', *STILL)


@pytest.mark.parametrize('source', ['run', 'folder'])
def test_pre_training_goes_on_from_a_fine_tuned_run(tuning, source):
    if source == 'run':
        tuning.pre_train('zero')
        init_from = 'init_from=zero'
    else:
        save(tuning.path / 'tiny', has_pooler=True)
        init_from = 'init_from=tiny'
    tuning.run('first', init_from, 'epochs=1', 'seq_len=32')
    tuning.use('MLMConfigs')
    result = tuning.project.run('text_path=rows.jsonl', 'init_from=first', 'seq_len=16', 'batch_size=8', 'n_prompts=0',
                                'epochs=3', 'lr_warmup_steps=0', env={'RUN_UUID': 'mlm'})
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert result.stdout.count('It has no head for masked language modelling: a new one is trained\n') == 1
    losses = [loss for _, loss in tuning.metrics('mlm')['loss.train']]
    assert losses[-1] < losses[0]


def long(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.long)


@pytest.mark.parametrize('label, parallel', [
    (animal, 'ddp'), (None, 'fsdp'), long(animal, 'fsdp'), long(None, 'ddp'), long(share, 'ddp'), long(share, 'fsdp'),
    long(several, 'ddp')])
def test_ranks_take_the_steps_of_a_single_process(tuning, label, parallel):
    """Also where a batch has fewer rows than there are ranks."""
    options = ['epochs=2', 'head_dropout=0', 'metric=loss', *['class_weights=balanced'] * (label is not share)]
    rows = write_texts(tuning.path / 'a.jsonl', ROWS + 7, label) if label else \
        write_tagged(tuning.path / 'a.conll', ROWS + 7)
    tuning.use('ClassificationConfigs' if label else 'TaggingConfigs')
    tuning.run('one', *options, 'gradient_accumulation_steps=2', path=rows)
    job = tuning.project.ranks(2, f'text_path={rows}', *STEPS, *SIZES, *options, f'parallel={parallel}',
                               env={'RUN_UUID': 'two'})
    main, other = job.wait(120)
    assert (main.returncode, other.returncode, other.stdout) == (0, 0, ''), (main.stderr, other.stderr)
    one, two = tuning.metrics('one'), tuning.metrics('two')
    assert one.keys() == two.keys()
    for name in one:
        assert [step for step, _ in one[name]] == [step for step, _ in two[name]], name
        differences = [abs(a - b) for (_, a), (_, b) in zip(one[name], two[name], strict=True)]
        # Ratings are up to 12
        assert max(differences) <= (1e-5 if name == 'rmse.valid' else 2e-6), name


def test_ranks_with_other_rows_are_refused(tuning):
    rows = [json.loads(line) for line in tuning.rows.read_text().splitlines()]
    rows[5]['label'] = {'fox': 'none', 'none': 'fox'}[rows[5]['label']]
    other = write_rows(tuning.path / 'other.jsonl', rows)
    # The same name, as on another machine
    tuning.project.script.write_text(
        'import os\nfrom labml_mlm import ClassificationConfigs, train\n'
        'from labml_mlm.finetuning import classification\n\nread = classification.read_rows\n'
        f'other = ["{tuning.rows}", "{other}"][int(os.environ["RANK"])]\n'
        'classification.read_rows = lambda path, **how: read(other, **how)\n'
        'train(ClassificationConfigs(), name="test")\n')
    main, rank = tuning.project.ranks(2, f'text_path={tuning.rows}', *STEPS, *SIZES).wait(60)
    assert (main.returncode, rank.returncode) == (2, 2), main.stderr
    assert 'all ranks must be started alike' in main.stderr and 'Traceback' not in main.stderr + rank.stderr
    assert tuning.project.runs == []


@pytest.mark.parametrize('content, arguments, message', [
    ('{"text": "a", "label": "x"}\n{"text": "b"}\n', [], "line 2 has no field `label` (label_field): its fields are"),
    ('{"text": "a", "label": "x"}\n' * 30, [], "have the same label, 'x': there is nothing to learn"),
    ('{"text": "", "label": "x"}\n' * 9, [], 'has no rows with text: in all 9 of them, it is empty'),
    ('', [], 'rows.jsonl is empty'),
    ('no json\n', [], 'line 1 is not JSON'),
    ('{"text": "a", "label": 1.5}\n{"text": "b", "label": NaN}\n', [], 'line 2 has no label'),
    (None, ['masking_prob=0.3'], '`masking_prob'), (None, ['packing=documents'], '`packing'),
    (None, ['sentence_pairs=nsp'], '`sentence_pairs'), (None, ['sentence_rule=line'], '`sentence_rule'),
    (None, ['compile=true'], 'compile'), (None, ['prompt=a'], 'prompt'),
    (None, ['metric=f1'], 'metric=f1: for these labels it must be accuracy, f1_macro, matthews or loss'),
    (None, ['class_weights=balanced', 'label_field=n'], 'class_weights=balanced is for labels, and these are numbers'),
    (None, ['text_path=.'], 'it is a folder, and must be a file'),
    (None, ['text_path=missing.csv'], 'No such file'),
    (None, ['text_path=text.txt'], 'a file with labels ends in .csv, .json, .jsonl or .tsv'),
    (None, ['valid_path=missing.csv'], 'No such file'),
    (None, ['valid_path=unknown.jsonl'], "has labels that were not there in training: 'cat' (line 1)"),
    (None, ['pair_field=second'], 'has no field `second` (pair_field)'),
    (None, ['tokenizer=bpe', 'init_from=nothing'], 'init_from=nothing: there is no such folder'),
])
def test_bad_input_is_one_message_before_training(tuning, content, arguments, message):
    write_rows(tuning.path / 'unknown.jsonl', [{'text': 'the cat', 'label': 'cat'}])
    if content is None:
        write_rows(tuning.rows, [{'text': text, 'label': animal(text), 'n': share(text)} for text in texts(50)])
    else:
        tuning.rows.write_text(content)
    result = tuning.project.run(f'text_path={tuning.rows}', *SIZES, *arguments)
    assert_clean_failure(result, 2, message)
    assert tuning.project.runs == []


def test_tables_are_read_and_uneven_ones_refused(tuning):
    table = tuning.path / 'a.csv'
    table.write_text('label,text\n' + ''.join(f'{animal(text)},"{text}, he said"\n' for text in texts(40)))
    tuning.run('feed', 'epochs=1', path=table)
    assert load('feed', folder=tuning.path).labels == ('fox', 'none')
    table.write_text(table.read_text() + 'fox,two,three\n')
    result = tuning.project.run(f'text_path={table}', *SIZES)
    assert_clean_failure(result, 2, "line 42 has 3 columns, and the header has 2: 'label', 'text'")


def test_configs_of_another_objective_are_refused(tuning):
    tuning.run('feed', 'epochs=1')
    with pytest.raises(UserError, match='it was trained for classification, and the configs are for mlm'):
        load('feed', folder=tuning.path, configs=MLMConfigs())
