import json
import os

import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint import Damaged


def test_read_returns_what_was_written(folder, write):
    write(folder, 12, value=0.1)
    found = checkpoint.read(folder.path / '12')
    found.verify()
    assert (found.step, found.metadata['note'], found.valid) == (12, [12, None, 0.1], None)
    model, optimizer = found.load_tensors('model'), found.load_tensors('optimizer')
    assert torch.equal(model['w'], torch.full((3, 2), 0.1)) and model['n'].item() == 7
    assert optimizer['m'].dtype == torch.bfloat16
    assert os.listdir(folder.path) == ['12']
    assert sorted(os.listdir(folder.path / '12')) == ['checkpoint.json', 'model.safetensors', 'optimizer.safetensors']


def test_file_modes_follow_the_umask(folder, write):
    old_mask = os.umask(0o022)
    try:
        write(folder, 1)
    finally:
        os.umask(old_mask)
    assert {path.stat().st_mode & 0o777 for path in (folder.path / '1').iterdir()} == {0o644}


def test_edited_metadata_is_detected(folder, write):
    write(folder, 1, loss=2.)
    path = folder.path / '1' / 'checkpoint.json'
    path.write_text(path.read_text().replace('2.0', '1.0'))
    with pytest.raises(Damaged, match='was altered'):
        checkpoint.read(folder.path / '1')


@pytest.mark.parametrize('text', ['[]', '{}', 'null', '3', '{"sha256": null}', '\x00'])
def test_file_that_is_not_a_checkpoint(folder, text):
    (folder.path / '1').mkdir(parents=True)
    (folder.path / '1' / 'checkpoint.json').write_text(text)
    with pytest.raises(Damaged):
        checkpoint.read(folder.path / '1')
    assert folder.last()[0] is None


def test_newer_format_is_refused(folder, write, monkeypatch):
    monkeypatch.setattr(checkpoint, 'FORMAT', 2)
    write(folder, 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match='has format 2, and this labml_mlm reads formats up to 1'):
        checkpoint.read(folder.path / '1')


def test_nothing_is_unpickled(folder, write, monkeypatch):
    """A checkpoint from a stranger cannot execute code."""
    write(folder, 1)

    def forbidden(*_, **__):
        raise AssertionError('unpickled')

    for name in ('load', 'loads', 'Unpickler'):
        monkeypatch.setattr(f'pickle.{name}', forbidden)
    monkeypatch.setattr(torch, 'load', forbidden)
    found = checkpoint.read(folder.path / '1')
    found.verify()
    assert set(found.load_tensors('model')) == {'w', 'n'}
    assert json.loads((folder.path / '1/checkpoint.json').read_text())['format'] == 1
