import contextlib
import json
import os
import shutil

import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.runs import checkpoint
from labml_mlm.runs.checkpoint import Damaged
from labml_mlm.runs.checkpoint_folder import CheckpointFolder, remove


def write(folder, step, loss=None, value=1.):
    CheckpointFolder(folder).write(step, tensors={'model': {'w': torch.full((3, 2), value), 'n': torch.tensor(7)},
                                            'optimizer': {'m': torch.tensor([value], dtype=torch.bfloat16)}},
                     metadata={'note': [step, None, 0.1], 'valid': None if loss is None else {'loss': loss}})


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'run' / 'checkpoints'


def test_what_is_read_is_what_was_written(folder):
    write(folder, 12, value=0.1)
    found = checkpoint.read(folder / '12')
    found.check()
    assert (found.step, found.metadata['note'], found.valid) == (12, [12, None, 0.1], None)
    model, optimizer = found.tensors('model'), found.tensors('optimizer')
    assert torch.equal(model['w'], torch.full((3, 2), 0.1)) and model['n'].item() == 7
    assert optimizer['m'].dtype == torch.bfloat16
    assert visible(folder) == ['12']
    assert visible(folder / '12') == ['checkpoint.json', 'model.safetensors', 'optimizer.safetensors']


def test_files_have_the_mode_that_the_umask_gives(folder):
    old_mask = os.umask(0o022)
    try:
        write(folder, 1)
    finally:
        os.umask(old_mask)
    assert {path.stat().st_mode & 0o777 for path in (folder / '1').iterdir()} == {0o644}


def test_a_second_save_of_a_step_replaces_the_first(folder):
    write(folder, 5)
    write(folder, 5, loss=1.)
    assert checkpoint.read(folder / '5').valid == {'loss': 1.}
    assert visible(folder) == ['5']


class Killed(BaseException):
    """Stands for a kill: nothing of the save runs after it."""


# What a save does to the disk, in the names of the functions of `os` and `shutil` that do it, is stopped before each
def stop_at(monkeypatch, n):
    """Stops the process, so to speak, before the n-th change of the disk. Returns the list of changes so far."""
    done = []
    is_dead = []

    def wrap(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            if is_dead or len(done) == n:
                is_dead.append(True)
                raise Killed
            done.append(f'{name} {args[0]}')
            return original(*args, **kwargs)
        monkeypatch.setattr(module, name, call)

    for module, name in ((os, 'rename'), (os, 'fsync'), (shutil, 'rmtree'), (os, 'mkdir')):
        wrap(module, name)
    return done


@pytest.mark.parametrize('is_again', [False, True])
def test_a_kill_at_any_change_of_the_disk_leaves_a_complete_checkpoint(tmp_path, monkeypatch, is_again):
    """Of two steps, or of the same step twice."""
    n_changes = []
    for n in range(100):
        folder = tmp_path / str(n) / 'checkpoints'
        write(folder, 1, value=1.)
        with monkeypatch.context() as patch:
            done = stop_at(patch, n)
            try:
                write(folder, 1 if is_again else 2, value=2.)
                n_changes.append(len(done))
            except Killed:
                pass
        # As somebody finds it who only looks
        found, wrong = CheckpointFolder(folder).last()
        assert wrong == []
        assert found.tensors('model')['w'][0, 0] == (2. if found.step == 2 else found.tensors('optimizer')['m'][0])
        before = found.step, found.tensors('model')['w'][0, 0].item()
        # And as the next start of the run leaves it
        CheckpointFolder(folder).recover()
        found, wrong = CheckpointFolder(folder).last()
        assert wrong == [] and (found.step, found.tensors('model')['w'][0, 0].item()) == before
        assert all(name.isdecimal() for name in visible(folder))
        write(folder, 3)
        assert CheckpointFolder(folder).last()[0].step == 3
        if n_changes:
            break
    assert n > 5
    assert before == ((1, 2.) if is_again else (2, 2.))


@pytest.mark.parametrize('name', ['model.safetensors', 'optimizer.safetensors', 'checkpoint.json'])
@pytest.mark.parametrize('damage', ['cut', 'altered', 'empty', 'missing'])
def test_damage_is_seen_and_the_one_before_is_used(folder, name, damage):
    write(folder, 1)
    write(folder, 2)
    path = folder / '2' / name
    data = bytearray(path.read_bytes())
    if damage == 'missing':
        path.unlink()
    else:
        # The 0 of a step or the last bits of a number
        data[-2] ^= 1
        path.write_bytes({'cut': data[:-1], 'altered': data, 'empty': b''}[damage])
    with pytest.raises(Damaged, match=str(path)):
        checkpoint.read(folder / '2').check()
    found, wrong = CheckpointFolder(folder).last()
    assert found.step == 1
    assert len(wrong) == 1 and str(path) in wrong[0]


def test_what_cannot_be_read_is_not_damaged(folder):
    """It may be as it was written: nobody is to pass it over, or to remove it."""
    write(folder, 1)
    write(folder, 2)
    path = folder / '2/model.safetensors'
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f'cannot read {path}: Is a directory') as caught:
        CheckpointFolder(folder).last()
    assert not isinstance(caught.value, Damaged)


def test_what_is_removed_meanwhile_is_not_damaged(folder, monkeypatch):
    for step in (1, 2):
        write(folder, step)
    read = checkpoint.read

    def remove_and_read(path):
        if path.name == '2':
            write(folder, 3)
            remove(path)
        return read(path)

    monkeypatch.setattr(checkpoint, 'read', remove_and_read)
    found, wrong = CheckpointFolder(folder).last()
    assert (found.step, wrong) == (3, [])


def test_all_is_on_the_disk_before_it_is_renamed_and_that_before_anything_is_removed(folder, monkeypatch):
    write(folder, 1)
    events = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

    def note_fsync(handle):
        events.append(('fsync', os.readlink(f'/proc/self/fd/{handle}')))
        fsync(handle)

    def note_rename(source, target):
        events.append(('rename', str(source)))
        rename(source, target)

    def note_rmtree(path, **options):
        events.append(('rmtree', str(path)))
        rmtree(path, **options)

    monkeypatch.setattr(os, 'fsync', note_fsync)
    monkeypatch.setattr(os, 'rename', note_rename)
    monkeypatch.setattr(shutil, 'rmtree', note_rmtree)
    write(folder, 1)
    temporary = str(folder / '.1.tmp')
    renamed = events.index(('rename', temporary))
    for name in ('', '/model.safetensors', '/optimizer.safetensors', '/checkpoint.json'):
        assert events.index(('fsync', temporary + name)) < renamed, name
    # The folder after its files
    assert events.index(('fsync', temporary)) > events.index(('fsync', f'{temporary}/checkpoint.json'))
    removed = events.index(('rmtree', str(folder / '.1.old')), renamed)
    for path in (folder, folder.parent):
        assert renamed < events.index(('fsync', str(path)), renamed) < removed


def test_an_edited_document_is_seen(folder):
    write(folder, 1, loss=2.)
    path = folder / '1' / 'checkpoint.json'
    path.write_text(path.read_text().replace('2.0', '1.0'))
    with pytest.raises(Damaged, match='was altered'):
        checkpoint.read(folder / '1')


@pytest.mark.parametrize('text', ['[]', '{}', 'null', '3', '{"sha256": null}', '\x00'])
def test_what_is_no_checkpoint(folder, text):
    (folder / '1').mkdir(parents=True)
    (folder / '1' / 'checkpoint.json').write_text(text)
    with pytest.raises(Damaged):
        checkpoint.read(folder / '1')
    assert CheckpointFolder(folder).last()[0] is None


def test_a_newer_format(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, 'FORMAT', 2)
    write(folder, 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match='has format 2, and this labml_mlm reads up to 1'):
        checkpoint.read(folder / '1')


def test_no_checkpoints_yet(folder):
    assert CheckpointFolder(folder).last() == (None, [])
    assert CheckpointFolder(folder).best() is None
    assert CheckpointFolder(folder).steps() == {}
    CheckpointFolder(folder).recover()


def test_order_is_that_of_numbers(folder):
    for step in (9, 10, 100):
        write(folder, step)
    (folder / 'notes').mkdir()
    assert list(CheckpointFolder(folder).steps()) == [9, 10, 100]
    assert CheckpointFolder(folder).last()[0].step == 100


def test_the_last_and_the_best_are_kept(folder):
    for step, loss in enumerate([3., 1., None, 2., float('nan'), None, 1.5]):
        write(folder, step, loss=loss)
        CheckpointFolder(folder).prune(keep=2)
    assert visible(folder) == ['1', '5', '6']
    assert CheckpointFolder(folder).best().step == 1
    CheckpointFolder(folder).prune(keep=1)
    assert visible(folder) == ['1', '6']


def test_of_equal_ones_the_later_is_the_best(folder):
    for step in (1, 2):
        write(folder, step, loss=1.)
    assert CheckpointFolder(folder).best().step == 2


@pytest.mark.parametrize('n', range(4))
def test_a_kill_while_old_ones_are_removed(folder, monkeypatch, n):
    for step in (1, 2, 3, 4):
        write(folder, step)
    with monkeypatch.context() as patch:
        stop_at(patch, n)
        with contextlib.suppress(Killed):
            CheckpointFolder(folder).prune(keep=1)
    assert CheckpointFolder(folder).last()[1] == []
    CheckpointFolder(folder).recover()
    for name in visible(folder):
        checkpoint.read(folder / name).check()
    assert '4' in visible(folder)


def test_a_full_disk_leaves_older_checkpoints_as_they_are(small_disk):
    folder = small_disk / 'checkpoints'
    write(folder, 1)
    large = {'model': {'w': torch.zeros(100_000)}, 'optimizer': {'m': torch.zeros(100_000)}}
    with pytest.raises(OSError, match='No space left'):
        CheckpointFolder(folder).write(2, tensors=large, metadata={})
    assert visible(folder) == ['1']
    checkpoint.read(folder / '1').check()
    # And once there is space again
    write(folder, 2)
    assert visible(folder) == ['1', '2']


def test_a_read_only_disk(small_disk):
    folder = small_disk / 'checkpoints'
    write(folder, 1)
    os.system(f'mount -o remount,ro {small_disk}')
    with pytest.raises(OSError, match='Read-only'):
        write(folder, 2)
    assert CheckpointFolder(folder).last()[0].step == 1


def test_nothing_is_unpickled(folder, monkeypatch):
    """A stranger's checkpoint is numbers and text."""
    write(folder, 1)

    def forbidden(*_, **__):
        raise AssertionError('unpickled')

    for name in ('load', 'loads', 'Unpickler'):
        monkeypatch.setattr(f'pickle.{name}', forbidden)
    monkeypatch.setattr(torch, 'load', forbidden)
    found = checkpoint.read(folder / '1')
    found.check()
    assert set(found.tensors('model')) == {'w', 'n'}
    assert json.loads((folder / '1/checkpoint.json').read_text())['format'] == 1
