"""Loading trained models."""
import re
import shutil
import subprocess
import sys

import pytest
import torch

import labml_mlm
from labml_mlm import FillMask, MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint_folder import CheckpointFolder, remove


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
    with pytest.raises(UserError, match="pooling='meen': it must be mean, cls or none. Did you mean `mean`?"):
        trained.encode(texts, pooling='meen')
    with pytest.raises(UserError, match='the text is empty'):
        trained.encode(['a', ''])
    with pytest.raises(UserError, match="does not know 'X'"):
        trained.encode('X')


def test_load_has_no_side_effects(run, capsys):
    state = torch.get_rng_state()
    trained = labml_mlm.load(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr() == ('', '')
    assert not trained.model.training
    assert trained.configs.seq_len == 16
    assert trained.configs.transformer.n_layers == 2
    assert MLMConfigs().seq_len == 32


def test_load_does_not_need_the_text(trained, run, tmp_path):
    copied = tmp_path / 'copied'
    shutil.copytree(next(iter(CheckpointFolder(run / 'checkpoints').steps().values())), copied)
    text = trained.text.read_bytes()
    trained.text.unlink()
    try:
        assert FillMask.load(copied)('qu[MASK]ck').filled == 'quick'
    finally:
        trained.text.write_bytes(text)


def test_which_selects_the_checkpoint(run):
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


def test_damaged_checkpoint_is_skipped(run, tmp_path):
    copied = tmp_path / 'feed'
    shutil.copytree(run, copied)
    *_, before, last = CheckpointFolder(copied / 'checkpoints').steps().values()
    (last / 'model.safetensors').write_bytes(b'')
    loaded = labml_mlm.load(copied, which='last')
    assert loaded.checkpoint.path == before
    assert re.fullmatch(rf'{before}, the last intact one: .*/model.safetensors has 0 bytes, .*', loaded.about)
    for path in copied.glob('checkpoints/*/checkpoint.json'):
        path.write_text('{}')
    with pytest.raises(UserError, match='no checkpoint of the run feed can be used: '):
        labml_mlm.load(copied)
    shutil.rmtree(copied / 'checkpoints')
    with pytest.raises(UserError, match='the run feed has no checkpoint yet'):
        labml_mlm.load(copied)


def test_load_while_a_run_removes_checkpoints(run, tmp_path, monkeypatch):
    """The chosen checkpoint is removed before it is read, and there is a newer one."""
    copied = tmp_path / 'feed'
    shutil.copytree(run, copied)
    folders = CheckpointFolder(copied / 'checkpoints').steps()
    last = list(folders)[-1]
    hidden = (copied / 'checkpoints' / str(last)).rename(tmp_path / 'hidden')
    load_tensors = checkpoint.Checkpoint.load_tensors
    gone = []

    def remove_and_read(self, name):
        if not gone:
            gone.append(self.step)
            hidden.rename(copied / 'checkpoints' / str(last))
            remove(self.path)
        return load_tensors(self, name)

    monkeypatch.setattr(checkpoint.Checkpoint, 'load_tensors', remove_and_read)
    assert labml_mlm.load(copied, which='last').checkpoint.step == last
    assert gone and gone[0] != last


def test_custom_options_and_configs(trained):
    """A custom attention is found where it is registered; elsewhere the error names it."""
    (trained.path / 'custom.py').write_text('''
from labml.configs import option
from labml_nn.transformers import TransformerConfigs

from labml_mlm import MLMConfigs, MLMTransformerConfigs, train
from labml_mlm.configs.model import _transformer as mlm
from labml_mlm.model.attention import SDPA


class CustomConfigs(MLMConfigs):
    width: int = 3
    transformer: MLMTransformerConfigs = 'thin'


@option(CustomConfigs.transformer, 'thin')
def _thin(c: CustomConfigs) -> MLMTransformerConfigs:
    conf = mlm(c)
    conf.set_default(MLMTransformerConfigs.n_heads, 4)
    conf.set_default(MLMTransformerConfigs.n_layers, 2)
    return conf


@option(CustomConfigs.text, 'custom')
def _custom():
    return open('text.txt').read()


@option(TransformerConfigs.encoder_attn, 'mine')
def _mine(c: TransformerConfigs):
    return SDPA(c.n_heads, c.d_model, c.dropout)


if __name__ == '__main__':
    train(CustomConfigs(), name='test')
''')
    script, trained.script = trained.script, trained.path / 'custom.py'
    try:
        small = ['text=custom', 'd_model=16', 'epochs=1', 'width=4', 'seq_len=16', 'batch_size=16', 'n_prompts=0']
        result = trained.run(*small, 'transformer.encoder_attn=mine', env={'RUN_UUID': 'custom'})
        assert trained.run(*small, env={'RUN_UUID': 'thin'}).returncode == 0
    finally:
        trained.script = script
    assert result.returncode == 0, result.stderr
    with pytest.raises(UserError, match='the run has transformer.encoder_attn=mine, which is unknown here: import'):
        labml_mlm.load(trained.path / 'logs/test/custom')
    # A model with custom defaults is built even where they are not registered
    thin = labml_mlm.load(trained.path / 'logs/test/thin')
    assert (thin.configs.transformer.n_layers, thin.configs.transformer.n_heads) == (2, 4)
    with pytest.raises(UserError, match='the run was validated on text=custom, which is unknown here: give anoth'):
        thin.validation_batches()
    code = '''
import custom, labml_mlm
loaded = labml_mlm.load('custom', configs=custom.CustomConfigs())
print(loaded.configs.width, loaded.encode('the fox').shape, loaded.configs.transformer.n_layers,
      len(loaded.validation_batches()))
'''
    result = subprocess.run([sys.executable, '-c', code], cwd=trained.path, capture_output=True, text=True)
    assert result.stdout == '4 torch.Size([1, 16]) 2 1\n', result.stderr


def test_a_model_far_larger_than_its_weights_is_refused(run, tmp_path):
    """Its metadata asks for 10^12 numbers and more, and says that it is intact."""
    at = tmp_path / '1'
    shutil.copytree(next(iter(CheckpointFolder(run / 'checkpoints').steps().values())), at)
    metadata = checkpoint.read(at).metadata
    metadata['configs']['computed'] |= {'d_model': 10 ** 6, 'transformer.d_model': 10 ** 6}
    (at / 'checkpoint.json').write_text(checkpoint._with_sha256(metadata))
    with pytest.raises(UserError, match=r'ask for a model of .* numbers or more, and there are weights of'):
        labml_mlm.load(at, device='cpu')
