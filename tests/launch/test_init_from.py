"""Runs that go on from a published encoder or from a run, from the command line."""
import json
import shutil

import pytest
import torch
from support.hugging_face import run_hugging_face
from support.project import assert_clean_failure, outcome, values_of
from support.published import save, word_pieces, write_json

from labml_mlm import FillMask, load
from labml_mlm.runs.checkpoint import read
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

# 40 steps of windows with [CLS] and [SEP], and two validations
GO_ON = ['init_from=tiny', 'epochs=2', 'batch_size=16', 'seq_len=16', 'n_prompts=1', 'checkpoint_interval=10']
# As good as no training: what a run begins with is what it ends with
STILL = ['optimizer.learning_rate=1e-30', 'optimizer.weight_decay=0', 'max_steps=1']


@pytest.fixture
def tiny(project):
    return save(project.path / 'tiny')


def losses(project, name):
    values = values_of(project.path / f'logs/test/{name}/log.jsonl')
    return {key: values[key] for key in ('loss.train', 'loss.valid', 'accuracy.valid', 'lr')}


def weights(project, name):
    """Those of the last checkpoint of a run."""
    checkpoint, _ = CheckpointFolder(project.path / f'logs/test/{name}/checkpoints').last()
    return checkpoint.load_tensors('model')


def go_on(project, name, *arguments):
    # Only one of them says how long the run is
    length = {'epochs=2'} if any(argument.startswith('max_steps=') for argument in arguments) else set()
    given = [argument for argument in GO_ON if argument not in length]
    result = project.run(f'text_path={project.text}', *given, *arguments, env={'RUN_UUID': name})
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    return result


def test_run_goes_on_from_a_folder(project, tiny):
    result = go_on(project, 'feed', 'optimizer.learning_rate=0.01')
    assert 'Going on from tiny, bert\n' in result.stdout
    assert 'no head' not in result.stdout and 'Not used' not in result.stdout
    values = losses(project, 'feed')
    assert values['loss.valid'][-1][1] < values['loss.train'][0][1] - 0.3
    snapshot = json.loads((project.path / 'logs/test/feed/configs.json').read_text())
    given = snapshot['given']
    assert (given['transformer'], given['transformer.n_layers'], given['d_model']) == ('bert', 2, 16)
    assert given['init_from'] == str(tiny)
    assert snapshot['computed']['add_special_tokens'] is True
    # The prompts show no special tokens, and the tokenizer is the run's from here on
    assert '[CLS]' not in result.stdout
    assert (project.path / 'logs/test/feed/tokenizer.json').exists()


def test_run_begins_with_the_weights_of_the_folder(project, tiny):
    go_on(project, 'feed', *STILL)
    expected = load(tiny, device='cpu').model.state_dict()
    began = weights(project, 'feed')
    for name, weight in expected.items():
        if name in began:
            torch.testing.assert_close(began[name], weight, rtol=0, atol=1e-6)


def test_head_that_is_missing_is_told_in_one_line(project):
    save(project.path / 'tiny', has_head=False)
    lines = go_on(project, 'feed', *STILL).stdout.splitlines()
    assert lines.count('It has no head for masked language modelling: a new one is trained') == 1
    assert lines.count('Going on from tiny, bert') == 1


def test_items_of_its_transformer_may_be_given(project, tiny):
    go_on(project, 'feed', *STILL, 'transformer.attn_dropout=0.3')
    given = json.loads((project.path / 'logs/test/feed/configs.json').read_text())['given']
    assert given['transformer.attn_dropout'] == 0.3


@pytest.mark.parametrize('has_init_from', [False, True])
def test_stopped_run_resumes_with_the_same_losses_without_the_folder(project, tiny, has_init_from):
    go_on(project, 'whole')
    # The first of two epochs of the same schedule
    go_on(project, 'feed', 'lr_schedule=constant', 'epochs=1')
    go_on(project, 'constant', 'lr_schedule=constant')
    shutil.rmtree(tiny)
    again = ['init_from=tiny'] if has_init_from else []
    result = project.run('--resume', 'feed', 'epochs=2', *again)
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert 'Going on from' not in result.stdout
    assert losses(project, 'feed') == losses(project, 'constant') != losses(project, 'whole')


def test_resumed_run_cannot_go_on_from_something_else(project, tiny):
    go_on(project, 'feed', *STILL)
    result = project.run('--resume', 'feed', 'init_from=other')
    assert_clean_failure(result, 2, f'in this run it is {tiny}, and cannot change')


def test_losses_do_not_depend_on_the_number_of_ranks(project, tiny):
    # Ranks draw dropout for themselves
    options = ['transformer.dropout=0', 'transformer.attn_dropout=0']
    go_on(project, 'one', *options, 'gradient_accumulation_steps=2')
    main, other = project.ranks(2, f'text_path={project.text}', *GO_ON, *options, env={'RUN_UUID': 'two'}).wait(120)
    assert (main.returncode, other.returncode, other.stdout) == (0, 0, ''), (main.stderr, other.stderr)
    assert main.stdout.count('Going on from') == 1
    one, two = losses(project, 'one'), losses(project, 'two')
    for name in one:
        assert [step for step, _ in one[name]] == [step for step, _ in two[name]]
        assert max(abs(a - b) for (_, a), (_, b) in zip(one[name], two[name], strict=True)) <= 2e-6, name


@pytest.mark.parametrize('tokenizer', ['character', 'bpe'])
def test_run_goes_on_from_a_run(project, tokenizer):
    other = project.path / 'other.txt'
    other.write_text('my lazy dog jumps over your quick brown fox, and the quick brown fox over my dog\n' * 80)
    first = project.train(f'tokenizer={tokenizer}', *['vocab_size=300'] * (tokenizer == 'bpe'), 'epochs=3',
                          'n_prompts=0', env={'RUN_UUID': 'first'})
    assert first.returncode == 0, first.stderr
    # On its own text it begins where the run was best
    source = CheckpointFolder(project.path / 'logs/test/first/checkpoints').best()
    same = project.run(f'text_path={project.text}', 'init_from=first', 'batch_size=16', 'seq_len=16', *STILL,
                       env={'RUN_UUID': 'same'})
    assert (same.returncode, same.stderr) == (0, ''), same.stderr
    assert f'Going on from {source.path}, the best by validation loss' in same.stdout
    assert losses(project, 'same')['loss.valid'][-1][1] == pytest.approx(source.valid['loss'], abs=2e-6)
    assert source.load_tensors('model').keys() == weights(project, 'same').keys()
    for name, weight in source.load_tensors('model').items():
        assert torch.equal(weight, weights(project, 'same')[name]), name

    # And on another one, with another schedule, with the tokens of the run
    result = project.run(f'text_path={other}', 'init_from=first', 'batch_size=8', 'seq_len=16', 'epochs=1',
                         'lr_schedule=constant', env={'RUN_UUID': 'next'})
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    snapshots = [json.loads((project.path / f'logs/test/{name}/configs.json').read_text()) for name in
                 ('first', 'next')]
    assert snapshots[0]['tokenizer'] == snapshots[1]['tokenizer']
    assert snapshots[1]['given']['init_from'] == str(source.path)
    # Its name, its folder and its uuid are the same on resume
    for name in ('first', 'fir', 'logs/test/first', str(source.path)):
        resumed = project.run('--resume', 'next', f'init_from={name}', 'epochs=1')
        assert resumed.returncode == 0, resumed.stderr
    assert_clean_failure(project.run('--resume', 'next', 'init_from=same'), 2, 'cannot change')


def test_checkpoint_that_is_named_is_taken(project):
    assert project.train('checkpoint_interval=10', 'keep_checkpoints=9', env={'RUN_UUID': 'first'}).returncode == 0
    checkpoints = CheckpointFolder(project.path / 'logs/test/first/checkpoints')
    step, path = next(iter(checkpoints.steps().items()))
    result = project.run(f'text_path={project.text}', f'init_from={path}', 'batch_size=16', 'seq_len=16', *STILL,
                         env={'RUN_UUID': 'next'})
    assert result.returncode == 0, result.stderr
    assert f'Going on from {path}\n' in result.stdout
    before = weights(project, 'next')
    assert all(torch.equal(weight, before[name]) for name, weight in read(path).load_tensors('model').items())


OWN_MODEL = '''
from labml.configs import option
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    pass


@option(Configs.model, 'own')
def _model(c: Configs):
    return c.transformer.transformer_mlm


train(Configs(), name='test')
'''


@pytest.mark.parametrize('arguments, message', [
    (['d_model=32'], '`d_model=32` contradicts the weights of tiny: there it is 16'),
    (['transformer.activation=relu'], '`transformer.activation=relu` contradicts the weights of tiny'),
    (['seq_len=64'], 'seq_len=64 is longer than the 32 positions of tiny'),
    (['seq_len=2'], 'seq_len=2 leaves no room for text'),
    (['model=own'], 'init_from sets the weights of the built-in `model`, and yours would ignore it'),
    (['init_from=nothing'], 'there is no run nothing'),
    (['init_from=logs'], 'init_from=logs: the folder is neither'),
])
def test_what_cannot_work_is_refused_before_anything_is_written(project, tiny, arguments, message):
    (project.path / 'logs').mkdir()
    project.script.write_text(OWN_MODEL)
    result = project.run(f'text_path={project.text}', *GO_ON, *arguments)
    assert_clean_failure(result, 2, message)
    assert project.runs == []


def test_damaged_folder_is_refused_on_every_rank(project, tiny):
    path = tiny / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    results = project.ranks(2, f'text_path={project.text}', *GO_ON).wait(60)
    assert [result.returncode for result in results] == [2, 2]
    assert_clean_failure(results[0], 2, 'model.safetensors is damaged')
    assert project.runs == []


HUGGING_FACE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline

folder = Path(sys.argv[1])
texts = ['the fox jumps over the lazy dog', 'a quick cat']
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(texts, padding=True, return_tensors='pt')
with torch.no_grad():
    hidden = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
weight = batch['attention_mask'][..., None].float()
fill = pipeline('fill-mask', model=AutoModelForMaskedLM.from_pretrained(folder), tokenizer=tokenizer)
found = fill('the quick [MASK] fox jumps', top_k=5, targets=None)
(folder / 'said.json').write_text(json.dumps({
    'mean': ((hidden * weight).sum(1) / weight.sum(1)).tolist(),
    'predictions': [[one['token_str'], one['score']] for one in found]}))
"""


@pytest.mark.usefixtures('needs_transformers')
def test_commands_on_a_folder_say_what_transformers_does(tmp_path, capsys):
    folder = save(tmp_path / 'tiny')
    write_json(folder / 'tokenizer_config.json', {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'pad_token': '[PAD]', 'mask_token': '[MASK]',
        'unk_token': '[UNK]', 'cls_token': '[CLS]', 'sep_token': '[SEP]'})
    run_hugging_face(HUGGING_FACE, folder)
    theirs = json.loads((folder / 'said.json').read_text())
    features = load(folder, device='cpu').encode(['the fox jumps over the lazy dog', 'a quick cat'])
    torch.testing.assert_close(features, torch.tensor(theirs['mean']), rtol=1e-5, atol=1e-5)
    code, out, err = outcome(capsys, 'fill-mask', str(folder), 'the quick [MASK] fox jumps', '--json', '--top', '20')
    assert code == 0, err
    assert f'Using {folder}, bert' in err
    [mask] = json.loads(out)['masks']
    # Ours are without special tokens, and without the marks of pieces
    compared = [(token.removeprefix('##'), score) for token, score in theirs['predictions'] if token[0] != '[']
    assert len(compared) > 2
    assert [one['token'].strip() for one in mask[:len(compared)]] == [token for token, _ in compared]
    for (_, score), one in zip(compared, mask, strict=False):
        assert one['probability'] / mask[0]['probability'] == pytest.approx(score / compared[0][1], rel=1e-4)


def test_commands_on_a_folder_without_a_head_are_refused_but_encode(tmp_path, capsys):
    folder = save(tmp_path / 'alone', has_head=False)
    (tmp_path / 'text').write_text('the quick brown fox jumps over the lazy dog\n' * 20)
    for arguments in (['fill-mask', str(folder), 'the [MASK] fox'],
                      ['evaluate', str(folder), '--text', str(tmp_path / 'text')]):
        code, out, err = outcome(capsys, *arguments)
        assert (code, out) == (2, '')
        assert f'{folder}, bert has no head for masked language modelling, and predicts nothing' in err
    assert load(folder, device='cpu').encode(['the fox']).shape == (1, 16)


def test_evaluate_on_a_folder_needs_a_text(tmp_path, capsys):
    folder = save(tmp_path / 'tiny')
    code, out, err = outcome(capsys, 'evaluate', str(folder))
    assert (code, out) == (2, '')
    assert f'{folder}, bert is no run, and has no validation set. --text FILE evaluates on another text' in err
    (tmp_path / 'text').write_text('the quick brown fox jumps over the lazy dog\n' * 50)
    code, out, err = outcome(capsys, 'evaluate', str(folder), '--text', str(tmp_path / 'text'), '--json')
    assert code == 0, err
    result = json.loads(out)
    assert result['n_tokens'] == 50 * 9 and result['n_unknown'] == 0
    assert result['loss'] > result['unigram_loss']


def test_folder_has_no_checkpoints(tmp_path, capsys):
    folder = save(tmp_path / 'tiny')
    code, out, err = outcome(capsys, 'fill-mask', str(folder), 'the [MASK]', '--checkpoint', 'last')
    assert (code, out) == (2, '')
    assert 'is a published encoder, and has no checkpoint last' in err


def test_other_tokenizer_file_may_be_given(project, tiny):
    word_pieces().save(str(project.path / 'own.json'))
    go_on(project, 'feed', *STILL, 'tokenizer=file', 'tokenizer_path=own.json')
    assert FillMask.load(project.path / 'logs/test/feed', device='cpu')('the [MASK] fox').filled


# Lines are sentences, and the whole text is one document
PAIRS = 'sentence_pairs=sop', 'sentence_rule=line', 'seq_len=24'
HEAD = {f'{name}.{kind}' for name in ('pooler', 'next_sentence') for kind in ('weight', 'bias')}


@pytest.mark.parametrize('items', [{}, {'has_pooler': True}, {'has_pooler': True, 'has_next_sentence': True}])
def test_head_for_pairs_is_trained_on_or_new(project, items):
    folder = save(project.path / 'tiny', **items)
    result = go_on(project, 'feed', *PAIRS, 'max_steps=3')
    assert ('It has no whole head for pairs of sentences' in result.stdout) == (len(items) < 2)
    trained, before = weights(project, 'feed'), load(folder, device='cpu').model.state_dict()
    assert set(trained) >= HEAD
    for name in HEAD & set(before):
        # Three steps away
        assert 0 < (trained[name] - before[name]).abs().max() < 0.01


@pytest.mark.parametrize('transformer, is_kept', [('bert', True), ('mlm', False)])
def test_runs_with_and_without_pairs_go_on_from_each_other(project, transformer, is_kept):
    sizes = ['transformer.n_layers=1', 'd_model=16', 'transformer.n_heads=2', f'transformer={transformer}',
             'tokenizer=wordpiece', 'vocab_size=60']
    start = [f'text_path={project.text}', *GO_ON[2:], 'max_steps=2', *PAIRS]
    for name, more in (('with', [*sizes, *start]), ('without', ['init_from=with', *start[:-3], 'seq_len=24']),
                       ('again', ['init_from=without', *start]), ('on', ['init_from=with', *start, *STILL])):
        result = project.run(*more, env={'RUN_UUID': name})
        assert (result.returncode, result.stderr) == (0, ''), result.stderr
        if name == 'without':
            # BERT's is kept as it is
            assert ('Not used: ' in result.stdout) != is_kept
    found = {name: weights(project, name) for name in ('with', 'without', 'again', 'on')}
    assert set(found['again']) >= HEAD and (set(found['without']) >= HEAD) == is_kept
    for name in HEAD:
        assert torch.equal(found['on'][name], found['with'][name])
        assert not is_kept or torch.equal(found['without'][name], found['with'][name])


def test_evaluation_of_a_run_with_pairs_is_its_validation(project, monkeypatch, capsys):
    save(project.path / 'tiny')
    go_on(project, 'feed', *PAIRS)
    monkeypatch.chdir(project.path)
    code, out, err = outcome(capsys, 'evaluate', 'feed', '--json')
    assert code == 0, err
    said, values = json.loads(out), values_of(project.path / 'logs/test/feed/log.jsonl')
    best = min(range(2), key=lambda i: values['loss.valid'][i][1])
    for ours, theirs in (('loss', 'loss.valid'), ('accuracy', 'accuracy.valid'), ('pairs_loss', 'loss.pairs.valid'),
                         ('pairs_accuracy', 'accuracy.pairs.valid')):
        assert said[ours] == pytest.approx(values[theirs][best][1], rel=1e-5)
