"""Loading, filling in and evaluating, from Python and by the command."""
import gzip
import io
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.project import Project, outcome, values_of
from torch.nn import functional

import labml_mlm
from labml_mlm import FillMask, MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.inference.evaluate import AllWindows, evaluate
from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint_folder import CheckpointFolder, remove

# Enough to know the sentence by heart
LEARN = ['transformer.n_layers=2', 'd_model=32', 'transformer.n_heads=4', 'seq_len=16', 'batch_size=16', 'epochs=16',
         'n_prompts=0', 'lr_warmup_steps=20', 'optimizer.learning_rate=0.01', 'checkpoint_interval=none']


@pytest.fixture(scope='module')
def trained(tmp_path_factory, fork_server) -> Project:
    project = Project(tmp_path_factory.mktemp('trained'), fork_server)
    result = project.run(f'text_path={project.text}', *LEARN, env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    return project


@pytest.fixture(scope='module')
def run(trained) -> Path:
    return trained.path / 'logs/test/feed'


@pytest.fixture(scope='module')
def fill_mask(run) -> FillMask:
    return FillMask.load(run)


@pytest.fixture
def command(trained, monkeypatch, capsys):
    """`labml-mlm` in the project: exit code, output and errors."""
    monkeypatch.chdir(trained.path)

    def run(*arguments, lines=None):
        if lines is not None:
            monkeypatch.setattr(sys, 'stdin', io.StringIO(lines))
        return outcome(capsys, *arguments)
    return run


def assert_refused(result, message):
    code, out, err = result
    assert (code, out) == (2, '')
    assert message in err.splitlines()[-1]
    assert 'Traceback' not in err


def test_obvious_letters_are_filled_in(fill_mask):
    filled = fill_mask('t[MASK]e quick br[MASK]wn fox jum[MASK]s over')
    assert filled.filled == 'the quick brown fox jumps over'
    assert filled.text == 't[MASK]e quick br[MASK]wn fox jum[MASK]s over'
    assert [mask[0].token for mask in filled.masks] == ['h', 'o', 'p']
    for mask in filled.masks:
        assert len(mask) == 5
        probabilities = [prediction.probability for prediction in mask]
        assert probabilities == sorted(probabilities, reverse=True) and 0.5 < sum(probabilities) <= 1 + 1e-6


def test_masks_at_the_ends_and_side_by_side(fill_mask):
    assert fill_mask('[MASK]he lazy do[MASK]').filled == 'the lazy dog'
    assert len(fill_mask('qui[MASK][MASK]').filled) == 5
    assert len(fill_mask('[MASK]').masks) == 1


def test_special_tokens_are_no_answer(fill_mask):
    everything = fill_mask('qu[MASK]ck', top=1000).masks[0]
    vocabulary = fill_mask.pretrained.tokenizer.tokens
    assert sorted(prediction.token for prediction in everything) == sorted(vocabulary[5:])
    assert sum(prediction.probability for prediction in everything) == pytest.approx(1)


def test_many_at_once_are_as_one_by_one(fill_mask, monkeypatch):
    sentence = 'the quick brown fox jumps over the lazy dog\n' * 3
    texts = [sentence[i:i + 2 + i % 37] + '[MASK]' + sentence[i + 3 + i % 37:i + 5 + 3 * (i % 11)] for i in range(60)]
    # Several batches, with padding in them
    monkeypatch.setattr('labml_mlm.inference.load._BATCH_TOKENS', 300)
    together = fill_mask(texts)
    assert [filled.text for filled in together] == texts
    for text, filled in zip(texts, together, strict=True):
        alone = fill_mask(text)
        assert alone.filled == filled.filled
        for one, other in zip(alone.masks, filled.masks, strict=True):
            assert [p.probability for p in one] == pytest.approx([p.probability for p in other], abs=1e-5)


def test_a_prediction_is_that_of_the_model(fill_mask):
    trained = fill_mask.pretrained
    ids = torch.from_numpy(trained.tokenizer.encode('the qui_k')).long()
    ids[7] = 4
    with torch.no_grad():
        logits = trained.model.predict(ids[:, None])[7, 0]
    logits[:5] = -torch.inf
    p, i = logits.softmax(-1).max(-1)
    [best] = fill_mask('the qui[MASK]k', top=1).masks[0]
    assert best.token == trained.tokenizer.tokens[i]
    assert best.probability == pytest.approx(p.item(), rel=1e-4)


@pytest.mark.parametrize('text, message', [
    ('the quick', r"there is no \[MASK\] in 'the quick'"), ('', r"there is no \[MASK\] in ''"),
    ('[mask]', 'there is no'), ('THE [MASK] é', "the model does not know 'E', 'H', 'T', 'é'"),
])
def test_texts_that_cannot_be_filled_in(fill_mask, text, message):
    with pytest.raises(UserError, match=message):
        fill_mask(['the [MASK]', text])


def test_top_0(fill_mask):
    with pytest.raises(UserError, match='top=0: it has to be at least 1'):
        fill_mask('[MASK]', top=0)


def test_no_texts(fill_mask):
    assert fill_mask([]) == []


def test_a_text_longer_than_the_model_allows(trained):
    result = trained.run(f'text_path={trained.text}', 'transformer.n_layers=1', 'd_model=16', 'epochs=1', 'seq_len=16',
                         'batch_size=16', 'n_prompts=0', 'transformer.encoder_attn=sdpa',
                         'transformer.src_embed=learned_pos', env={'RUN_UUID': 'short'})
    assert result.returncode == 0, result.stderr
    fill_mask = FillMask.load(trained.path / 'logs/test/short')
    assert fill_mask('the ' * 1249 + 'qu[MASK]').filled
    with pytest.raises(UserError, match=r'the text has 5,001 tokens, and the model takes 5,000 at most'):
        fill_mask('the ' * 1250 + '[MASK]')


def test_encode(fill_mask):
    trained = fill_mask.pretrained
    texts = ['the quick', 'lazy dog', 'o', 'jumps over the lazy dog']
    tokens = trained.encode(texts, pooling='none')
    assert [features.shape for features in tokens] == [(len(text), 32) for text in texts]
    pooled = trained.encode(texts)
    assert pooled.shape == (4, 32)
    for features, mean, text in zip(tokens, pooled, texts, strict=True):
        ids = torch.from_numpy(trained.tokenizer.encode(text)).long()
        with torch.no_grad():
            alone = trained.model.encode(ids[:, None])[:, 0]
        torch.testing.assert_close(features, alone)
        torch.testing.assert_close(mean, alone.mean(0))
    assert torch.equal(trained.encode('the quick'), trained.encode(['the quick']))
    assert trained.encode([]).shape == (0, 32)
    with pytest.raises(UserError, match="pooling='meen': it is mean or none. Did you mean `mean`?"):
        trained.encode(texts, pooling='meen')
    with pytest.raises(UserError, match='the text is empty'):
        trained.encode(['a', ''])
    with pytest.raises(UserError, match="does not know 'X'"):
        trained.encode('X')


def test_load_leaves_everything_else_as_it_is(run, capsys):
    state = torch.get_rng_state()
    trained = labml_mlm.load(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ('', '')
    assert not trained.model.training
    assert trained.configs.seq_len == 16
    assert trained.configs.transformer.n_layers == 2
    assert MLMConfigs().seq_len == 32


def test_load_needs_no_text(trained, run, tmp_path):
    import shutil
    copied = tmp_path / 'copied'
    shutil.copytree(next(iter(CheckpointFolder(run / 'checkpoints').steps().values())), copied)
    text = trained.text.read_bytes()
    trained.text.unlink()
    try:
        assert FillMask.load(copied)('qu[MASK]ck').filled == 'quick'
    finally:
        trained.text.write_bytes(text)


def test_which_checkpoint(run):
    folders = CheckpointFolder(run / 'checkpoints').steps()
    best, last = CheckpointFolder(run / 'checkpoints').best(), list(folders)[-1]
    assert labml_mlm.load(run).checkpoint.step == best.step
    assert labml_mlm.load(run).about.startswith(f'{best.path}, the best by validation loss: ')
    assert labml_mlm.load(run, which='last').checkpoint.step == last
    assert labml_mlm.load(run, which='last').about == f'{folders[last]}, the last'
    first = list(folders)[0]
    assert labml_mlm.load(run, which=str(first)).checkpoint.step == first
    assert labml_mlm.load(folders[first]).checkpoint.step == first
    assert labml_mlm.load(run, which=first).checkpoint.step == first
    with pytest.raises(UserError, match=f'the run feed has no checkpoint 7: it has .*{last}'):
        labml_mlm.load(run, which='7')


def test_a_damaged_checkpoint_is_passed_over(run, tmp_path):
    import shutil
    copied = tmp_path / 'feed'
    shutil.copytree(run, copied)
    *_, before, last = CheckpointFolder(copied / 'checkpoints').steps().values()
    (last / 'model.safetensors').write_bytes(b'')
    loaded = labml_mlm.load(copied, which='last')
    assert loaded.checkpoint.path == before
    assert re.fullmatch(rf'{before}, the last that is whole: .*/model.safetensors has 0 bytes, .*', loaded.about)
    for path in copied.glob('checkpoints/*/checkpoint.json'):
        path.write_text('{}')
    with pytest.raises(UserError, match='no checkpoint of the run feed can be used: '):
        labml_mlm.load(copied)
    shutil.rmtree(copied / 'checkpoints')
    with pytest.raises(UserError, match='the run feed has no checkpoint yet'):
        labml_mlm.load(copied)


def test_evaluation_of_the_runs_own_text_is_its_validation(command, run):
    code, out, err = command('evaluate', 'feed', '--checkpoint', 'last', '--json')
    assert code == 0, err
    result = json.loads(out)
    values = values_of(run / 'log.jsonl')
    # Summed up in another order
    assert result['loss'] == pytest.approx(values['loss.valid'][-1][1], rel=1e-5)
    assert result['accuracy'] == values['accuracy.valid'][-1][1]
    assert result['perplexity'] == pytest.approx(math.exp(result['loss']))
    # By heart: far better than the shares of letters
    assert result['loss'] < 0.5 < 2 < result['unigram_loss']


def test_evaluation_is_one_sum_over_all_windows(fill_mask):
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
    # The unigram baseline, place by place
    shares = tokens.bincount().double() / len(tokens)
    p = shares[labels[is_masked]]
    assert result.unigram_loss == pytest.approx(-p.log().mean().item())
    assert result.unigram_accuracy == pytest.approx((labels[is_masked] == shares.argmax()).float().mean().item())


def test_pseudo_perplexity_masks_each_token_in_turn(fill_mask):
    trained = fill_mask.pretrained
    tokens = torch.from_numpy(trained.tokenizer.encode('the quick brown dog jumps over')).long()
    batches = list(AllWindows(tokens, seq_len=16, batch_size=2))
    total = 0.
    for batch in batches:
        for window in batch.T:
            for place in range(len(window)):
                masked = window.clone()
                masked[place] = 4
                with torch.no_grad():
                    logits = trained.model.predict(masked[:, None])[place, 0]
                total += logits.log_softmax(-1)[window[place]].item()
    assert evaluate(trained, batches, is_pseudo=True).pseudo_perplexity == \
        pytest.approx(math.exp(-total / len(tokens)), rel=1e-4)


def test_padding_is_not_evaluated(fill_mask, monkeypatch):
    trained = fill_mask.pretrained
    ids = torch.from_numpy(trained.tokenizer.encode('the quick')).long()[:, None]
    padded = torch.cat([ids, torch.zeros(7, 1, dtype=torch.long)])
    # All are masked, so that the masks are the same
    monkeypatch.setattr(trained.configs.valid_mlm, 'masking_prob', 1.)
    monkeypatch.setattr(trained.configs.valid_mlm, 'randomize_prob', 0.)
    monkeypatch.setattr(trained.configs.valid_mlm, 'no_change_prob', 0.)
    alone = evaluate(trained, [ids], is_pseudo=True)
    object.__setattr__(trained.configs, '_Configs__cached', {**trained.configs._Configs__cached, 'is_padded': True})
    try:
        assert evaluate(trained, [padded], is_pseudo=True) == pytest.approx(alone, rel=1e-4)
    finally:
        trained.configs._Configs__cached['is_padded'] = False


def test_evaluation_of_a_model_that_has_diverged(run):
    trained = labml_mlm.load(run)
    with torch.no_grad():
        trained.model.generator.projection.weight.mul_(1e6)
    assert evaluate(trained, [torch.randint(5, 20, (16, 4))]).perplexity == math.inf


def test_nothing_to_mask(fill_mask):
    with pytest.raises(UserError, match='no token that can be masked'):
        evaluate(fill_mask.pretrained, [torch.ones(4, 2, dtype=torch.long)])


def test_evaluate_command(command, trained):
    (trained.path / 'other.txt').write_text('the lazy fox, über\n' * 20)
    code, out, err = command('evaluate', 'feed', '--text', 'other.txt', '--text', 'text.txt', '--pseudo')
    assert code == 0, err
    assert err.startswith('Using ')
    lines = out.splitlines()
    assert re.fullmatch(r'9,182 tokens, 1,\d\d\d of them masked; 40 are not in the vocabulary', lines[0])
    assert lines[1].split() == ['loss', 'accuracy', 'perplexity']
    assert lines[2].startswith('model') and lines[3].startswith('unigram')
    assert re.fullmatch(r'Pseudo-perplexity \d+\.\d{3}', lines[4])


def test_evaluate_command_on_what_is_no_text(command):
    assert_refused(command('evaluate', 'feed', '--text', 'none.txt'), 'none.txt cannot be read: No such file')


def test_evaluation_keeps_tokens_in_the_project_of_the_run(command, trained, data_path, monkeypatch, tmp_path):
    """Wherever one stands, and whatever project labml is in."""
    shutil.rmtree(trained.path / 'data/tokens')
    monkeypatch.chdir(tmp_path)
    code, out, _ = command('evaluate', str(trained.runs[0]))
    assert code == 0 and 'unigram' in out and 'Using' not in out
    assert list((trained.path / 'data/tokens').glob('*.tokens'))
    assert not list(data_path.iterdir())


def test_evaluation_of_packed_texts_and_json_lines(command, trained, tmp_path):
    text = trained.text.read_bytes()
    (tmp_path / 'a.txt').write_bytes(text)
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress(text))
    (tmp_path / 'a.jsonl').write_text(json.dumps({'text': text.decode()}))
    results = [command('evaluate', 'feed', '--text', str(tmp_path / name))[1]
               for name in ('a.txt', 'a.txt.gz', 'a.jsonl')]
    assert 'unigram' in results[0] and len(set(results)) == 1


def test_evaluate_when_the_runs_text_has_changed(command, trained):
    text = trained.text.read_text()
    trained.text.write_text(text.replace('lazy', 'laxy'))
    try:
        assert_refused(command('evaluate', 'feed'), 'this is another text than the run has')
    finally:
        trained.text.write_text(text)


def test_runs_command(command, run):
    code, out, _ = command('runs')
    header, *rows = (line.split() for line in out.splitlines())
    assert header == ['uuid', 'name', 'started', 'step', 'loss.valid', 'accuracy.valid', 'status']
    [row] = [row for row in rows if row[0] == 'feed']
    values = values_of(run / 'log.jsonl')
    assert row[1] == 'test' and row[-1] == 'completed'
    assert row[4] == f'{values["loss.train"][-1][0]:,}'
    best, step = min((loss, step) for step, loss in values['loss.valid'])
    assert row[5:7] == [f'{best:.4f}', f'{dict(values["accuracy.valid"])[step]:.4f}']
    [described] = [d for d in json.loads(command('runs', '--json')[1]) if d['uuid'] == 'feed']
    assert (described['loss.valid'], described['status']) == (best, 'completed')


def test_runs_of_another_folder(command, tmp_path):
    assert_refused(command('runs', '--path', str(tmp_path)),
                   f'{tmp_path} is in no labml project: there is no .labml.yaml in it or above it')
    # labml takes the folder of a script for the project then
    (tmp_path / 'logs').mkdir()
    assert command('runs', '--path', str(tmp_path)) == (0, f'There is no run in {tmp_path}/logs yet\n', '')
    (tmp_path / '.labml.yaml').write_text('')
    assert command('runs', '--path', str(tmp_path)) == (0, f'There is no run in {tmp_path}/logs yet\n', '')
    assert_refused(command('fill-mask', 'last', '[MASK]', '--path', str(tmp_path)), 'there is no run in ')
    (tmp_path / '.labml.yaml').write_text('experiments_paht: runs\n')
    assert_refused(command('runs', '--path', str(tmp_path)), 'Unknown config parameter #experiments_paht')


def test_fill_mask_command(command, run):
    code, out, err = command('fill-mask', 'feed', 'the qu[MASK]ck br[MASK]wn', '--top', '2')
    assert (code, err.count('\n')) == (0, 1)
    assert err.startswith(f'Using {run}/checkpoints/')
    assert re.fullmatch(r"the quick brown\n {5}'i' [01]\.\d{3}  '.*' 0\.\d{3}\n {5}'o' [01]\.\d{3}  '.*' 0\.\d{3}\n",
                        out)


def test_fill_mask_command_with_a_long_text(command):
    code, out, err = command('fill-mask', 'feed', 'the quick ' * 5 + '[MASK]')
    assert (code, err.count('Note: a text has 51 tokens, and the model was trained on 16 at a time')) == (0, 1)
    assert 'Note' not in command('fill-mask', 'feed', 'the quick ' * 3 + '[MASK]')[2]


def test_fill_mask_command_with_json(command):
    code, out, _ = command('fill-mask', 'feed', 'qu[MASK]ck', '--json', '--top', '1')
    result = json.loads(out)
    assert (result['text'], result['filled']) == ('qu[MASK]ck', 'quick')
    assert result['masks'][0][0]['token'] == 'i' and 0 < result['masks'][0][0]['probability'] <= 1


def test_fill_mask_command_with_lines(command):
    lines = ''.join(f'{"the " * (i % 7)}qu[MASK]ck\n' for i in range(600))
    code, out, _ = command('fill-mask', 'feed', '--json', lines=lines)
    results = [json.loads(line) for line in out.splitlines()]
    assert [result['text'] for result in results] == lines.splitlines()


@pytest.mark.parametrize('arguments, lines, message', [
    (['feed', 'the quick'], None, "there is no [MASK] in 'the quick'"),
    (['feed', 'É [MASK]'], None, "the model does not know 'É'"),
    (['feed'], '\n[MASK]\n', "line 1: there is no [MASK] in ''"),
    (['feed', 'the', 'qu[MASK]ck'], None, 'the text has to be one argument: put it in quotes'),
    (['qu[MASK]ck'], None, "the run comes before the text: labml-mlm fill-mask RUN 'qu[MASK]ck'"),
    (['feed', '\udcff[MASK]'], None, 'the text is not UTF-8'),
    (['', '[MASK]'], None, 'the name of the run is empty'),
    (['feed'], '', 'there is no text: give one with [MASK] in it'),
    (['faed', '[MASK]'], None, 'there is no run faed in '),
    (['feed', '[MASK]', '--checkpoint', 'first'], None, 'the run feed has no checkpoint first: it has '),
    (['feed', '[MASK]', '--top', '0'], None, 'it has to be a whole number, at least 1'),
    (['feed', '[MASK]', '--tops', 'x'], None, 'unrecognized arguments: --tops x'),
])
def test_what_the_fill_mask_command_refuses(command, arguments, lines, message):
    assert_refused(command('fill-mask', *arguments, lines=lines), message)


def test_lines_before_the_first_that_cannot_be_filled_in(command):
    code, out, err = command('fill-mask', 'feed', '--json', lines='qu[MASK]ck\n' * 300 + 'the\nqu[MASK]ck\n')
    assert (code, out.count('quick')) == (2, 300)
    assert err.splitlines()[-1] == "line 301: there is no [MASK] in 'the'"


def test_bytes_that_are_no_text(trained):
    result = subprocess.run([Path(sys.executable).parent / 'labml-mlm', 'fill-mask', 'feed'], cwd=trained.path,
                            input=b'[MASK] \xff\n', capture_output=True)
    assert result.returncode == 2 and result.stderr.endswith(b'standard input is not UTF-8 text\n')


@pytest.mark.parametrize('arguments', [[], ['fil-mask'], ['runs', 'feed']])
def test_wrong_commands(command, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, '')
    assert 'usage: labml-mlm' in err


def test_the_command_is_installed(trained):
    result = subprocess.run([Path(sys.executable).parent / 'labml-mlm', 'runs'], cwd=trained.path, capture_output=True,
                            text=True)
    assert (result.returncode, result.stderr) == (0, '')
    assert 'feed' in result.stdout
    # Without torch, it is there at once
    code = 'import sys, labml_mlm.__main__ as m; m.main(["runs"]); print("torch" in sys.modules)'
    result = subprocess.run([sys.executable, '-c', code], cwd=trained.path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == 'False'


def test_the_reader_goes(trained):
    command = f'{Path(sys.executable).parent}/labml-mlm runs | true; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(['bash', '-c', command], cwd=trained.path, capture_output=True, text=True)
    assert result.stderr == '' and result.returncode in (0, 1)


def test_loading_beside_a_run_that_removes_checkpoints(run, tmp_path, monkeypatch):
    """What was chosen is gone before it is read; newer ones are there."""
    import shutil
    copied = tmp_path / 'feed'
    shutil.copytree(run, copied)
    folders = CheckpointFolder(copied / 'checkpoints').steps()
    last = list(folders)[-1]
    hidden = (copied / 'checkpoints' / str(last)).rename(tmp_path / 'hidden')
    tensors = checkpoint.Checkpoint.tensors
    gone = []

    def remove_and_read(self, name):
        if not gone:
            gone.append(self.step)
            hidden.rename(copied / 'checkpoints' / str(last))
            remove(self.path)
        return tensors(self, name)

    monkeypatch.setattr(checkpoint.Checkpoint, 'tensors', remove_and_read)
    assert labml_mlm.load(copied, which='last').checkpoint.step == last
    assert gone and gone[0] != last


def test_parts_of_ones_own(trained, fork_server):
    """An attention of one's own is found where it is registered, and its lack is said."""
    (trained.path / 'own.py').write_text('''
from labml.configs import option
from labml_nn.transformers import TransformerConfigs

from labml_mlm import MLMConfigs, MLMTransformerConfigs, train
from labml_mlm.model.attention import SDPA
from labml_mlm.configs.mlm import _transformer as mlm


class OwnConfigs(MLMConfigs):
    # Of no use
    own: int = 3
    transformer: MLMTransformerConfigs = 'thin'


@option(OwnConfigs.transformer, 'thin')
def _thin(c: OwnConfigs) -> MLMTransformerConfigs:
    conf = mlm(c)
    conf.set_default(MLMTransformerConfigs.n_heads, 4)
    conf.set_default(MLMTransformerConfigs.n_layers, 2)
    return conf


@option(OwnConfigs.text, 'own')
def _own():
    return open('text.txt').read()


@option(TransformerConfigs.encoder_attn, 'mine')
def _mine(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout)


if __name__ == '__main__':
    train(OwnConfigs(), name='test')
''')
    script, trained.script = trained.script, trained.path / 'own.py'
    try:
        small = ['text=own', 'd_model=16', 'epochs=1', 'own=4', 'seq_len=16', 'batch_size=16', 'n_prompts=0']
        result = trained.run(*small, 'transformer.encoder_attn=mine', env={'RUN_UUID': 'own'})
        assert trained.run(*small, env={'RUN_UUID': 'thin'}).returncode == 0
    finally:
        trained.script = script
    assert result.returncode == 0, result.stderr
    with pytest.raises(UserError, match='the run has transformer.encoder_attn=mine, which is not known here: import'):
        labml_mlm.load(trained.path / 'logs/test/own')
    # What a default of one's own has made is built without it, too
    thin = labml_mlm.load(trained.path / 'logs/test/thin')
    assert (thin.configs.transformer.n_layers, thin.configs.transformer.n_heads) == (2, 4)
    with pytest.raises(UserError, match='the run was validated on text=own, which is not known here: give anoth'):
        thin.validation_batches()
    code = '''
import own, labml_mlm
loaded = labml_mlm.load('own', configs=own.OwnConfigs())
print(loaded.configs.own, loaded.encode('the fox').shape, loaded.configs.transformer.n_layers,
      len(loaded.validation_batches()))
'''
    result = subprocess.run([sys.executable, '-c', code], cwd=trained.path, capture_output=True, text=True)
    assert result.stdout == '4 torch.Size([1, 16]) 2 1\n', result.stderr
