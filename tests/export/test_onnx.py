"""Files in ONNX, run by onnxruntime."""
import builtins
import copy
import logging
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from labml_mlm.common.errors import UserError
from labml_mlm.export import onnx as exporter
from labml_mlm.export.onnx import export_onnx
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.runs.checkpoint import Checkpoint

onnx = pytest.importorskip('onnx', reason="the extra `onnx` is not installed: pip install 'labml_mlm[onnx]'")
onnxruntime = pytest.importorskip('onnxruntime', reason="the extra `onnx` is not installed")
pytest.importorskip('onnxscript', reason="the extra `onnx` is not installed")

SMALL = {'transformer.max_positions': 40, 'transformer.d_ff': 24}


@pytest.fixture
def make(build, tmp_path):
    """A small model of some configs, as it is loaded from a run."""
    def make(**values):
        conf = build(**values)
        model = conf.model.eval()
        checkpoint = Checkpoint(tmp_path / 'logs/test/feed/checkpoints/100', {})
        return Pretrained(model=model, tokenizer=conf.tokenizer, configs=conf, checkpoint=checkpoint, about='')
    return make


def run(path: Path, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`[batch_size, seq_len]` to `[batch_size, seq_len, …]`."""
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    [output] = session.run(None, {'input_ids': ids.numpy(), 'attention_mask': mask.numpy()})
    return torch.from_numpy(output)


@pytest.mark.parametrize('values, lengths', [
    ({}, [1, 2, 16, 17, 32]),
    ({'transformer': 'bert', **SMALL}, [1, 2, 16, 17, 32]),
    ({'transformer': 'roberta', **SMALL, 'transformer.max_positions': 21}, [1, 2, 16, 17, 21]),
    ({'transformer': 'modernbert', 'transformer.local_attention': 8, 'transformer.n_layers': 3}, [1, 2, 16, 17, 32]),
    ({'transformer.encoder_attn': 'relative'}, [1, 2, 16, 17, 32]),
    ({'transformer.encoder_attn': 'mha', 'transformer.ffn.glu_variant': 'SwiGLU'}, [1, 2, 16, 17, 32])])
def test_the_file_has_the_logits_of_the_model(make, tmp_path, capfd, values, lengths):
    trained, path = make(**values), tmp_path / 'model.onnx'
    capfd.readouterr()
    for parameter in trained.model.parameters():
        # Relative positions are 0 at the beginning
        nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    lines = export_onnx(trained, path)
    assert capfd.readouterr() == ('', '')
    assert [int(re.search(r'^length (\d+): logits', line)[1]) for line in lines] \
        == lengths
    # Other sizes than those that were tried
    n = lengths[-1] - 1
    ids, mask = torch.randint(trained.configs.n_tokens, (4, n)), torch.ones(4, n, dtype=torch.long)
    mask[1, 5:], mask[2, 1:] = 0, 0
    with torch.no_grad():
        expected = trained.model.predict(ids.T, padding_mask=mask.T == 0).transpose(0, 1)
    found = run(path, ids, mask)
    torch.testing.assert_close(found[mask == 1], expected[mask == 1], rtol=0, atol=1e-5)
    # What is in place of padding changes nothing
    torch.testing.assert_close(run(path, ids.where(mask == 1, 3), mask)[mask == 1], found[mask == 1], rtol=0, atol=1e-6)

    longest, ids = trained.model.max_seq_len, torch.randint(trained.configs.n_tokens, (1, 300))
    says = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert says.get('max_length') == (None if longest == math.inf else str(longest))
    if longest < 300:
        # An error, and not a result
        with pytest.raises(Exception, match='out of data bounds'):
            run(path, ids[:, :longest + 1], torch.ones(1, longest + 1, dtype=torch.long))
    else:
        with torch.no_grad():
            expected = trained.model.predict(ids.T).transpose(0, 1)
        torch.testing.assert_close(run(path, ids, torch.ones_like(ids)), expected, rtol=0, atol=1e-4)


def test_encoder_alone_and_what_the_file_says(make, tmp_path):
    trained, path = make(), tmp_path / 'encoder.onnx'
    path.write_text('what was there before')
    before = copy.deepcopy(trained.model.state_dict())
    caches = [len(layer.self_attn.rope_cache) for layer in trained.model.encoder.layers]
    lines = export_onnx(trained, path, is_encoder=True)
    assert all('last_hidden_state of onnxruntime' in line for line in lines)
    # The model is as it was
    assert [len(layer.self_attn.rope_cache) for layer in trained.model.encoder.layers] == caches
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())

    ids = torch.randint(trained.configs.n_tokens, (2, 9))
    with torch.no_grad():
        expected = trained.model.encode(ids.T).transpose(0, 1)
    torch.testing.assert_close(run(path, ids, torch.ones_like(ids)), expected, rtol=0, atol=1e-5)
    model = onnx.load(path)
    assert model.producer_name == 'labml_mlm'
    assert {p.key: p.value for p in model.metadata_props} == {
        'run': 'feed', 'n_tokens': str(trained.configs.n_tokens), 'padding_token': str(trained.configs.padding_token),
        'mask_token': str(trained.configs.mask_token)}
    for put in model.graph.input:
        assert [dim.dim_param for dim in put.type.tensor_type.shape.dim] == ['batch', 'length']
    assert [put.name for put in model.graph.output] == ['last_hidden_state']
    # Nothing of the machine that it was made on
    assert str(Path(exporter.__file__).parents[2]).encode() not in path.read_bytes()
    assert [p.name for p in tmp_path.glob('*encoder.onnx*')] == ['encoder.onnx']


def test_a_difference_leaves_what_was_there(make, tmp_path, monkeypatch):
    trained, path = make(), tmp_path / 'model.onnx'
    path.write_text('what was there before')
    files = sorted(tmp_path.iterdir())
    convert = exporter._convert

    def with_other_weights(module, **kwargs):
        other = copy.deepcopy(module)
        with torch.no_grad():
            other.model.generator.projection.bias[3] += 1e-3
        return convert(other, **kwargs)

    monkeypatch.setattr(exporter, '_convert', with_other_weights)
    with pytest.raises(UserError, match='the file differs from the model: logits by 0.001 at length 1, where 0.0001'):
        export_onnx(trained, path)
    assert path.read_text() == 'what was there before'
    assert sorted(tmp_path.iterdir()) == files


def test_weights_that_are_not_finite_are_no_success(make, tmp_path):
    trained = make()
    nn.init.constant_(trained.model.generator.projection.bias, float('nan'))
    with pytest.raises(UserError, match='logits by nan'):
        export_onnx(trained, tmp_path / 'model.onnx')
    assert not (tmp_path / 'model.onnx').exists()


class Unwritable(nn.Module):
    """Embeddings with a function that ONNX does not have, or with a decision by the data."""

    def __init__(self, n_tokens: int, is_decided: bool):
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, 16)
        self.is_decided = is_decided

    def forward(self, x):
        if self.is_decided and x.sum() > 5:
            return -self.tokens(x)
        return self.tokens(x) if self.is_decided else torch.special.bessel_j0(self.tokens(x))


@pytest.mark.parametrize('is_decided, message', [(True, 'data-dependent'), (False, 'bessel_j0')])
def test_a_model_that_cannot_be_written_is_refused_in_one_line(make, tmp_path, capfd, is_decided, message):
    trained = make()
    trained.model.src_embed = Unwritable(trained.configs.n_tokens, is_decided)
    capfd.readouterr()
    with pytest.raises(UserError, match=f'this model cannot be written in ONNX: .*{message}') as caught:
        export_onnx(trained, tmp_path / 'model.onnx')
    assert '\n' not in str(caught.value)
    assert capfd.readouterr() == ('', '')
    assert not (tmp_path / 'model.onnx').exists()
    assert logging.getLogger('torch').isEnabledFor(logging.ERROR)


def test_bad_paths_and_missing_packages_are_refused(make, tmp_path, monkeypatch):
    trained = make()
    with pytest.raises(UserError, match='model.pt: the name of a file in ONNX ends with .onnx'):
        export_onnx(trained, tmp_path / 'model.pt')
    with pytest.raises(UserError, match='there is no folder .*nowhere'):
        export_onnx(trained, tmp_path / 'nowhere/model.onnx')
    monkeypatch.setattr(exporter, '_MAX_BYTES', 1000)
    with pytest.raises(UserError, match='and a file in ONNX less than 1,000'):
        export_onnx(trained, tmp_path / 'model.onnx')
    found = builtins.__import__

    def without_onnxruntime(name, *args, **kwargs):
        if name == 'onnxruntime':
            raise ImportError(f'No module named {name!r}')
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_onnxruntime)
    with pytest.raises(UserError, match=r"needs onnx, onnxscript and onnxruntime .*pip install 'labml_mlm\[onnx\]'"):
        export_onnx(trained, tmp_path / 'model.onnx')
