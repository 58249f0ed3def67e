import hashlib
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


def rewrite(path, **changes):
    """Changes what `checkpoint.json` says, with a right checksum."""
    metadata = json.loads((path / 'checkpoint.json').read_text())
    metadata.pop('sha256')
    (path / 'checkpoint.json').write_text(checkpoint._with_sha256(metadata | changes))


WRITTEN = {'bytes': 1, 'sha256': '0' * 64}


@pytest.mark.parametrize('changes', [
    {'format': None}, {'format': '1'}, {'format': True}, {'step': None}, {'step': -1}, {'step': 'x'}, {'step': 1.5},
    {'files': None}, {'files': []}, {'files': {'model.safetensors': None}}, {'files': {'a': {'bytes': 1}}},
    *({'files': {name: WRITTEN}} for name in ('../../etc/passwd', '/etc/passwd', 'a/b', '..', '.', '', 'a\0b', 'a\nb')),
    {'valid': 5}, {'valid': {}}, {'valid': {'loss': 'x'}}, {'valid': {'loss': 1., 'best_by': 'f1'}},
    {'valid': {'loss': 1., 'best_by': {}}}, {'log_bytes': 'x'}, {'log_bytes': -1}])
def test_metadata_that_no_training_writes_is_damaged(folder, write, changes):
    """Also with a right checksum. The checkpoint before it is used."""
    write(folder, 1)
    write(folder, 2)
    rewrite(folder.path / '2', **changes)
    with pytest.raises(Damaged):
        checkpoint.read(folder.path / '2')
    found, wrong = folder.last()
    assert (found.step, len(wrong)) == (1, 1)
    assert folder.best() is None


@pytest.mark.parametrize('name', ['checkpoint.json', 'model.safetensors'])
@pytest.mark.parametrize('put', [
    lambda path: os.mkfifo(path), lambda path: path.mkdir(), lambda path: path.symlink_to('/dev/zero'),
    lambda path: path.symlink_to(path.parent.parent / '1' / path.name), lambda path: path.symlink_to(path)],
    ids=['pipe', 'folder', 'device', 'link', 'link to itself'])
def test_only_ordinary_files_are_read(folder, write, name, put):
    write(folder, 1)
    write(folder, 2)
    path = folder.path / '2' / name
    path.unlink()
    put(path)
    found, wrong = folder.last()
    assert (found.step, len(wrong)) == (1, 1)
    assert 'it is no ordinary file' in wrong[0]


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000,
                                  '{"sha256": 5, "a": ' + '[' * 900 + ']' * 900 + '}'])
def test_deep_metadata_is_damaged(folder, write, text):
    write(folder, 1)
    (folder.path / '1' / 'checkpoint.json').write_text(text)
    with pytest.raises(Damaged):
        checkpoint.read(folder.path / '1')


def test_file_without_tensors_is_damaged_even_if_its_checksum_is_right(folder, write):
    write(folder, 1)
    path = folder.path / '1' / 'model.safetensors'
    data = path.read_bytes()
    for wrong in (b'', data[:20], b'\xff' * 8 + data[8:], data[:8] + data[8:].replace(b'F32', b'X32'), data[:-1]):
        path.write_bytes(wrong)
        digest = hashlib.sha256(wrong).hexdigest()
        rewrite(folder.path / '1', files={path.name: {'bytes': len(wrong), 'sha256': digest}})
        found = checkpoint.read(folder.path / '1')
        found.verify()
        with pytest.raises(Damaged, match=f'{path} has no tensors that can be read'):
            found.load_tensors('model')


def test_a_file_of_another_size_is_not_read(folder, write, monkeypatch):
    """A hole makes it any size."""
    write(folder, 1)
    path = folder.path / '1' / 'model.safetensors'
    with path.open('ab') as f:
        f.truncate(2 ** 33)
    monkeypatch.setattr(checkpoint.hashlib, 'file_digest', lambda *_: pytest.fail('it is read'))
    with pytest.raises(Damaged, match=f'{path} has 8,589,934,592 bytes, but [0-9]+ were written'):
        checkpoint.read(folder.path / '1').verify()


def test_endless_metadata_is_not_read(folder, write, monkeypatch):
    monkeypatch.setattr(checkpoint, '_MAX_METADATA', 100)
    write(folder, 1)
    with pytest.raises(Damaged, match='more than 100 bytes'):
        checkpoint.read(folder.path / '1')


def test_folder_of_checkpoints_may_be_a_link(folder, write, tmp_path):
    """As on scratch disks."""
    write(folder, 1)
    linked = tmp_path / 'linked'
    linked.symlink_to(folder.path)
    checkpoint.read(linked / '1').verify()
